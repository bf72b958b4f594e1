"""Metric depth priors (sensor, files, networks, road plane), built by the factory and called by the odometry through
`DepthPrior`.
"""
