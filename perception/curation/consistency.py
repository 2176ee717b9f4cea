"""Consistency of image and label map: a trained segmentor judges every pixel (FreeMask, NeurIPS 2023)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from perception.errors import UserError
from perception.metrics.class_loss import ClassLoss
from perception.metrics.confusion import ConfusionMatrix
from perception.segmentation.predictor import SemanticNetwork, Size, checked_size, network_input

IGNORE = 255
_MOST_VALUES = 2**25  # of logits at the size of the label map, at a time: 128 MiB in float32


@dataclass(frozen=True)
class Consistency:
    """How well one image agrees with its label map [H, W]; ignored pixels count nowhere."""

    prediction: np.ndarray  # uint8 [H, W]: the segmentor's classes
    loss: np.ndarray  # float32 [H, W]: cross-entropy in nats, 0 where the label map is ignored
    confusion: ConfusionMatrix
    class_loss: ClassLoss

    @property
    def pixel_accuracy(self) -> float:
        """Share of the labelled pixels that are predicted as labelled."""
        return self.confusion.pixel_accuracy

    @property
    def mean_iou(self) -> float:
        """Mean IoU over the classes of the label map."""
        return float(self.confusion.iou[self.confusion.targets > 0].mean())


class ConsistencyPredictor:
    """A semantic segmentor that judges labelled images of any size.

    Raises:
        UserError: a size the network cannot take.
    """

    def __init__(
        self,
        network: SemanticNetwork,  # in eval mode
        size: Size | None = None,  # the network sees; None: as trained or tested, see `network_input`
        device: torch.device | str = "cpu",  # where the network is
    ) -> None:
        self.network = network
        self.classes = list(network.classes)
        self.size = checked_size(size) or network.image_size
        self.device = torch.device(device)

    @torch.no_grad()
    def __call__(self, image: Image.Image, labels: np.ndarray) -> Consistency:
        """Judge one RGB image by its label map, uint8 [H, W] of the same size, ids of the network's classes and 255.

        Raises:
            UserError: the network has more logits or fewer than class names, and what the metrics raise.
        """
        target = torch.tensor(labels, device=self.device)
        pixels = network_input(image, self.size, self.network.tested_side).to(self.device)
        logits = self.network(pixels)[0].float()  # [K, h, w]
        if len(logits) != len(self.classes):
            raise UserError(f"the model gives {len(logits)} logits for its {len(self.classes)} classes; train it again")
        prediction, loss = judge(logits, target)
        count = len(self.classes)
        return Consistency(
            prediction.cpu().numpy(),
            loss.cpu().numpy(),
            ConfusionMatrix.of(prediction, target, count, IGNORE),
            ClassLoss.of(loss, target, count, IGNORE),
        )


def judge(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Classes and losses of logits [K, h, w], resized bilinearly to the label map uint8 [H, W].

    Some classes at a time, as 150 classes of a large image do not fit: log sum exp is accumulated.

    Returns:
        argmax uint8 [H, W]; cross-entropy log sum_k exp(z_k) - z_label, float32 [H, W], 0 where the label is 255.
    """
    size = (labels.shape[0], labels.shape[1])
    step = max(1, _MOST_VALUES // labels.numel())
    best = torch.full(size, -torch.inf, device=logits.device)
    total, own = best.clone(), torch.zeros(size, device=logits.device)
    classes, wanted = torch.zeros(size, dtype=torch.uint8, device=logits.device), labels.long()
    for first in range(0, len(logits), step):
        part = F.interpolate(logits[None, first : first + step], size, mode="bilinear")[0]
        value, index = part.max(dim=0)
        better = value > best
        best, classes = torch.where(better, value, best), torch.where(better, (index + first).to(torch.uint8), classes)
        total = torch.logaddexp(total, part.logsumexp(dim=0))
        inside = (wanted >= first) & (wanted < first + len(part))
        picked = part.gather(0, (wanted - first).clamp(0, len(part) - 1)[None])[0]
        own = torch.where(inside, picked, own)
    return classes, torch.where(labels == IGNORE, 0.0, total - own)


def loss_limits(class_loss: ClassLoss, alpha: float = 1.25) -> np.ndarray:
    """alpha x the mean loss of every class on real images, float64 [K]; inf for a class that they do not show."""
    means = class_loss.means.numpy()
    return np.where(np.isnan(means), np.inf, alpha * means)


def filtered_labels(labels: np.ndarray, loss: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """A new label map with 255 where the loss exceeds the limit of the pixel's class (FreeMask's filter).

    Args:
        labels: uint8 [H, W], ids below K and 255; left as it is.
        loss: float [H, W].
        limits: float [K], of `loss_limits`.
    """
    table = np.full(IGNORE + 1, np.inf)
    table[: len(limits)] = limits
    return np.where(loss > table[labels], IGNORE, labels).astype(np.uint8)
