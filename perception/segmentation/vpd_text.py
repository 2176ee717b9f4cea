"""What the denoiser of a VPD network is told: adapted tokens, computed once per text while the weights stay."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from perception.backbones.conditioning import Condition
from perception.backbones.memory import RowMemory, version_of
from perception.backbones.tables import RowTables
from perception.conditioning.base import Digest, text_identity
from perception.errors import UserError

if TYPE_CHECKING:
    from perception.segmentation.vpd import VPD

_TEXTS = 32  # texts whose keys and values are kept; 77 tokens of SD 1.5 take 7.7 MB in float32


class VPDText:
    """The texts of one network, with memories that are forgotten when any of its weights change."""

    def __init__(self, network: VPD) -> None:
        self.network = network
        self.memory = RowMemory(_TEXTS)  # of adapted tokens
        self.tables = RowTables(_TEXTS)  # of their keys and values
        self.times = RowTables()  # of the time embedding
        self._state: tuple[Any, ...] = ()
        self._digest = Digest()

    def __call__(self, given: Sequence[Any] | None, rows: int) -> Condition:
        """The condition of `rows` images; see `VPD.told`."""
        network = self.network
        entries = network.conditioning.entries(given)
        if len(entries) not in (1, rows):
            raise UserError(f"{len(entries)} texts were given for {rows} images; expected one per image")
        trained = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in self.parameters())
        if not network.shortcuts or trained:
            tokens, keys = self._tokens(given), None
        else:
            keys = tuple(self.identity(entry) for entry in entries)
            tokens = self._remembered(entries, keys)
        base = network.backbone.condition([""]).expand(len(tokens))  # SDXL's pooled text stays that of ""
        return replace(base.with_hidden(tokens), keys=keys).expand(rows)

    def identity(self, entry: Any = None) -> str:
        """Hex digest of what the denoiser is told for one entry of `given`, the adapter included."""
        adapter = self.network.adapter
        digest = "" if adapter is None else self._digest(*adapter.parameters())
        return text_identity(self.network.conditioning.identity(entry), digest)

    def parameters(self) -> Iterator[nn.Parameter]:
        """Of the conditioning and the adapter."""
        yield from self.network.conditioning.parameters()
        yield from () if self.network.adapter is None else self.network.adapter.parameters()

    def forget_if_changed(self) -> None:
        """Forget everything when weights, device or precision are others than at the last call."""
        device = self.network.backbone.device
        precision = (self.network.backbone.dtype, torch.is_autocast_enabled(device.type))
        state = (device, precision, *(version_of(tensor) for tensor in self.network.parameters()))
        if state != self._state:
            self.forget()
            self._state = state

    def forget(self) -> None:
        """Empty the memories."""
        self.memory.clear()
        self.tables.clear()
        self.times.clear()

    def _tokens(self, given: Sequence[Any] | None) -> Tensor:
        tokens = self.network.conditioning(given)
        return tokens if self.network.adapter is None else self.network.adapter(tokens)

    @torch.inference_mode(False)  # remembered rows may later be part of a graph
    @torch.no_grad()
    def _remembered(self, entries: list[Any], keys: tuple[str, ...]) -> Tensor:
        """Adapted tokens [len(entries), K, D]; each distinct text is computed once while the weights stay."""
        self.forget_if_changed()
        known = {key: self.memory.get(key, "tokens") for key in keys}
        missing = {key: entry for key, entry in zip(keys, entries, strict=True) if known[key] is None}
        for key, row in zip(missing, self._tokens(list(missing.values())) if missing else (), strict=True):
            known[key] = row
            self.memory.put(key, "tokens", row)
        return torch.stack([row for key in keys if (row := known[key]) is not None])
