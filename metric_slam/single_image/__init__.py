"""Metric depth of one image and distances measured in it; called by the command line."""
