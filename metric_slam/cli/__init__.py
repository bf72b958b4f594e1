"""The commands of `metric-slam`."""
