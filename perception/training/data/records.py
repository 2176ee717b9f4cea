"""Training data: one data set class over pure sources, and one transform that reads a record.

A source is a plain object without mm*, usable in plain PyTorch. A new one, and its registered name, are all that a new
task or data set needs:

    class PhraseCut:                                   # perception/data/phrasecut.py: phrases (LD-ZNet)
        metainfo: ClassVar = {"task": "referring"}

        def __init__(self, data_root: str, split: str) -> None:
            self.phrases = read_phrases(data_root, split)

        def __len__(self) -> int:
            return len(self.phrases)

        def about(self, index: int) -> dict[str, Any]:   # known without opening a picture
            return {"img_path": str(self.phrases[index].image)}

        def record(self, index: int) -> dict[str, Any]:
            phrase = self.phrases[index]
            return {"image": ..., "sentence": phrase.text, "mask": phrase.mask}

    @DATASETS.register_module()
    class PhraseCut(Records, source=phrasecut.PhraseCut): ...    # here, below

A source of captions (LaDiC) returns {"image": ..., "caption": "a red car"}, one of few-shot episodes (DiffewS)
{"image": ..., "mask": ..., "episode": {"images": [...], "masks": [...]}}: what `ReadRecord` does not know is handed on
under its own name, and PackSegInputs carries it where `meta_keys` names it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.datasets import BaseSegDataset

from perception.data import nyu, refcoco, segmentation_folder, street_sets, world_scenes
from perception.generation import finished_set
from perception.training.data.transforms import Sample, view_generator, with_image, with_labels
from perception.training.registry import DATASETS, TRANSFORMS

_MAPS = {"labels": "gt_seg_map", "mask": "gt_seg_map", "depth": "gt_depth_map"}  # part of a record -> mmseg's name


class Source(Protocol):
    """Pictures with their ground truth, by number."""

    @property
    def metainfo(self) -> Mapping[str, Any]:
        """`classes` and `palette`, or the `task`."""

    def __len__(self) -> int: ...

    def about(self, index: int) -> dict[str, Any]:
        """What is known without opening the picture: `img_path`, from which random crops are drawn, and more."""

    def record(self, index: int) -> dict[str, Any]:
        """`image` (RGB uint8 [H, W, 3]) and its truth.

        `labels` or `mask` [H, W], `depth` [H, W] (metres, 0 = none), `sentence`, `caption`, `episode`; or several
        `sentences` with `masks` and a `key`, of which each view shows one.
        """


class Records(BaseSegDataset):
    """The records of a source as a data set of mmseg.

    A subclass with `source=CLASS` is made of the options of that class and of the ones here.
    """

    _make: ClassVar[Callable[..., Source]]

    def __init_subclass__(cls, source: type[Source] | None = None, **more: Any) -> None:
        super().__init_subclass__(**more)
        if source is not None:
            cls._make, cls.METAINFO = source, dict(getattr(source, "metainfo", {}))
            cls.__init__ = _constructor(source)  # type: ignore[method-assign]

    def __init__(
        self,
        source: Source,
        pipeline: Sequence[Any] = (),
        indices: int | Sequence[int] | None = None,  # the first so many, or these
        test_mode: bool = False,
    ) -> None:
        self.source = source
        own = None if source.metainfo == self.METAINFO else dict(source.metainfo)
        super().__init__(data_prefix={}, metainfo=own, pipeline=list(pipeline), indices=indices)
        self.test_mode = test_mode  # set here, because mmseg refuses it for data without classes

    def load_data_list(self) -> list[dict[str, Any]]:
        """What the source knows about every record, and its number."""
        common: dict[str, Any] = {"seg_fields": []}
        if "classes" in self.metainfo:
            common.update({"label_map": self.label_map, "reduce_zero_label": False})
        return [{**common, "record": number, **self.source.about(number)} for number in range(len(self.source))]

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """The entry of a record with the `source` that reads it."""
        return {**super().get_data_info(idx), "source": self.source}


def _constructor(source: type[Source]) -> Callable[..., None]:
    """`__init__` with the options of a source, then those of `Records`; the config check reads its signature."""

    def init(
        self: Records,
        *given: Any,
        pipeline: Sequence[Any] = (),
        indices: int | Sequence[int] | None = None,
        test_mode: bool = False,
        **options: Any,
    ) -> None:
        Records.__init__(self, source(*given, **options), pipeline, indices, test_mode)

    own, *common = inspect.signature(init).parameters.values()
    shown = [p for p in common if p.kind is p.KEYWORD_ONLY]
    init.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [own, *inspect.signature(source).parameters.values(), *shown]
    )
    return init


@DATASETS.register_module()
class SegmentationFolder(Records, source=segmentation_folder.SegmentationFolder):
    """Images and label maps in images/<split> and annotations/<split>."""


@DATASETS.register_module()
class CamVid(Records, source=street_sets.CamVid):
    """CamVid, 11 classes."""


@DATASETS.register_module()
class StreetScenes(Records, source=street_sets.StreetScenes):
    """A real set of domain generalisation by its name."""


@DATASETS.register_module()
class GeneratedScenes(Records, source=finished_set.GeneratedScenes):
    """A folder made by `perception generate`."""


@DATASETS.register_module()
class WorldScenes(Records, source=world_scenes.WorldScenes):
    """Street scenes of the miniature world with Cityscapes train ids."""


@DATASETS.register_module()
class WorldDepth(Records, source=world_scenes.WorldDepth):
    """Street scenes of the miniature world with depth."""


@DATASETS.register_module()
class WorldExpressions(Records, source=world_scenes.WorldExpressions):
    """Street scenes of the miniature world with referring expressions."""


@DATASETS.register_module()
class RefCOCO(Records, source=refcoco.RefCOCO):
    """RefCOCO, RefCOCO+ or RefCOCOg."""


@DATASETS.register_module()
class NYUDepth(Records, source=nyu.NYUDepth):
    """NYU Depth v2 with the room of each frame."""


@TRANSFORMS.register_module()
class ReadRecord(BaseTransform):
    """A record of `Records` -> `img`, `gt_seg_map` or `gt_depth_map`, `sentence` and whatever else it holds.

    Of several sentences, the view of `FixedViews` shows one: views go through all of a picture, in an order drawn from
    (seed, picture), and then begin again.
    """

    def __init__(
        self,
        seed: int = 0,  # seed of the order
    ) -> None:
        self.seed = seed

    def transform(self, results: Sample) -> Sample:
        """Read and add the parts of the record; masks become uint8 (0, 1)."""
        record = results["source"].record(results["record"])
        if "sentences" in record:
            record = self._chosen(record, results.get("view", 0))
        with_image(results, record.pop("image"))
        for part, value in record.items():
            if part in _MAPS:
                with_labels(results, value.astype(np.uint8) if part == "mask" else value, _MAPS[part])
            else:
                results[part] = value
        return results

    def _chosen(self, record: dict[str, Any], view: int) -> dict[str, Any]:
        """The record with the one sentence and mask of a view."""
        sentences, masks, key = (record.pop(part) for part in ("sentences", "masks", "key"))
        order = view_generator(self.seed, key, 0).permutation(len(sentences))
        number = int(order[view % len(sentences)])
        return {**record, "sentence": sentences[number], "mask": masks[number]}
