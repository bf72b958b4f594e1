"""Metric3D: metric depth of one image from a network, with weights that fit the released files; called by the factory,
single_image, evaluation and training.
"""
