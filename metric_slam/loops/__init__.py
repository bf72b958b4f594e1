"""Loops: places visited again are recognised, verified and tied together by edges and a pose graph; called by slam."""
