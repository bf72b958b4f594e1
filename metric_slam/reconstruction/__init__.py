"""From keyframes to a dense map: depth, consistency, fusion, cloud and mesh; called when tracking is done."""
