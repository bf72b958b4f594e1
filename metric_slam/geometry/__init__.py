"""Lie groups, cameras, triangulation, projection and alignment; every other folder may call it."""
