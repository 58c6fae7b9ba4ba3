"""What a run leaves for its reader: the final table, the figures and one self-contained page."""
