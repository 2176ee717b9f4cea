"""Rows that are a function of a text and are computed once while the weights stay."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import Tensor


def version_of(tensor: Tensor) -> tuple[int, int]:
    """Changes whenever the tensor is written in place (an optimizer's step, load_state_dict) or moved."""
    return tensor.data_ptr(), -1 if tensor.is_inference() else tensor._version


class RowMemory:
    """(text, slot) -> tensor; the least recently used texts are forgotten first. A deep copy is empty.

    Whoever owns a memory clears it when weights, device or dtype change.
    """

    def __init__(self, capacity: int | None = None) -> None:  # texts that are kept; None: all
        self.capacity = capacity
        self._rows: OrderedDict[str, dict[str, Tensor]] = OrderedDict()

    def get(self, text: str, slot: str) -> Tensor | None:
        """The row, or None."""
        if text not in self._rows:
            return None
        self._rows.move_to_end(text)
        return self._rows[text].get(slot)

    def put(self, text: str, slot: str, row: Tensor) -> None:
        """Remember a row."""
        self._rows.setdefault(text, {})[slot] = row
        self._rows.move_to_end(text)
        if self.capacity is not None and len(self._rows) > self.capacity:
            self._rows.popitem(last=False)

    def clear(self) -> None:
        """Forget everything."""
        self._rows.clear()

    def __len__(self) -> int:
        return len(self._rows)

    def __deepcopy__(self, memo: dict[int, Any]) -> RowMemory:
        return RowMemory(self.capacity)
