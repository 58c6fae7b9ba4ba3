"""open_clip's tokenizer of an architecture, from its package, a local folder or the Hugging Face hub.

L is the context length, T the number of texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import open_clip
from huggingface_hub import constants
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from torch import Tensor

from i0t.models.truncation import count_architecture, count_byte_pairs

DEFAULT_CONTEXT_LENGTH = 77


def context_length_of(architecture: str) -> int:
    """L of an architecture."""
    config = open_clip.get_model_config(architecture)
    return int(config["text_cfg"].get("context_length", DEFAULT_CONTEXT_LENGTH))


def hub_name(architecture: str) -> str | None:
    """Where on the hub an architecture's tokenizer lies; ``None`` for CLIP's own, which open_clip ships."""
    return open_clip.get_model_config(architecture)["text_cfg"].get("hf_tokenizer_name")


class ArchitectureTokenizer:
    """An architecture's tokenizer, read at first use: SigLIP's and others lie on the hub.

    Args:
        architecture: An open_clip architecture.
        context_length: L; longer texts are cut.
        folder: Local files of the tokenizer; ``None``: open_clip's own, or those on the hub.
        local_files_only: Never download; a file that is not in the cache is then an error.
    """

    def __init__(
        self, architecture: str, *, context_length: int, folder: str | None = None, local_files_only: bool = False
    ) -> None:
        self.context_length = context_length
        self._architecture = architecture
        self._folder = folder
        self._local_files_only = local_files_only
        self._tokenize: SimpleTokenizer | HFTokenizer | None = None

    def load(self) -> None:
        """Reads the tokenizer now.

        Raises:
            ImportError: If it needs the package transformers.
            ValueError: If ``folder`` holds no tokenizer.
            ConnectionError: If it must be downloaded and cannot; one line with the way out.
        """
        if self._tokenize is not None:
            return
        hub, folder = hub_name(self._architecture), self._folder
        if hub is None and folder is None:
            self._tokenize = open_clip.get_tokenizer(self._architecture, context_length=self.context_length)
            return
        if folder is not None and not Path(folder).expanduser().is_dir():
            raise ValueError(f"model.tokenizer={folder} is not a folder with the files of a tokenizer")
        try:
            self._tokenize = self._from_files(str(Path(folder).expanduser()) if folder is not None else str(hub))
        except (ImportError, NameError) as error:
            raise ImportError(
                f"the tokenizer of {self._architecture} needs transformers: pip install 'i0t[transformers]'"
            ) from error
        except (OSError, ValueError) as error:
            raise self._unreadable(error) from error

    def _from_files(self, source: str) -> HFTokenizer:
        text = open_clip.get_model_config(self._architecture)["text_cfg"]
        settings: dict[str, Any] = dict(text.get("tokenizer_kwargs") or {})
        if self._local_files_only:
            settings["local_files_only"] = True
        mode = text.get("tokenizer_mode")
        return HFTokenizer(source, context_length=self.context_length, tokenizer_mode=mode, **settings)

    def _unreadable(self, error: Exception) -> Exception:
        reason = next(iter(str(error).splitlines()), type(error).__name__).strip()
        if self._folder is not None:
            return ValueError(f"model.tokenizer={self._folder} holds no tokenizer for {self._architecture} ({reason})")
        hub = hub_name(self._architecture)
        return ConnectionError(
            f"the tokenizer of {self._architecture} is not in the cache ({constants.HF_HUB_CACHE}) and "
            f"{constants.ENDPOINT}/{hub} is not asked or cannot be reached ({reason}); fetch it once where there is a "
            f"network (hf download {hub}), or give its folder, model.tokenizer=<folder>"
        )

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Returns ``(T, L)`` int64 tokens."""
        self.load()
        assert self._tokenize is not None, "just loaded"
        return self._tokenize(list(texts)).long()

    def count_truncated(self, texts: Sequence[str]) -> int:
        """How many texts have more than L tokens, start and end included."""
        self.load()
        if isinstance(self._tokenize, SimpleTokenizer):
            return count_byte_pairs(self._tokenize, texts, context_length=self.context_length)
        assert self._tokenize is not None, "just loaded"
        return count_architecture(self._tokenize, texts, context_length=self.context_length)
