"""MAD: images, colours and captions of "Two Effects, One Trigger" (arXiv 2404.07983).

Importing this package imports NumPy, SciPy and scikit-image, but not torch.
"""

from i0t.data.mad_generator.caption_truth import caption_is_true, count_true_pairs, parse_caption, true_caption_pairs
from i0t.data.mad_generator.captions import (
    CAPTION_KINDS,
    caption_codes,
    caption_words,
    draw_caption_factors,
    draw_colors,
    draw_variants,
    num_attributes,
    prompts_mean,
    prompts_object_max,
)
from i0t.data.mad_generator.colorize import colorize
from i0t.data.mad_generator.draws import Draws, draw
from i0t.data.mad_generator.factors import (
    FACTOR_NAMES,
    FACTORS,
    NUM_VARIANTS,
    VARIANT_CODES,
    VARIANTS,
    MorphologyParameters,
    image_codes,
    value_index,
)
from i0t.data.mad_generator.generate import GENERATOR_VERSION, MadImages, generate
from i0t.data.mad_generator.information import IMAGE_BITS, caption_information
from i0t.data.mad_generator.morphology import render_variants
from i0t.data.mad_generator.sources import SOURCES, SPLITS, DigitSource, load_source

__all__ = [
    "CAPTION_KINDS",
    "FACTORS",
    "FACTOR_NAMES",
    "GENERATOR_VERSION",
    "IMAGE_BITS",
    "NUM_VARIANTS",
    "SOURCES",
    "SPLITS",
    "VARIANTS",
    "VARIANT_CODES",
    "DigitSource",
    "Draws",
    "MadImages",
    "MorphologyParameters",
    "caption_codes",
    "caption_information",
    "caption_is_true",
    "caption_words",
    "colorize",
    "count_true_pairs",
    "draw",
    "draw_caption_factors",
    "draw_colors",
    "draw_variants",
    "generate",
    "image_codes",
    "load_source",
    "num_attributes",
    "parse_caption",
    "prompts_mean",
    "prompts_object_max",
    "render_variants",
    "true_caption_pairs",
    "value_index",
]
