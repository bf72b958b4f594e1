"""Metric3D: metric depth of one image from a network, with weights that fit the released files."""
