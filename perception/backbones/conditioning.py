"""What the denoiser is told: prompts -> text conditions, each distinct prompt encoded once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from perception.errors import UserError

_CHUNK = 64  # prompts per call of the text encoder
_CACHED_ROWS = 512  # distinct prompts kept; 77 tokens x 768 channels in float32 are 0.24 MB each


@dataclass(frozen=True)
class Condition:
    """A batch of conditions, one row per prompt.

    `keys` names rows that are a function of a prompt, so that `cached_text()` can recognise them; it is None for
    anything else (learned tokens, mixed embeddings). Replace `hidden` with `with_hidden`, which drops the keys.
    """

    hidden: Tensor  # [N, L, D] text tokens for cross-attention
    pooled: Tensor | None = None  # [N, P] pooled text (SDXL)
    extra: Mapping[str, Tensor] = field(default_factory=dict)  # further row-aligned conditions, e.g. SDXL's time_ids
    keys: tuple[str, ...] | None = None  # N row keys

    def __len__(self) -> int:
        return self.hidden.shape[0]

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> Condition:
        """Rows by number, slice, list or LongTensor; always keeps the row dimension."""
        every = torch.arange(len(self))
        rows = every[index.cpu() if isinstance(index, Tensor) else index].reshape(-1)
        keys = None if self.keys is None else tuple(self.keys[i] for i in rows.tolist())
        return replace(self._map(lambda x: x[rows.to(x.device)]), keys=keys)

    def repeat_interleave(self, repeats: int) -> Condition:
        """Every row `repeats` times: [r0, r0, ..., r1, r1, ...]."""
        return self[torch.arange(len(self)).repeat_interleave(repeats)]

    def expand(self, rows: int) -> Condition:
        """Broadcast one row to `rows`, or return a condition that has them already.

        Raises:
            UserError: when the number of rows is neither 1 nor `rows`.
        """
        if len(self) == rows:
            return self
        if len(self) != 1:
            raise UserError(
                f"the condition has {len(self)} rows for a batch of {rows}; expected 1 or {rows}: "
                "pass one prompt per image, or a single prompt for all"
            )
        keys = None if self.keys is None else self.keys * rows
        return replace(self._map(lambda x: x.expand(rows, *x.shape[1:])), keys=keys)

    def with_hidden(self, hidden: Tensor) -> Condition:
        """The same condition with other tokens [N, L', D] (adapters, learned tokens)."""
        return replace(self, hidden=hidden, keys=None)

    def to(self, *args: Any) -> Condition:
        """Device and dtype conversion, with the arguments of `Tensor.to`."""
        return self._map(lambda x: x.to(*args))

    def _map(self, function: Callable[[Tensor], Tensor]) -> Condition:
        changed: dict[str, Any] = {
            f.name: function(v) for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)
        }
        return replace(self, **changed, extra={k: function(v) for k, v in self.extra.items()})


class TextConditioner:
    """CLIP-style tokenizers and text encoders as one function of prompts.

    Stable Diffusion 1.x and 2.x read the last hidden state after the final LayerNorm; SDXL concatenates the
    penultimate hidden states of two encoders and pools the second (Podell et al. 2023, section 2.1).
    """

    def __init__(
        self,
        encoders: Sequence[nn.Module],  # transformers CLIPTextModel, and for SDXL CLIPTextModelWithProjection
        tokenizers: Sequence[Any],  # one per encoder
        penultimate: bool,  # True: SDXL's reading
    ) -> None:
        self.encoders = tuple(encoders)
        self.tokenizers = tuple(tokenizers)
        self.penultimate = penultimate
        configs: list[Any] = [encoder.config for encoder in encoders]
        limits = [t.model_max_length for t in tokenizers] + [c.max_position_embeddings for c in configs]
        self.max_tokens = int(min(limits))  # CLIP: 77
        self._rows: OrderedDict[tuple[str, int, str], tuple[Tensor, Tensor | None]] = OrderedDict()

    def __call__(self, prompts: Sequence[str], *, length: int | None = None, truncate: bool = False) -> Condition:
        """Encode `prompts` to a condition of [N, length, D] tokens; every distinct prompt runs once.

        Args:
            prompts: one string per row.
            length: tokens per row, padded as the tokenizer pads; default and maximum: `max_tokens`.
            truncate: cut prompts that are too long instead of raising.

        Raises:
            UserError: for no prompts, a bare string, an entry that is not a string, or a prompt that is too long.
        """
        length = self._check(prompts, length)
        # weights' dtype and place are part of the key: a backbone may be moved
        place = f"{self._weight.device}/{self._weight.dtype}"
        names = list(dict.fromkeys(prompts))
        rows = {p: self._rows[p, length, place] for p in names if (p, length, place) in self._rows}
        missing = [p for p in names if p not in rows]
        for start in range(0, len(missing), _CHUNK):
            chunk = missing[start : start + _CHUNK]
            rows.update(zip(chunk, self._encode(chunk, length, truncate), strict=True))
        for prompt in names:
            self._remember((prompt, length, place), rows[prompt])
        pooled = [rows[p][1] for p in prompts]
        return Condition(
            hidden=torch.stack([rows[p][0] for p in prompts]),
            pooled=None if pooled[0] is None else torch.stack([p for p in pooled if p is not None]),
            keys=tuple(f"{length}:{p}" for p in prompts),
        )

    @property
    def _weight(self) -> Tensor:
        return next(self.encoders[0].parameters())

    def _check(self, prompts: Sequence[str], length: int | None) -> int:
        if isinstance(prompts, str) or not len(prompts):
            raise UserError(f"prompts is {prompts!r}; expected a non-empty list of strings")
        for prompt in prompts:
            if not isinstance(prompt, str):
                raise UserError(f"the prompt {prompt!r} is a {type(prompt).__name__}; expected a string")
        if length is not None and not 1 <= length <= self.max_tokens:
            raise UserError(f"length is {length} tokens; this text encoder takes 1 to {self.max_tokens}")
        return length or self.max_tokens

    def _remember(self, key: tuple[str, int, str], row: tuple[Tensor, Tensor | None]) -> None:
        self._rows[key] = row
        self._rows.move_to_end(key)
        if len(self._rows) > _CACHED_ROWS:
            self._rows.popitem(last=False)

    @torch.inference_mode(False)  # remembered rows may later be part of a graph
    @torch.no_grad()
    def _encode(self, prompts: list[str], length: int, truncate: bool) -> list[tuple[Tensor, Tensor | None]]:
        hidden, pooled = [], None
        for tokenizer, encoder in zip(self.tokenizers, self.encoders, strict=True):
            out = encoder(self._tokens(tokenizer, prompts, length, truncate), output_hidden_states=self.penultimate)
            hidden.append(out.hidden_states[-2] if self.penultimate else out[0])  # [n, L, D_i]
            pooled = out[0] if self.penultimate else None  # [n, P]: text_embeds of the last encoder
        rows = torch.cat(hidden, dim=-1)
        return [(rows[i].clone(), None if pooled is None else pooled[i].clone()) for i in range(len(prompts))]

    def _tokens(self, tokenizer: Any, prompts: list[str], length: int, truncate: bool) -> Tensor:
        if not truncate:
            for prompt, ids in zip(prompts, tokenizer(prompts, verbose=False)["input_ids"], strict=True):
                if len(ids) > length:
                    raise UserError(
                        f"the prompt {prompt[:60]!r}... has {len(ids)} tokens and {length} fit; "
                        "shorten it, or pass truncate=True to cut it"
                    )
        padded = tokenizer(prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        return padded["input_ids"].to(self._weight.device)
