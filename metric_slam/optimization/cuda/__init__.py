"""Bundle adjustment and its arrays on a CUDA device; called by the solver of `optimization` only."""
