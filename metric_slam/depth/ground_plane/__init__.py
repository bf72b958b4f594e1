"""Metric scale from the road and the known height of the camera over it; called by the odometry through
`DepthPrior`.
"""
