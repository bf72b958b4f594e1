"""Every option of the program: the schema, one section per stage, presets, and how files and settings are resolved.

Imports only metric_slam.errors; every folder may import its own section.
"""
