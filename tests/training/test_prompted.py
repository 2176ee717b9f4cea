"""Captions per image: read, told to the denoiser, trained and tested from end to end; and what can be wrong there."""

import json
from pathlib import Path

import pytest
import torch
from mmengine.config import ConfigDict
from mmseg.structures import SegDataSample

from perception.errors import UserError
from perception.training import app
from perception.training.config.channels import with_channels
from perception.training.config.load import Overrides, load_config
from perception.training.export.weights import read_checkpoint
from perception.training.models.prompted import ReadCaption
from perception.training.registry import MODELS

STEMS = [f"{split}{i}" for split, count in (("train", 4), ("val", 2), ("test", 2)) for i in range(count)]


@pytest.fixture
def table(tmp_path):
    """A JSON file of captions for the small CamVid folder."""
    (tmp_path / "captions.json").write_text(json.dumps({stem: f"a street,\nnumber {stem[-1]}" for stem in STEMS}))
    return tmp_path / "captions.json"


@pytest.fixture
def config(small, camvid_folder, table, tmp_path):
    """VPD on CamVid with captions in place of class names, as a user would write it."""
    options = ["model.backbone.conditioning=captions", "train_cfg.max_epochs=1", "model.decode_head.dropout_ratio=0.0"]
    made = load_config("configs/vpd/vpd_mini_camvid.py", Overrides([*small, *options], str(camvid_folder)))
    made.model.type = "perception.PromptedSegmentor"
    train = made.train_dataloader.dataset.dataset
    for dataset in (train, made.val_dataloader.dataset, made.test_dataloader.dataset):
        pack = {**dataset.pipeline[-1], "meta_keys": ["img_path", "ori_shape", "img_shape", "caption"]}
        dataset.pipeline = [*dataset.pipeline[:-1], {"type": "perception.ReadCaption", "source": str(table)}, pack]
    made.dump(tmp_path / "captioned.py")
    return tmp_path / "captioned.py"


def test_train_and_test(config, tmp_path):
    folder = app.train(config, Overrides(work_dir=str(tmp_path / "run")))
    stored = json.loads((folder / "config.json").read_text())
    assert stored["model"]["type"] == "perception.PromptedSegmentor"
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    (checkpoint,) = (tmp_path / "run").glob("best_*.pth")
    before = MODELS.build(ConfigDict(stored["model"])).state_dict()
    trained = read_checkpoint(checkpoint)
    moved = {name for name, value in trained.items() if value.dtype.is_floating_point and (value != before[name]).any()}
    assert {"neck.lateral_convs.1.conv.weight", "decode_head.conv_seg.weight"} <= moved
    assert metrics["best"]["mIoU"] >= 0
    report = app.test(config, folder, Overrides(work_dir=str(tmp_path / "test")))
    assert report["pixels"] > 0


def segmentor(tiny_sd, **backbone):
    told = {"type": "perception.VPDFeatures", "name": str(tiny_sd), "conditioning": "captions", "length": 8, **backbone}
    head = {"type": "FPNHead", "in_index": [0, 1, 2, 3], "channels": 8, "num_classes": 3}
    model = {
        "type": "perception.PromptedSegmentor",
        "backbone": told,
        "neck": {"type": "FPN", "out_channels": 8, "num_outs": 4},
        "decode_head": head,
        "train_cfg": {},
        "test_cfg": {"mode": "slide", "crop_size": (64, 64), "stride": (64, 64)},
    }
    built = MODELS.build(ConfigDict(with_channels(model))).eval()
    return built.to(built.backbone.vpd.backbone.device)


def samples(*captions):
    size = {"ori_shape": (64, 128), "img_shape": (64, 128), "img_path": "street.png"}
    return [SegDataSample(metainfo=size | ({} if c is None else {"caption": c})) for c in captions]


@torch.no_grad()
def test_each_image_is_told_its_own(tiny_sd):
    model = segmentor(tiny_sd)
    images = torch.rand(1, 3, 64, 128, generator=torch.Generator().manual_seed(0)).expand(2, -1, -1, -1)
    images = images.to(model.backbone.vpd.backbone.device)

    def logits(*captions):
        return [s.seg_logits.data for s in model(images[: len(captions)], samples(*captions), mode="predict")]

    red, blue = logits("a red car", "a blue bus")
    assert not torch.allclose(red, blue, atol=1e-4)
    assert torch.allclose(logits("a blue bus")[0], blue, atol=1e-4)
    assert model.backbone.given is None
    with pytest.raises(UserError, match=r"street.png has no caption; put perception.ReadCaption into the pipeline"):
        logits("a red car", None)
    with pytest.raises(UserError, match="a sentence is empty"):
        logits("a red car", " ")
    with pytest.raises(UserError, match="this backbone is told a caption per image, and none came"):
        model.backbone(images)


def test_backbones_without_captions(tiny_sd):
    with pytest.raises(UserError, match="PromptedSegmentor hands captions to its backbone, which takes none"):
        segmentor(tiny_sd, conditioning="class_names", names=["road", "sky", "car"])


def test_folder_and_table_read_the_same(table, tmp_path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "train1.txt").write_text(" a street,\nnumber 1\n")
    for source in (table, tmp_path / "texts"):
        assert ReadCaption(str(source))({"img_path": "images/train1.jpg"})["caption"] == "a street, number 1"


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("none.json", None, r"none.json do not exist; name a folder of <image stem>.txt or a JSON file"),
        ("torn.json", "{", r"torn.json is no JSON \(.*\); correct it"),
        ("list.json", "[]", "list.json holds a list; expected one object {stem: caption}"),
        ("other.json", '{"b": "x"}', "other.json has no caption for 'a'; expected a sentence under every image's stem"),
        ("number.json", '{"a": 3}', "number.json has no caption for 'a'"),
        ("empty.json", '{"a": " "}', "the caption of a in .*empty.json is empty; write what the image shows"),
        ("texts/b.txt", "x", "texts has no a.txt; every image needs a caption in a file of its name"),
        ("texts/a.txt", "\n", "the caption of a in .*texts is empty"),
    ],
)
def test_bad_captions(tmp_path, name, content, sentence):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    if content is not None:
        path.write_text(content)
    source = path.parent if Path(name).parts[0] == "texts" else path
    with pytest.raises(UserError, match=sentence):
        ReadCaption(str(source))({"img_path": "images/a.jpg"})
