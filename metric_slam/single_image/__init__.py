"""Metric depth and distances from single images, or from the map of a run; the command line calls it."""
