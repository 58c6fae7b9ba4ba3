"""Analyses: what the papers found inside embeddings, as pure functions of them."""
