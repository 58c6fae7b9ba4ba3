"""Loggers that need more than a config node."""
