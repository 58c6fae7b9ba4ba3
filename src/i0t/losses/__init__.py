"""Losses: a pure function and a thin module each.

Every loss takes this rank's unit rows and returns a dict with key ``"loss"`` and its named parts. Under DDP the
negatives are global, the average of the ranks' losses is the loss of the whole batch, and so are the gradients.
"""

from i0t.losses.clip import ClipLoss, clip_loss
from i0t.losses.cyclip import CyClipLoss, cyclip_loss

__all__ = ["ClipLoss", "CyClipLoss", "clip_loss", "cyclip_loss"]
