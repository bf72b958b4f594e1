"""Places seen again: recognised, verified, turned into edges and a pose graph; called by slam."""
