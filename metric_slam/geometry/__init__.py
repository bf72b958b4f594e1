"""Cameras, poses, grids and where compiled kernels are found; needs nothing but errors, every folder may call it."""
