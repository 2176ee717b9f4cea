"""What a few labelled images teach a zero-shot classifier: how sure it is, and which timesteps to listen to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from perception.classification.replay import Recorded
from perception.classification.table import ErrorTable
from perception.errors import UserError
from perception.metrics.calibration import class_probabilities, fit_temperature, fit_weights, paired_sums


@dataclass(frozen=True)
class Learned:
    """p(class) = softmax(-beta * mean weighted error), errors paired with the winner's; weights are 1 on average."""

    beta: float  # of mean errors
    timesteps: tuple[int, ...] = ()  # where the weights were learned, ascending; empty: all weights are 1
    weights: tuple[float, ...] = ()

    def weight(self, timesteps: Sequence[int]) -> Tensor:
        """Weights of other timesteps: linear between those learned, constant beyond. float64 [N]."""
        if not self.timesteps:
            return torch.ones(len(timesteps), dtype=torch.float64)
        return torch.from_numpy(np.interp(timesteps, self.timesteps, self.weights))

    def probabilities(self, table: ErrorTable) -> Tensor:
        """Of the classes that the candidates of a table speak for, float64 [classes]."""
        leads = class_leads(table.errors * table.weights, table.classes)
        return class_probabilities(leads[None], self.beta)[0]


def class_leads(errors: Tensor, classes: Sequence[int]) -> Tensor:
    """How much larger the mean error of each class is than the winner's, on common samples; 0 for the winner's class.

    errors [C, N], NaN behind the last sample of a candidate; a class counts by its best candidate. float64 [classes].
    None is negative: on the few samples of a candidate that left early the later winner may have been behind it.
    """
    most = int((~errors.isnan()).sum(1).max())
    leads = (paired_sums(errors) / most).nan_to_num(nan=float("inf"))  # [C]; a candidate that never raced is no help
    best = torch.full((max(classes) + 1,), float("inf"), dtype=torch.float64)
    return best.scatter_reduce(0, torch.tensor(classes), leads.double().clamp_min(0), "amin")


def learn(images: Sequence[Recorded], weigh_timesteps: bool = False) -> Learned:
    """Fit beta, and with `weigh_timesteps` the weights too, on labelled images with recorded errors.

    The weights need errors of all classes on one common grid, so of an exhaustive run; beta takes any run.
    Raises UserError without labels, and for weights when errors are missing or grids differ.
    """
    labelled = [(image, image.truth) for image in images if image.truth is not None]
    if not labelled:
        raise UserError("the recorded images have no known class; classify a folder that has a sub-folder per class")
    labels = torch.tensor([truth for _, truth in labelled])
    if not weigh_timesteps:
        leads = torch.stack([class_leads(image.errors, image.classes) for image, _ in labelled])
        return Learned(fit_temperature(leads, labels))
    steps = labelled[0][0].timesteps
    if len(set(steps)) < len(steps) or any(image.timesteps != steps for image, _ in labelled):
        raise UserError("weights of timesteps need the same grid for all images, one noise per timestep")
    order = np.argsort(steps)
    weights = fit_weights(torch.stack([_per_class(image) for image, _ in labelled]), labels)  # [N]
    mean = float(weights.mean())  # beta of sums; of means it is larger by the number of samples
    relative = (weights / mean)[torch.from_numpy(order)]
    return Learned(mean * len(steps), tuple(int(steps[i]) for i in order), tuple(relative.tolist()))


def _per_class(image: Recorded) -> Tensor:
    """The errors of each class's best candidate. [classes, N]."""
    means = image.errors.double().mean(1).tolist()
    best: dict[int, int] = {}
    for k in sorted(range(len(means)), key=lambda k: means[k]):
        best.setdefault(image.classes[k], k)
    return image.errors[[best[c] for c in range(max(image.classes) + 1)]]
