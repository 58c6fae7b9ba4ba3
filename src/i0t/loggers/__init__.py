"""Dashboards: Lightning's loggers that also take pictures, histograms, tables and embeddings."""
