"""Losses: a pure function and a thin module each.

Every loss takes this rank's unit rows and returns a dict with key ``"loss"`` and its named parts. Under DDP the
negatives are global, the average of the ranks' losses is the loss of the whole batch, and so are the gradients;
``negatives="local"`` makes every rank a batch of its own instead.
"""

from i0t.losses.clip import ClipLoss, clip_loss
from i0t.losses.cloob import CloobLoss, cloob_loss
from i0t.losses.cyclip import CyClipLoss, cyclip_loss
from i0t.losses.long_clip import LongClipLoss, long_clip_loss, principal_reconstruction
from i0t.losses.siglip import SigLipLoss, siglip_loss
from i0t.losses.uniformity_alignment import UniformityAlignmentLoss, uniformity_alignment_loss

__all__ = [
    "ClipLoss",
    "CloobLoss",
    "CyClipLoss",
    "LongClipLoss",
    "SigLipLoss",
    "UniformityAlignmentLoss",
    "clip_loss",
    "cloob_loss",
    "cyclip_loss",
    "long_clip_loss",
    "principal_reconstruction",
    "siglip_loss",
    "uniformity_alignment_loss",
]
