"""Data modules: images and captions in, batches out."""
