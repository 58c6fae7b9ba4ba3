"""The colours of figures: Okabe and Ito's, told apart by colour-blind readers too."""

IMAGE_COLOR = "#0072B2"
TEXT_COLOR = "#D55E00"
MATCHED_COLOR = "#009E73"
UNMATCHED_COLOR = "#8A8F98"
SERIES_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#3B3F46", "#8A6D00")
INK = "#24292F"
AXIS_COLOR = "#9AA1AA"
