"""``i0t-tables``: the tables of the I0T paper (arXiv 2412.14384), published and measured side by side."""
