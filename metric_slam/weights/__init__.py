"""Files of network weights: the registry of released ones, download, verification, reading; for networks and cli."""
