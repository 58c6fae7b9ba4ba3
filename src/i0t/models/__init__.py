"""Two-tower models around open_clip."""
