"""The same on a CUDA device; only the modules of `optimization` decide to call it."""
