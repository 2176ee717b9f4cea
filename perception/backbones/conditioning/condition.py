"""Conditions of a denoiser: one row per prompt, each distinct prompt encoded once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from perception.backbones.devices import to_device
from perception.errors import UserError

_CHUNK = 64  # prompts per call of the text encoder
_CACHED_ROWS = 512  # distinct prompts kept; 77 tokens x 768 channels in float32 are 0.24 MB each
_CACHED_BYTES = 2**29  # of all kept prompts; Flux: 512 tokens x 4096 channels in float32 are 8.4 MB each
_Key = tuple[str, int, bool, str]  # prompt, tokens, whether it may be cut, dtype and place of the weights


@dataclass(frozen=True)
class Condition:
    """A batch of conditions, one row per prompt; `with_hidden` replaces the tokens."""

    hidden: Tensor  # [N, L, D] text tokens; D = 0 where the denoiser takes a class
    pooled: Tensor | None = None  # [N, P] pooled text (SDXL, SD3, Flux)
    extra: Mapping[str, Tensor] = field(default_factory=dict)  # further row-aligned conditions: SDXL's time_ids,
    # the bool mask [N, L] of the tokens that are there (PixArt), the int64 class_labels [N] (DiT), control residuals

    def __len__(self) -> int:
        return self.hidden.shape[0]

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> Condition:
        """Rows by number, slice, list or LongTensor; always keeps the row dimension."""
        rows = self._numbers(index)
        return self._map(lambda x: x[to_device(rows, x.device)])

    def _numbers(self, index: int | slice | Sequence[int] | Tensor) -> Tensor:
        """Rows by their number, int64; it takes as long as there are rows in `index`."""
        if isinstance(index, slice):
            return torch.arange(*index.indices(len(self)))
        if isinstance(index, Tensor) and index.dtype == torch.bool:
            return index.nonzero().flatten()
        return torch.as_tensor(index, dtype=torch.int64).reshape(-1)

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
        return self._map(lambda x: x.expand(rows, *x.shape[1:]))

    def with_hidden(self, hidden: Tensor) -> Condition:
        """The same condition with other tokens [N, L', D] (adapters, learned tokens); all are there if L' is new."""
        kept = {k: v for k, v in self.extra.items() if k != "mask" or v.shape[1] == hidden.shape[1]}
        return replace(self, hidden=hidden, extra=kept)

    def followed_by(self, tokens: Tensor) -> Condition:
        """The same condition with further tokens [N, M, D] behind its own; all of them are there."""
        longer = self.with_hidden(torch.cat([self.hidden, tokens], dim=1))
        if "mask" not in self.extra:
            return longer
        mask = self.extra["mask"]
        mask = torch.cat([mask, mask.new_ones(tokens.shape[:2])], dim=1)
        return replace(longer, extra={**self.extra, "mask": mask})

    def averaged(self, groups: Sequence[Sequence[int]]) -> Condition:
        """One row per group: the mean of its rows. A token is there if it is there in one of them.

        Raises:
            UserError: for class labels, which have no mean.
        """
        if any(not x.is_floating_point() and x.dtype != torch.bool for x in self.extra.values()):
            raise UserError("class labels cannot be averaged; let the classes compete, or average their errors")

        def mean(rows: Tensor) -> Tensor:
            over = torch.any if rows.dtype == torch.bool else torch.mean
            return torch.stack([over(rows[list(group)], dim=0) for group in groups])

        return self._map(mean)

    def zeroed(self, rows: Sequence[bool]) -> Condition:
        """Zeros for tokens and pooled text of the rows that are True."""
        mask = torch.tensor(list(rows), device=self.hidden.device)
        pooled = None if self.pooled is None else self.pooled.masked_fill(mask[:, None], 0)
        return replace(self, hidden=self.hidden.masked_fill(mask[:, None, None], 0), pooled=pooled)

    def to(self, *args: Any) -> Condition:
        """Device and dtype conversion, with the arguments of `Tensor.to`; masks and class labels keep their dtype."""
        places = [arg for arg in args if not isinstance(arg, torch.dtype)]
        return self._map(lambda x: x.to(*args) if x.is_floating_point() else x.to(*places) if places else x)

    def _map(self, function: Callable[[Tensor], Tensor]) -> Condition:
        changed: dict[str, Any] = {
            f.name: function(v) for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)
        }
        return replace(self, **changed, extra={k: function(v) for k, v in self.extra.items()})


def stacked(rows: Sequence[Condition]) -> Condition:
    """Conditions of equal layout below each other."""
    first = rows[0]
    return Condition(
        hidden=torch.cat([row.hidden for row in rows]),
        pooled=None if first.pooled is None else torch.cat([row.pooled for row in rows if row.pooled is not None]),
        extra={key: torch.cat([row.extra[key] for row in rows]) for key in first.extra},
    )


class Conditioner(ABC):
    """Prompts -> conditions; every distinct prompt is computed once and remembered.

    `encoders` and `tokenizers` are those of the model folder under their names there ("text_encoder_2", ...).
    """

    class_names: tuple[str, ...] | None = None  # of a class-conditional model, by class number

    def __init__(self, encoders: Mapping[str, nn.Module], tokenizers: Mapping[str, Any], max_tokens: int) -> None:
        self.encoders = dict(encoders)
        self.tokenizers = dict(tokenizers)
        self.max_tokens = max_tokens
        self._rows: OrderedDict[_Key, Condition] = OrderedDict()

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
        how = (length, truncate, self._place())
        names = list(dict.fromkeys(prompts))
        rows = {p: self._rows[(p, *how)] for p in names if (p, *how) in self._rows}
        missing = [p for p in names if p not in rows]
        for start in range(0, len(missing), _CHUNK):
            chunk = missing[start : start + _CHUNK]
            encoded = self._frozen(chunk, length, truncate)
            rows.update((prompt, encoded[i]) for i, prompt in enumerate(chunk))  # a list index copies the row
        for prompt in names:
            self._remember((prompt, *how), rows[prompt])
        return stacked([rows[p] for p in prompts])

    @abstractmethod
    def encode(self, prompts: list[str], length: int, truncate: bool) -> Condition:
        """Compute the condition of distinct prompts, one row each."""

    @torch.inference_mode(False)  # remembered rows may later be part of a graph
    @torch.no_grad()
    def _frozen(self, prompts: list[str], length: int, truncate: bool) -> Condition:
        return self.encode(prompts, length, truncate)

    def _place(self) -> str:
        """Dtype and place of the weights are part of what is remembered: a backbone may be moved."""
        weights = [next(encoder.parameters()) for encoder in self.encoders.values()]
        return f"{weights[0].device}/{weights[0].dtype}" if weights else ""

    def _check(self, prompts: Sequence[str], length: int | None) -> int:
        if isinstance(prompts, str) or not len(prompts):
            raise UserError(f"prompts is {prompts!r}; expected a non-empty list of strings")
        for prompt in prompts:
            if not isinstance(prompt, str):
                raise UserError(f"the prompt {prompt!r} is a {type(prompt).__name__}; expected a string")
        if length is not None and not 1 <= length <= self.max_tokens:
            raise UserError(f"length is {length} tokens; this text encoder takes 1 to {self.max_tokens}")
        return length or self.max_tokens

    def _remember(self, key: _Key, row: Condition) -> None:
        self._rows[key] = row
        self._rows.move_to_end(key)
        size = max(1, row.hidden.numel() * row.hidden.element_size())
        if len(self._rows) > min(_CACHED_ROWS, max(1, _CACHED_BYTES // size)):
            self._rows.popitem(last=False)
