"""LoRA (Hu et al. 2021, arXiv 2106.09685) through ``peft``: linear layers stay, products of two thin matrices learn.

W is the width of a tower, B the batch, L the positions, r the rank.
"""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from open_clip.modified_resnet import ModifiedResNet
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

DEFAULT_TARGETS = ("in_proj", "out_proj", "c_fc", "c_proj")
_ADAPTER = "default"
_A, _B = f".lora_A.{_ADAPTER}.weight", f".lora_B.{_ADAPTER}.weight"
_IN_PROJECTION = re.compile(r"\.in_proj\.(weight|bias)$")


class LoraSettings(NamedTuple):
    """What ``model.lora`` says.

    Attributes:
        rank: r, columns of the one and rows of the other matrix.
        alpha: The product counts ``alpha / rank`` times; ``None``: once.
        dropout: Of what goes into the thin matrices, in training.
        targets: Last names of the linear layers; open_clip's blocks have ``in_proj`` (query, key and value together),
            ``out_proj``, ``c_fc`` and ``c_proj``.
    """

    rank: int
    alpha: float | None = None
    dropout: float = 0.0
    targets: Sequence[str] = DEFAULT_TARGETS

    @property
    def scaling(self) -> float:
        """How often the product counts."""
        return 1.0 if self.alpha is None else self.alpha / self.rank

    @classmethod
    def read(cls, node: Mapping[str, Any]) -> LoraSettings:
        """From a config node.

        Raises:
            ValueError: If a key is unknown or missing, or a value out of range.
        """
        unknown = [key for key in node if key not in cls._fields]
        if unknown:
            close = difflib.get_close_matches(unknown[0], cls._fields, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(cls._fields)}"
            raise ValueError(f"unknown key 'model.lora.{unknown[0]}'; {hint}")
        if "rank" not in node:
            raise ValueError("model.lora needs a rank: model.lora={rank:8}")
        settings = cls(**node)
        if not isinstance(settings.rank, int) or settings.rank < 1:
            raise ValueError(f"model.lora.rank must be a whole number of at least 1, got {settings.rank}")
        if not 0 <= settings.dropout < 1:
            raise ValueError(f"model.lora.dropout must be at least 0 and below 1, got {settings.dropout}")
        if settings.alpha is not None and settings.alpha <= 0:
            raise ValueError(f"model.lora.alpha must be above 0, got {settings.alpha}")
        if not settings.targets:
            raise ValueError(f"model.lora.targets names no layer; the default is {','.join(DEFAULT_TARGETS)}")
        return settings


class LinearAttention(nn.Module):
    """An ``nn.MultiheadAttention`` over one sequence, its two projections called as layers.

    PyTorch's reads their weights past ``forward``, so that no adapter is seen; ``peft`` therefore adds its product to
    the weight and subtracts it again at every step, which moves a frozen weight by rounding.

    Args:
        attention: Of equal widths; its parameters are taken over.

    Raises:
        ValueError: If keys and values have widths of their own.
    """

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        if attention.in_proj_weight is None or attention.bias_k is not None:
            raise ValueError("model.lora: an attention with other widths of keys and values cannot be adapted")
        width = attention.embed_dim
        self.num_heads = attention.num_heads
        self.batch_first = attention.batch_first
        self.dropout = attention.dropout
        self.in_proj = nn.Linear(width, 3 * width, bias=attention.in_proj_bias is not None, device="meta")
        self.in_proj.weight, self.in_proj.bias = attention.in_proj_weight, attention.in_proj_bias
        self.out_proj = attention.out_proj
        self.train(attention.training)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, *, need_weights: bool = False, attn_mask: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """``(B, L, W)`` to ``(B, L, W)``, or with the positions first; ``key`` and ``value`` must be ``query``.

        The mask is that of ``nn.MultiheadAttention``: ``(L, L)`` or ``(B * heads, L, L)``, added, or true where nothing
        is looked at.
        """
        assert query is key, "self-attention only"
        assert key is value, "self-attention only"
        x = query if self.batch_first else query.transpose(0, 1)
        heads = self.in_proj(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        queries, keys, values = heads.unbind(0)
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            attn_mask = ~attn_mask  # the function's own are true where it looks
        if attn_mask is not None and attn_mask.ndim == 3:
            attn_mask = attn_mask.unflatten(0, (-1, self.num_heads))
        mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=attn_mask, dropout_p=dropout)
        out = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return (out if self.batch_first else out.transpose(0, 1)), None


def check_peft() -> Any:
    """The package ``peft``.

    Raises:
        ImportError: In one line, if it is not installed.
    """
    try:
        return importlib.import_module("peft")
    except ImportError as error:
        raise ImportError(f"model.lora needs peft: pip install 'i0t[lora]' ({error})") from error


