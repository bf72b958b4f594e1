"""The map under construction: keyframes, edges between them, submaps; called by odometry and loops."""
