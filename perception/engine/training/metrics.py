"""mmengine metric over the sum-able confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger

from perception.engine.training.registry import METRICS
from perception.metrics.confusion import ConfusionMatrix, format_report


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
