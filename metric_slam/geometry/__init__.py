"""Cameras, poses, grids and where compiled kernels are found; needs nothing but errors, everything may call it."""
