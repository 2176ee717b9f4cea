"""mmengine data sets of pictures with sentences, and of pictures with depth: the miniature world, RefCOCO, NYUv2.

Their samples go through the pipelines of mmseg: `RenderExpression` or `ReadReference`, `RenderDepth` or `ReadDepth`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from mmengine.dataset import BaseDataset

from perception.data import nyu, refcoco
from perception.data.nyu import room_id
from perception.training.data.rendering import Place, scene_arrays, scene_records
from perception.training.registry import DATASETS


class _Records(BaseDataset):
    """A data set whose entries are known when it is made."""

    def __init__(self, records: list[dict[str, Any]], pipeline: Sequence[Any], test_mode: bool) -> None:
        self._records = records
        super().__init__(pipeline=list(pipeline), test_mode=test_mode, data_prefix={})

    def load_data_list(self) -> list[dict[str, Any]]:
        """The entries."""
        return self._records


@DATASETS.register_module()
class WorldExpressions(_Records):
    """Referring expressions of street scenes: in training one per view of a scene, else every one, with a `name`.

    Raises:
        UserError: an unknown split or domain.
    """

    METAINFO: ClassVar[dict[str, Any]] = {"task": "referring"}

    def __init__(
        self,
        split: str,  # train, val or test: scenes of different seeds
        count: int,  # number of scenes
        domain: str = "clear",  # clear, night, fog, rain or snow
        size: tuple[int, int] = (128, 128),  # height, width [pixels]
        every: bool = False,  # one entry per expression instead of one per scene; renders all scenes at once
        cache: str | None = None,  # folder of rendered scenes, as in RenderExpression; read by `every`
        pipeline: Sequence[Any] = (),
        test_mode: bool = False,
    ) -> None:
        records = scene_records(split, count, domain, size)
        if every:
            folder = Path(cache) if cache else None
            records = [
                {**r, "expression": i, "name": f"{r['img_path']}_{i}"}
                for r in records
                for i in range(_expressions(r["scene"], folder))
            ]
        super().__init__(records, pipeline, test_mode)


@DATASETS.register_module()
class WorldDepth(_Records):
    """Street scenes with depth in metres; the sky has none.

    Raises:
        UserError: an unknown split or domain.
    """

    METAINFO: ClassVar[dict[str, Any]] = {"task": "depth"}

    def __init__(
        self,
        split: str,  # train, val or test: scenes of different seeds
        count: int,  # number of scenes
        domain: str = "clear",  # clear, night, fog, rain or snow
        size: tuple[int, int] = (128, 128),  # height, width [pixels]
        pipeline: Sequence[Any] = (),
        test_mode: bool = False,
    ) -> None:
        super().__init__(scene_records(split, count, domain, size), pipeline, test_mode)


@DATASETS.register_module()
class RefCOCO(_Records):
    """RefCOCO, RefCOCO+ or RefCOCOg; see `perception.data.refcoco`. With `every`, entries have a `name` of their own.

    Raises:
        UserError: a missing file or split, or an empty sentence.
    """

    METAINFO: ClassVar[dict[str, Any]] = {"task": "referring"}

    def __init__(
        self,
        data_root: str,
        name: str,  # refcoco, refcoco+ or refcocog
        split: str,  # train, val, testA, testB; refcocog: train, val, test
        author: str | None = None,  # of the split; default: unc, umd for refcocog
        images: str = refcoco.IMAGES,  # folder of the photographs below data_root
        every: bool = False,  # one entry per sentence (evaluation) instead of one per reference (training)
        count: int | None = None,  # the first so many references
        pipeline: Sequence[Any] = (),
        test_mode: bool = False,
    ) -> None:
        references = refcoco.read_references(data_root, name, split, author, images)[:count]
        records: list[dict[str, Any]] = [{"reference": r, "img_path": str(r.image)} for r in references]
        if every:
            records = [
                {**r, "expression": i, "name": f"{r['reference'].image.stem}_{r['reference'].ref_id}_{i}"}
                for r in records
                for i in range(len(r["reference"].sentences))
            ]
        super().__init__(records, pipeline, test_mode)


@DATASETS.register_module()
class NYUDepth(_Records):
    """NYU Depth v2 with the room of each frame; see `perception.data.nyu`.

    Raises:
        UserError: a missing folder or file list.
    """

    METAINFO: ClassVar[dict[str, Any]] = {"task": "depth"}

    def __init__(
        self,
        data_root: str,
        folder: str,  # of the split, for example "sync" or "official_splits/test"
        file_list: str | None = None,  # below data_root; None: every pair in the folder
        count: int | None = None,  # the first so many frames
        pipeline: Sequence[Any] = (),
        test_mode: bool = False,
    ) -> None:
        frames = nyu.read_frames(data_root, folder, file_list)[:count]
        records = [
            {
                "img_path": str(frame.image),
                "depth_path": str(frame.depth),
                "name": frame.name,
                "given": room_id(frame.name),
            }
            for frame in frames
        ]
        super().__init__(records, pipeline, test_mode)


def _expressions(place: Place, cache: Path | None) -> int:
    return len(scene_arrays(place, "expressions", cache)["texts"])
