"""From keyframes to a dense map: depth, consistency, fusion, cloud and mesh; the run and Slam call it."""
