"""mmengine metrics over the sum-able states of `perception.metrics`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger

from perception.metrics.confusion import ConfusionMatrix, format_report
from perception.metrics.depth import NAMES, DepthMetrics
from perception.metrics.referring import ReferringMetrics
from perception.training.registry import METRICS


@METRICS.register_module()
class SegmentationIoU(BaseMetric):
    """mIoU, mean class accuracy and pixel accuracy in percent; the table by class goes to the log and to `report`."""

    def __init__(
        self,
        ignore_index: int = 255,
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.ignore_index = ignore_index
        self.report: dict[str, Any] = {}  # ConfusionMatrix.report of the last evaluation, on the main process

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Count the pixels of each image and keep the pairs of classes that occur, a few of 150 x 150."""
        classes = len(self.dataset_meta["classes"])
        for sample in data_samples:
            prediction, target = sample["pred_sem_seg"]["data"], sample["gt_sem_seg"]["data"]
            matrix = ConfusionMatrix.of(prediction.cpu(), target.cpu(), classes, self.ignore_index)
            pairs = matrix.counts.flatten().nonzero()[:, 0]
            self.results.append((pairs, matrix.counts.flatten()[pairs]))

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """Sum over images, then mIoU, mAcc and aAcc in percent."""
        names = self.dataset_meta["classes"]
        total = ConfusionMatrix.empty(len(names)).counts
        for pairs, counts in results:
            total.view(-1)[pairs] += counts
        self.report = ConfusionMatrix(total).report(names)
        MMLogger.get_current_instance().info(format_report(self.report, f"IoU over {len(results)} images [%]"))
        return {name: self.report[name] for name in ("mIoU", "mAcc", "aAcc")}


@METRICS.register_module()
class ReferringIoU(BaseMetric):
    """oIoU, mIoU and P@0.5 .. P@0.9 in percent over all sentences; also in `report`."""

    def __init__(self, collect_device: str = "cpu", prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.report: dict[str, Any] = {}  # ReferringMetrics.report of the last evaluation, on the main process

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Count the pixels of each sentence."""
        for sample in data_samples:
            masks = (sample[name]["data"].cpu() for name in ("pred_sem_seg", "gt_sem_seg"))
            self.results.append(ReferringMetrics.of(*masks))

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """Sum over sentences, then the figures in percent."""
        self.report = sum(results, ReferringMetrics()).report()
        return {name: value for name, value in self.report.items() if name != "sentences"}


@METRICS.register_module()
class DepthErrors(BaseMetric):
    """The nine figures of the NYUv2 benchmark, averaged over images; also in `report`."""

    def __init__(
        self,
        min_depth: float = 1e-3,  # metres
        max_depth: float = 10.0,  # metres; pixels between the two count
        crop: tuple[int, int, int, int] | None = None,  # first row, end row, first column, end column that count
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.min_depth, self.max_depth = min_depth, max_depth
        self.crop = None if crop is None else (crop[0], crop[1], crop[2], crop[3])
        self.report: dict[str, Any] = {}  # DepthMetrics.report of the last evaluation, on the main process

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """The figures of each image."""
        limits: dict[str, Any] = {"min_depth": self.min_depth, "max_depth": self.max_depth, "crop": self.crop}
        for sample in data_samples:
            maps = (sample[name]["data"].cpu() for name in ("pred_depth_map", "gt_depth_map"))
            self.results.append(DepthMetrics.of(*maps, **limits))

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """Mean over images."""
        self.report = sum(results, DepthMetrics.empty()).report()
        return {name: self.report[name] for name in NAMES}


@METRICS.register_module()
class DenoisingLoss(BaseMetric):
    """Mean of every value of `losses` over the held-out pictures: `val_loss`, and for control `val_loss_swapped`."""

    def __init__(self, collect_device: str = "cpu", prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Keep the values of each picture."""
        self.results += [sample["losses"] for sample in data_samples]

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """Mean over pictures, each counted once."""
        return {name: sum(row[name] for row in results) / len(results) for name in results[0]}
