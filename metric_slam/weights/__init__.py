"""Released network weights: which exist, where they lie, whether they are intact; called by networks and commands."""
