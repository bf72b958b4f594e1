"""Reference implementations of the native kernels in torch; called by tests, training and benchmarks only."""
