"""Probes: finds the best block and timestep with simple classifiers on frozen features."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from perception.errors import UserError

PROBES = ("linear", "ridge", "knn")


@dataclass(frozen=True)
class Cell:
    """One probe on one block at one timestep."""

    tap: str
    timestep: int
    probe: str
    accuracy: float  # mean over the folds, 0 to 1
    spread: float  # standard deviation over the folds


def make_probe(name: str, neighbours: int = 5) -> Pipeline:
    """Return an untrained scikit-learn probe on standardised features.

    "linear": logistic regression; "ridge": ridge classifier, much faster with many classes; "knn": cosine nearest
    neighbours. Raises UserError naming the probes.
    """
    if name == "linear":
        return make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    if name == "ridge":
        return make_pipeline(StandardScaler(), RidgeClassifier())
    if name == "knn":
        return make_pipeline(StandardScaler(), KNeighborsClassifier(neighbours, metric="cosine"))
    raise UserError(f"unknown probe {name!r}; choose from {', '.join(PROBES)}")


def check_labels(labels: Sequence[str], folds: int) -> None:
    """Raises UserError unless there are two classes or more, each with an image for every fold."""
    counts = Counter(labels)
    if len(counts) < 2:
        raise UserError(
            f"a probe needs at least two classes, but the folder has {len(counts)}; add a sub-folder per class"
        )
    name, fewest = min(counts.items(), key=lambda item: item[1])
    if not 2 <= folds <= fewest:
        raise UserError(
            f"{folds}-fold cross-validation needs 2 folds or more and an image of each class in every fold, but the "
            f"class {name!r} has {fewest}; add images or lower --folds"
        )


def sweep(
    features: Mapping[tuple[str, int], np.ndarray],  # (tap, timestep) -> [images, channels]
    labels: Sequence[str],  # one per image
    probes: Sequence[str] = ("linear", "knn"),
    folds: int = 5,  # of the stratified cross-validation
    seed: int = 0,  # of its shuffle; every cell sees the same folds
) -> Iterator[Cell]:
    """Yield the cross-validated accuracy of every probe on every cell, in the order of `features`.

    Raises UserError as `check_labels` and `make_probe` do.
    """
    check_labels(labels, folds)
    target = np.asarray(labels)
    neighbours = max(1, min(5, min(Counter(labels).values()) * (folds - 1) // folds))
    for (tap, timestep), values in features.items():
        for name in probes:
            split = StratifiedKFold(folds, shuffle=True, random_state=seed)
            scores = cross_val_score(make_probe(name, neighbours), values, target, cv=split)
            yield Cell(tap, timestep, name, float(scores.mean()), float(scores.std()))


def best_cell(cells: Sequence[Cell]) -> Cell:
    """The cell of highest accuracy; the first of several."""
    return max(cells, key=lambda cell: cell.accuracy)


def cells_csv(cells: Sequence[Cell]) -> str:
    """The cells as CSV with the columns tap, timestep, probe, accuracy, spread."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("tap", "timestep", "probe", "accuracy", "spread"))
    writer.writerows((c.tap, c.timestep, c.probe, f"{c.accuracy:.4f}", f"{c.spread:.4f}") for c in cells)
    return out.getvalue()


def heat_map(cells: Sequence[Cell]) -> bytes:
    """Draw accuracy over blocks x timesteps, one panel per probe, the best cell of each framed; PNG bytes."""
    from matplotlib.figure import Figure  # slow to import, needed at the very end only

    probes = list(dict.fromkeys(cell.probe for cell in cells))
    taps = list(dict.fromkeys(cell.tap for cell in cells))
    timesteps = list(dict.fromkeys(cell.timestep for cell in cells))
    width = 2.6 + len(probes) * (1.2 + 0.75 * len(timesteps))
    figure = Figure(figsize=(width, 1.6 + 0.34 * len(taps)), layout="constrained")
    low, high = min(cell.accuracy for cell in cells), max(cell.accuracy for cell in cells)
    panels = figure.subplots(1, len(probes), squeeze=False, sharey=True)[0]
    for panel, probe in zip(panels, probes, strict=True):
        grid = np.full((len(taps), len(timesteps)), np.nan)
        for cell in (cell for cell in cells if cell.probe == probe):
            grid[taps.index(cell.tap), timesteps.index(cell.timestep)] = 100 * cell.accuracy
        drawn = panel.imshow(grid, aspect="auto", cmap="viridis", vmin=100 * low, vmax=100 * high + 1e-6)
        panel.set_title(f"{probe} probe, accuracy [%]")
        panel.set_xticks(range(len(timesteps)), timesteps)
        panel.set_yticks(range(len(taps)), taps)
        panel.set_xlabel("timestep")
        _annotate(panel, grid, (100 * low + 100 * high) / 2)
    figure.colorbar(drawn, ax=panels[-1])
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=120)
    return out.getvalue()


def _annotate(panel, grid: np.ndarray, middle: float) -> None:  # type: ignore[no-untyped-def]
    for (row, column), value in np.ndenumerate(grid):
        if not np.isnan(value):
            panel.text(column, row, f"{value:.1f}", ha="center", va="center", color="w" if value < middle else "k")
    row, column = np.unravel_index(np.nanargmax(grid), grid.shape)
    panel.add_patch(_frame(int(row), int(column)))


def _frame(row: int, column: int):  # type: ignore[no-untyped-def]
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="red", linewidth=2)
