"""From frame to frame: tracking, keyframes, the sliding window and its metric scale; called by slam."""
