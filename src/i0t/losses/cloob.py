"""CLOOB's loss: InfoLOOB on embeddings that were retrieved from a modern Hopfield network.

Shapes: B rows of this rank, N columns (W * B over all W ranks, or B with local negatives), D embedding width.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from i0t.losses.checks import as_loss_rows, check_num_pairs
from i0t.losses.full_product import full_product
from i0t.losses.negatives import Negatives, check_negatives, gather_columns, own_column
from i0t.losses.operators import loob_rows

I0T_INV_TAU = 1 / 0.07


def cloob_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor,
    *,
    logit_bias: Tensor | None = None,
    inv_tau: float = I0T_INV_TAU,
    scale_hopfield: float = 14.3,
    negatives: Negatives = "global",
) -> dict[str, Tensor]:
    r"""Both InfoLOOB losses after Hopfield retrieval, times tau (Fürst et al. 2022, arXiv 2110.11316).

    The stored patterns are the batch itself, images X and texts Y, rows (numbers as in the authors' summary at
    https://ml-jku.github.io/cloob):

    - images retrieved by image i and by text i: u_xi = n(X' softmax(beta X x_i)), u_yi = n(X' softmax(beta X y_i)) (4);
    - texts likewise: v_xi = n(Y' softmax(beta Y x_i)), v_yi = n(Y' softmax(beta Y y_i)) (5), where beta is
      ``scale_hopfield`` and n the normalisation to unit length that the published code adds;
    - the loss (3), where the denominator leaves the pair itself out, so that it does not saturate at matched pairs:
      -1/N sum_i ln [exp(u_xi.u_yi / tau) / sum_{j != i} exp(u_xi.u_yj / tau)]
      -1/N sum_i ln [exp(v_yi.v_xi / tau) / sum_{j != i} exp(v_yi.v_xj / tau)].

    With k_ij = u_xi.u_yj / tau the first line is -mean_i k_ii + mean_i logsumexp_{j != i} k_ij: the sum runs over N - 1
    columns and is not divided by N - 1. The published code multiplies all by tau, which takes 1/tau out of the
    gradients; so does this. It can be negative. The temperature is fixed, as in the papers: the model's is not used.

    Retrieval over all ranks: each rank retrieves for its own rows from the gathered batch, then the retrieved positives
    are gathered. (CLOOB's own code gathers without gradients and so drops those of the other ranks' terms.)

    Args:
        image_features: ``(B, D)`` unit rows of this rank.
        text_features: ``(B, D)`` unit rows, row i belonging to image i.
        logit_scale: ``()``. Not used: it is added zero times, so that the model's parameter finds itself in the graph
            (DDP stops at parameters without gradient). It stays what it was: entropies that use it say little.
        logit_bias: ``()`` or ``None``, the same.
        inv_tau: 1/tau.
        scale_hopfield: beta.
        negatives: ``"global"`` or ``"local"``: the stored patterns and the negatives.

    Returns:
        ``"loss"`` and the two parts that it is the sum of, ``"image"`` (stored images) and ``"text"`` (stored texts),
        tau included: ``()``, means over this rank's rows.

    Raises:
        ValueError: If the shapes differ, there is a single pair, or ranks hold different numbers of rows.

    Example:
        >>> x = torch.eye(2)
        >>> parts = cloob_loss(x, x, torch.tensor(1.0))
        >>> round(parts["loss"].item(), 4)
        -2.0
    """
    with torch.autocast(image_features.device.type, enabled=False):
        image, text = as_loss_rows(image_features, text_features)
        all_image, all_text = gather_columns(image, text, negatives=negatives)
        check_num_pairs(len(all_image), "CLOOB's loss")
        image_by_image, image_by_text = (hopfield_retrieval(rows, all_image, scale_hopfield) for rows in (image, text))
        text_by_image, text_by_text = (hopfield_retrieval(rows, all_text, scale_hopfield) for rows in (image, text))
        positives = gather_columns(image_by_text, text_by_image, negatives=negatives)
        own = own_column(image, negatives)
        scale = image.new_tensor(inv_tau)
        tau_over_rows = 1 / (inv_tau * len(image))
        image_loss = tau_over_rows * loob_rows(image_by_image, positives[0], own, scale)
        text_loss = tau_over_rows * loob_rows(text_by_text, positives[1], own, scale)
        unused = sum(0 * logit.to(image.dtype) for logit in (logit_scale, logit_bias) if logit is not None)
    return {"loss": image_loss + text_loss + unused, "image": image_loss, "text": text_loss}


def hopfield_retrieval(queries: Tensor, patterns: Tensor, scale: float) -> Tensor:
    """One update of a modern Hopfield network, normalised: N(P' softmax(scale P q)) (Ramsauer et al. 2021, Eq. 3).

    Args:
        queries: ``(B, D)``.
        patterns: ``(N, D)`` stored.
        scale: Inverse temperature; the larger, the closer to the nearest pattern.

    Returns:
        ``(B, D)`` unit rows.

    Example:
        >>> hopfield_retrieval(torch.tensor([[0.6, 0.8]]), torch.eye(2), 1000.0)
        tensor([[0., 1.]])
    """
    weights = torch.softmax(full_product(scale * queries, patterns.T), dim=1)
    return F.normalize(full_product(weights, patterns), dim=1)


class CloobLoss(nn.Module):
    """CLOOB's loss, see :func:`cloob_loss`; the defaults are those I0T trains its baseline with.

    **DDP:** with global negatives two all-gathers per step, of features and of retrieved features, with gradients;
    with local ones none, and the average of the ranks' losses is that of W separate batches.

    Args:
        inv_tau: Inverse temperature of the loss (I0T: 1/0.07; Fürst et al.: 30).
        scale_hopfield: Inverse temperature of the retrieval (I0T: 14.3; Fürst et al.: 8).
        negatives: ``"global"``: rows of all ranks are stored patterns and negatives. ``"local"``: each rank's own.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> x = torch.eye(2)
        >>> sorted(CloobLoss()(x, x, torch.tensor(1.0)))
        ['image', 'loss', 'text']
    """

    uses_temperature: ClassVar[bool] = False  # of the model

    def __init__(
        self, inv_tau: float = I0T_INV_TAU, scale_hopfield: float = 14.3, negatives: Negatives = "global"
    ) -> None:
        super().__init__()
        for name, value in {"inv_tau": inv_tau, "scale_hopfield": scale_hopfield}.items():
            if not 0 < value < float("inf"):
                raise ValueError(f"{name} must be a positive number, got {value}")
        check_negatives(negatives)
        self.inv_tau = inv_tau
        self.scale_hopfield = scale_hopfield
        self.negatives = negatives

    def forward(
        self, image_features: Tensor, text_features: Tensor, logit_scale: Tensor, logit_bias: Tensor | None = None
    ) -> dict[str, Tensor]:
        """See :func:`cloob_loss`."""
        return cloob_loss(
            image_features,
            text_features,
            logit_scale,
            logit_bias=logit_bias,
            inv_tau=self.inv_tau,
            scale_hopfield=self.scale_hopfield,
            negatives=self.negatives,
        )
