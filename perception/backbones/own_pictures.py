"""What a backbone knows of the pictures it was trained on: typicality.json beside its weights.

For a picture x, e_t(x) is the mean squared error of the predicted noise at timestep t, without a prompt, under a noise
that all pictures share, and s_c(x) the standard deviation of channel c of its latent. More contrast is harder to see
under noise, so what counts is how far log e_t lies above a quadratic of u = log s, fitted on the backbone's own
pictures, and how far u lies outside their range:

    strangeness(x) = mean over t of (log e_t - f_t(u')) / scatter_t + sum over c of |u_c - u'_c| / scale_c
    f_t(u) = a_t + sum over c of (b_tc u_c + d_tc u_c^2),   u' = u held within the range
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perception.data.files import write_atomic
from perception.errors import UserError

FILE = "typicality.json"
_LARGEST = 4096  # side of a picture, pixels
_RANGE = (0.01, 0.99)  # quantiles of the own pictures between which a spread is ordinary


@dataclass(frozen=True)
class OwnPictures:
    """The fit on a backbone's own pictures. Raises UserError for numbers that cannot be one."""

    identity: str  # of the configs and weights that it was made with
    pictures: str  # which ones, in words
    size: tuple[int, int]  # height and width at which pictures are measured, pixels
    timesteps: tuple[int, ...]
    usual: tuple[tuple[float, ...], ...]  # per timestep: a, b of every channel, d of every channel
    scatter: tuple[float, ...]  # per timestep: standard deviation of log e about f
    spreads: tuple[tuple[float, float, float], ...]  # per channel: range and scale (standard deviation) of log s
    quantiles: tuple[tuple[float, float], ...]  # share of the pictures that are as strange or stranger, strangeness

    def __post_init__(self) -> None:
        rows = (*self.usual, *self.spreads, *self.quantiles)
        if not all(
            isinstance(x, (int, float)) and math.isfinite(x) for x in (*self.scatter, *(x for r in rows for x in r))
        ):
            raise UserError("a number is missing or not finite")
        widths = {len(row) for row in self.usual}
        others = {len(row) for row in self.spreads}, {len(row) for row in self.quantiles}
        positive = min(self.scatter, default=0) > 0
        if not len(self.usual) == len(self.scatter) == len(self.timesteps) > 0 or not positive:
            raise UserError("every timestep needs one line of `usual` and a `scatter` above 0")
        if widths != {1 + 2 * len(self.spreads)} or others != ({3}, {2}):
            raise UserError("`usual`, `spreads` and `quantiles` do not fit each other")
        if not all(low <= high and scale > 0 for low, high, scale in self.spreads):
            raise UserError("a range of spreads is none")
        shares, places = zip(*self.quantiles, strict=True)
        if list(shares) != sorted(shares, reverse=True) or list(places) != sorted(places):
            raise UserError("the quantiles are not in order")
        whole = all(type(x) is int for x in (*self.size, *self.timesteps))
        if not whole or len(self.size) != 2 or not 8 <= min(self.size) <= max(self.size) <= _LARGEST:
            raise UserError(f"timesteps and size are no whole numbers, or the size is none from 8 to {_LARGEST} pixels")
        if not isinstance(self.pictures, str):
            raise UserError("the pictures are not described")

    def strangeness(self, errors: Tensor, spreads: Tensor) -> Tensor:
        """Of log e [B, T] and log s [B, C], float64 [B]."""
        low, high, scale = torch.tensor(self.spreads, dtype=torch.float64).T
        held = spreads.double().clamp(low, high)
        expected = _terms(held) @ torch.tensor(self.usual, dtype=torch.float64).T
        above = (errors.double() - expected) / torch.tensor(self.scatter, dtype=torch.float64)
        return above.mean(1) + ((spreads.double() - held).abs() / scale).sum(1)

    def share(self, strangeness: float) -> float:
        """Of the own pictures that are as strange or stranger, in [0, 1]; 0 beyond the strangest."""
        shares, places = np.asarray(self.quantiles).T
        return float(np.interp(strangeness, places, shares, left=1.0, right=0.0))

    def write(self, folder: Path) -> None:
        """Put typicality.json into the folder of the backbone."""
        write_atomic(folder / FILE, json.dumps(asdict(self), indent=1).encode() + b"\n")


def _terms(spreads: Tensor) -> Tensor:
    """[1, u, u^2], float [B, 1 + 2 C], of u = log s [B, C]."""
    return torch.cat([torch.ones_like(spreads[:, :1]), spreads, spreads.square()], dim=1)


def read_own_pictures(folder: Path, identity: str) -> OwnPictures | None:
    """The fit in the folder of a backbone; None where there is none, or one of other weights.

    Raises:
        UserError: the file is there and cannot be used.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["identity"] != identity:
            return None
        return OwnPictures(**{field.name: _tuples(found[field.name]) for field in fields(OwnPictures)})
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} cannot be used ({reason}); delete it, or copy it again") from error


def _tuples(value: Any) -> Any:
    """Lists as tuples, at every depth."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def fitted(
    errors: Tensor,  # log e [N, T] of the backbone's own pictures
    spreads: Tensor,  # log s [N, C]
    *,
    identity: str,
    pictures: str,
    size: tuple[int, int],
    timesteps: Iterable[int],
) -> OwnPictures:
    """Least squares; the quantiles are of pictures that f was not fitted on (two folds)."""
    common: dict[str, Any] = {"identity": identity, "pictures": pictures, "size": size, "timesteps": tuple(timesteps)}

    def of(rows: Tensor, quantiles: tuple[tuple[float, float], ...] = ((1.0, 0.0),)) -> OwnPictures:
        u, wanted = spreads[rows].double(), errors[rows].double()
        low, high = torch.quantile(u, torch.tensor(_RANGE, dtype=torch.float64), dim=0)
        known = _terms(u.clamp(low, high))
        usual = torch.linalg.lstsq(known, wanted).solution  # [1 + 2 C, T]
        return OwnPictures(
            **common,
            usual=_rows(usual.T),
            scatter=tuple((wanted - known @ usual).std(0).tolist()),
            spreads=_rows(torch.stack([low, high, u.std(0)], dim=1)),
            quantiles=quantiles,
        )

    every = torch.arange(len(errors))
    halves = every[every % 2 == 0], every[every % 2 == 1]
    pairs = ((halves[0], halves[1]), (halves[1], halves[0]))
    strange = torch.cat([of(seen).strangeness(errors[new], spreads[new]) for seen, new in pairs])
    return of(every, _quantiles(strange))


def _rows(table: Tensor) -> Any:
    return tuple(map(tuple, table.tolist()))


def _quantiles(strangeness: Tensor) -> tuple[tuple[float, float], ...]:
    shares = (1.0, 0.99, 0.9, 0.75, 0.5, 0.25, 0.1, 0.05, 0.03, 0.02, 0.01, 0.005, 0.0)
    places = torch.quantile(strangeness, 1 - torch.tensor(shares, dtype=torch.float64))
    return tuple(zip(shares, places.tolist(), strict=True))
