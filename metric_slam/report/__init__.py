"""Writes the report of a finished run as one self-contained HTML page with plots; the run calls it last."""
