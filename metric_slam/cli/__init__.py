"""The commands of `metric-slam`, for its entry point and scripts/ alone; no other code of the package prints."""
