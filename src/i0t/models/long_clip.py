"""Long-CLIP: any CLIP of open_clip whose text positions are stretched from 77 to 248 tokens.

W is the width of the text tower, T the number of texts, L = 248 tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from open_clip.transformer import text_global_pool
from torch import Tensor, nn

from i0t.models.open_clip import OpenClip
from i0t.models.weights import Weights

KEPT = 20  # positions that are well trained in CLIP and stay as they are (Long-CLIP, section 3.1)
FACTOR = 4
CLIP_POSITIONS = 77
POSITIONS = FACTOR * CLIP_POSITIONS - (FACTOR - 1) * KEPT  # 248


def stretch_positions(positions: Tensor, *, kept: int = KEPT, factor: int = FACTOR) -> Tensor:
    """Long-CLIP's knowledge-preserving stretch (Zhang et al. 2024, arXiv 2403.15378, Eq. 2 and its code).

    The first ``kept`` positions stay. Every later one is followed by ``factor - 1`` points on the line to the next;
    behind the last the line from its predecessor goes on.

    Args:
        positions: ``(P, W)`` learnt positions.
        kept: How many are copied.
        factor: How many times longer the rest gets.

    Returns:
        ``(kept + factor * (P - kept), W)``, 248 for P = 77.

    Example:
        >>> stretch_positions(torch.tensor([[5.0], [0.0], [4.0]]), kept=1, factor=4).flatten().tolist()
        [5.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    """
    rest = positions[kept:]
    following = torch.cat([rest[1:], 2 * rest[-1:] - rest[-2:-1]])
    share = torch.arange(factor, dtype=positions.dtype, device=positions.device).view(1, factor, 1) / factor
    between = (1 - share) * rest[:, None] + share * following[:, None]
    return torch.cat([positions[:kept], between.flatten(0, 1)])


class LongClip(OpenClip):
    """An open_clip model that reads 248 tokens, as Long-CLIP (Zhang et al. 2024) and the I0T paper use it.

    The first 20 positions come from ``positional_embedding``, which is never trained, the others from
    ``positional_embedding_res``, which is. Weights of a 77-token CLIP are stretched when loaded; Long-CLIP's own files
    are loaded as they are.

    Arguments are those of :class:`~i0t.models.open_clip.OpenClip`; ``architecture`` is the 77-token one, for weights
    that descend from OpenAI's (Long-CLIP's own do) one that ends in ``-quickgelu``.

    **State:** that of open_clip, with ``clip.positional_embedding`` and ``clip.positional_embedding_res`` ``(248, W)``.
    """

    text_positions = POSITIONS

    def prepare(self, clip: Any) -> None:
        """Adds the second positional embedding and fixes the first.

        Raises:
            ValueError: If the architecture's text tower is not CLIP's own.
        """
        own = [getattr(clip, name, None) for name in ("positional_embedding", "text_projection")]
        if not all(isinstance(parameter, nn.Parameter) for parameter in own):
            raise ValueError("Long-CLIP stretches CLIP's own text tower; model.architecture has another one")
        # Random weights get the same shape of positions as stretched ones.
        stretched = stretch_positions(clip.positional_embedding.detach()[:CLIP_POSITIONS])
        clip.positional_embedding = nn.Parameter(stretched.clone(), requires_grad=False)
        clip.register_parameter("positional_embedding_res", nn.Parameter(stretched.clone()))

    def load(self, clip: Any, weights: Weights, architecture: str, image_size: int | None) -> None:
        """Loads Long-CLIP's own weights as they are and stretches those of a 77-token model."""
        state = dict(weights.state)
        positions = state.get("positional_embedding")
        if positions is not None and positions.shape[0] == CLIP_POSITIONS:
            stretched = stretch_positions(positions.float())
            state |= {"positional_embedding": stretched, "positional_embedding_res": stretched}
        super().load(clip, weights._replace(state=state), architecture, image_size)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """``(T, 248)`` tokens to ``(T, D)`` un-normalised features.

        open_clip's ``encode_text`` with the positions of both embeddings.
        """
        clip: Any = self.clip
        x = clip.token_embedding(tokens)
        x = clip.transformer(x + self.positions().to(x.dtype), attn_mask=clip.attn_mask)
        x = clip.ln_final(x)
        x = text_global_pool(x, tokens, clip.text_pool_type, eos_token_id=clip.text_eos_id)
        return x @ clip.text_projection

    def positions(self) -> Tensor:
        """``(248, W)``: 20 fixed rows and 228 trained ones (the masks of Long-CLIP)."""
        fixed, trained = self.clip.positional_embedding, self.clip.positional_embedding_res
        return torch.cat([fixed[:KEPT], trained[KEPT:]])  # type: ignore[index]

    def open_clip_state(self) -> dict[str, Tensor]:
        """The weights of a plain open_clip model with 248 positions and the same features."""
        state = super().open_clip_state()
        del state["positional_embedding_res"]
        return state | {"positional_embedding": self.positions().detach()}
