"""Slow, obvious torch versions of the native kernels; only tests and training call them."""
