"""Every option of the program: the schema, one section per stage, and how files and settings are resolved.

Needs nothing but errors; every folder takes its own section from here.
"""
