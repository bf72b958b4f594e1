"""Dense bundle adjustment and the kernels around it; called by graph, odometry and reconstruction."""
