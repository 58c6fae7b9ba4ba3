"""Evaluations: an EmbeddingSet in, numbers out."""