def add_lora(tower: nn.Module, settings: LoraSettings, *, name: str) -> None:
    """Puts adapters beside a tower's linear layers; nothing else of it is trained, its batch norms stay as they are.

    Args:
        tower: Of open_clip, changed in place; its features are at first what they were.
        settings: Of the adapters.
        name: What the tower is called in an error.

    Raises:
        ImportError: Without ``peft``.
        ValueError: If a target is no layer of this tower, or the tower is a ``ModifiedResNet``.
    """
    if isinstance(tower, ModifiedResNet):
        raise ValueError(
            f"model.lora has no linear layers to adapt in {name} (ModifiedResNet): set model.lock_image=true"
        )
    peft = check_peft()
    tower.requires_grad_(False)
    if {"in_proj", "out_proj"} & set(settings.targets):
        _open_attentions(tower)
    found = _linear_layers(tower)
    names = [path for path, last in found.items() if last in settings.targets]
    absent = [target for target in settings.targets if target not in found.values()]
    if absent:
        raise ValueError(
            f"model.lora.targets: {name} has no linear layer {absent[0]!r} that can be adapted; "
            f"it has {', '.join(sorted(set(found.values()))) or 'none'}"
        )
    config = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.rank if settings.alpha is None else settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=names,
        bias="none",
    )
    peft.inject_adapter_in_model(config, tower, adapter_name=_ADAPTER)


def batch_norms(tower: nn.Module) -> list[nn.Module]:
    """Modules whose running statistics a frozen tower must not move."""
    return [module for module in tower.modules() if isinstance(module, _BatchNorm)]


def merged_state(state: Mapping[str, Tensor], *, scaling: float) -> dict[str, Tensor]:
    """A state dict with adapters as that of the plain model: ``W + scaling * B A`` under the plain names.

    Rounded the same on every machine: products are added one rank at a time.

    Args:
        state: With or without adapters.
        scaling: See :class:`LoraSettings`.
    """
    merged = {}
    for name, tensor in state.items():
        if name.endswith((_A, _B)):
            continue
        layer = name.removesuffix(".base_layer.weight")
        if layer != name and layer + _A in state:
            tensor = merged_weight(tensor, state[layer + _A], state[layer + _B], scaling=scaling)
        merged[_plain_name(name)] = tensor
    return merged


def merged_weight(weight: Tensor, a: Tensor, b: Tensor, *, scaling: float) -> Tensor:
    """``weight + scaling * b @ a`` for ``(O, I)``, ``(r, I)`` and ``(O, r)``, in the weight's precision."""
    delta = torch.zeros(weight.shape, dtype=torch.promote_types(weight.dtype, torch.float32), device=weight.device)
    for row, column in zip(a.to(delta.dtype), b.to(delta.dtype).T, strict=True):
        # Two steps, for a fused one rounds once where the processor has it; and no matrix product, whose order is free.
        delta += column[:, None] * row[None, :]
    return (weight + delta * scaling).to(weight.dtype)


def merge(tower: nn.Module, *, scaling: float) -> None:
    """Replaces every adapted layer by one linear layer of the same function."""
    for parent in list(tower.modules()):
        for name, layer in list(parent.named_children()):
            if hasattr(layer, "lora_A"):
                base: Any = layer.base_layer
                a, b = layer.lora_A[_ADAPTER].weight, layer.lora_B[_ADAPTER].weight  # type: ignore[index,union-attr]
                with torch.no_grad():
                    base.weight.copy_(merged_weight(base.weight, a, b, scaling=scaling))
                setattr(parent, name, base)


def adapt_state(state: dict[str, Any], own: Mapping[str, Tensor], prefix: str) -> None:
    """Renames a plain model's weights, in place, so that a model with adapters can take them; its adapters stay.

    Args:
        state: A state dict that is about to be loaded; one with adapters is left as it is.
        own: That of the model with adapters.
        prefix: Of the model's names in ``state``.
    """
    if any(name.startswith(prefix) and name.endswith((_A, _B)) for name in state):
        return
    for name, tensor in own.items():
        plain = prefix + _plain_name(name)
        if name.endswith((_A, _B)):
            state[prefix + name] = tensor
        elif plain in state:
            state[prefix + name] = state.pop(plain)


def _plain_name(name: str) -> str:
    return _IN_PROJECTION.sub(r".in_proj_\1", name.replace(".base_layer.", "."))


def _open_attentions(tower: nn.Module) -> None:
    """Of the blocks; a pooling attention stays, its queries are not its keys."""
    for block in list(tower.modules()):
        attention = getattr(block, "attn", None)
        if isinstance(attention, nn.MultiheadAttention) and hasattr(block, "mlp"):
            block.attn = LinearAttention(attention)


def _linear_layers(tower: nn.Module) -> dict[str, str]:
    """Path and last name of every linear layer that is called; PyTorch's attention reads its own past ``forward``."""
    past = {f"{path}.out_proj" for path, m in tower.named_modules() if isinstance(m, nn.MultiheadAttention)}
    return {
        path: path.rpartition(".")[2]
        for path, module in tower.named_modules()
        if isinstance(module, nn.Linear) and path not in past
    }
