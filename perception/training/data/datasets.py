"""mmseg data sets over `perception.data`: image folders, CamVid, the miniature world, fixed views of any of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from mmengine.dataset import BaseDataset
from mmseg.datasets import BaseSegDataset

from perception.data import world
from perception.data.segmentation_folder import labelled_images
from perception.data.street_sets import CAMVID_CLASSES, CAMVID_PALETTE
from perception.errors import UserError
from perception.training.data.rendering import scene_records
from perception.training.registry import DATASETS


@DATASETS.register_module()
class SegmentationFolder(BaseSegDataset):
    """Images and label maps in images/<split>/<stem>.jpg and annotations/<split>/<stem>.png.

    Raises:
        UserError: a missing folder, an empty split, or files without their partner.
    """

    def __init__(
        self,
        data_root: str,
        split: str,  # sub-folder of images/ and annotations/
        pipeline: Sequence[Any] = (),
        metainfo: dict[str, Any] | None = None,  # classes, palette
        indices: int | Sequence[int] | None = None,  # the first so many, or these, of the sorted images
        reduce_zero_label: bool = False,  # id 0 means ignore, the classes start at 1
        test_mode: bool = False,
    ) -> None:
        self.split = split
        super().__init__(
            data_root=data_root,
            data_prefix={},
            metainfo=metainfo,
            indices=indices,
            pipeline=list(pipeline),
            reduce_zero_label=reduce_zero_label,
            test_mode=test_mode,
        )

    def load_data_list(self) -> list[dict[str, Any]]:
        """One entry per image, in the order of the stems."""
        return [
            _entry(self, img_path=str(pair.image), seg_map_path=str(pair.labels))
            for pair in labelled_images(self.data_root, self.split)
        ]


@DATASETS.register_module()
class CamVid(SegmentationFolder):
    """CamVid, 11 classes; see `perception.data.street_sets`."""

    METAINFO: ClassVar[dict[str, Any]] = {"classes": CAMVID_CLASSES, "palette": [list(c) for c in CAMVID_PALETTE]}


@DATASETS.register_module()
class WorldScenes(BaseSegDataset):
    """Street scenes of the miniature world with Cityscapes train ids; `RenderScene` draws them.

    Raises:
        UserError: an unknown split or domain.
    """

    METAINFO: ClassVar[dict[str, Any]] = {"classes": world.CLASSES, "palette": [list(c) for c in world.PALETTE]}

    def __init__(
        self,
        split: str,  # train, val or test: scenes of different seeds
        count: int,  # number of scenes
        domain: str = "clear",  # clear, night, fog, rain or snow
        size: tuple[int, int] = (128, 128),  # height, width [pixels]
        pipeline: Sequence[Any] = (),
        test_mode: bool = False,
    ) -> None:
        self.records = scene_records(split, count, domain, size)
        super().__init__(data_prefix={}, pipeline=list(pipeline), test_mode=test_mode)

    def load_data_list(self) -> list[dict[str, Any]]:
        """One entry per scene; `img_path` is its name, no file."""
        return [_entry(self, **record) for record in self.records]


@DATASETS.register_module()
class FixedViews:
    """Every sample of a data set in `views` versions; view-aware transforms read the number from `view`.

    Item i is view i // len(dataset) of sample i % len(dataset). The views are the same in every epoch, so that the
    features of a frozen backbone are computed once per view.
    """

    def __init__(
        self,
        dataset: dict[str, Any] | BaseDataset,
        views: int,
    ) -> None:
        if views < 1:
            raise UserError(f"FixedViews.views is {views}; expected at least 1")
        self.dataset: BaseDataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        self.views = views

    @property
    def metainfo(self) -> dict[str, Any]:
        """Classes and palette of the data set inside."""
        return self.dataset.metainfo

    def full_init(self) -> None:
        """Load the index of the data set inside."""
        self.dataset.full_init()

    def __len__(self) -> int:
        return len(self.dataset) * self.views

    def __getitem__(self, index: int) -> Any:
        view, sample = divmod(index, len(self.dataset))
        return self.dataset.pipeline({**self.dataset.get_data_info(sample), "view": view})


def _entry(dataset: BaseSegDataset, **fields: Any) -> dict[str, Any]:
    return {
        **fields,
        "label_map": dataset.label_map,
        "reduce_zero_label": dataset.reduce_zero_label,
        "seg_fields": [],
    }
