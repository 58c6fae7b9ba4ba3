"""i0t: measure and close the modality gap of CLIP-like models."""

__version__ = "0.1.0"
