"""Referring and depth networks under mmengine: losses, predictions, the store, and tools/train.py from end to end."""

import copy
import json
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from PIL import Image
from safetensors.torch import load_file

from perception.depth import DepthNet, silog_loss
from perception.segmentation.referring import ReferringNet, referring_loss
from perception.training.models.frozen import shared_backbone
from perception.training.models.tasks import DepthEstimator, ReferringSegmentor

CONFIGS = {"referring": "configs/vpd/refer_mini_world.py", "depth": "configs/vpd/depth_mini_world.py"}
KEY = {"referring": "oIoU", "depth": "rmse"}


def _tool(name):
    spec = spec_from_file_location(f"tools_{name}", Path("tools") / f"{name}.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


train, evaluate = _tool("train"), _tool("test")


def _images(count=2, height=64, width=128):
    return torch.randint(0, 256, (count, 3, height, width), generator=torch.Generator().manual_seed(0)) / 255


def _samples(images, **fields):
    size = tuple(images.shape[-2:])
    samples = [SegDataSample(metainfo={"img_shape": size, "ori_shape": size}) for _ in images]
    for name, values in fields.items():
        for sample, value in zip(samples, values, strict=True):
            if isinstance(value, torch.Tensor):
                sample.set_data({name: PixelData(data=value)})
            else:
                sample.set_metainfo({name: value})
    return samples


@pytest.fixture
def referring(tiny_sd, tmp_path):
    network = {"type": ReferringNet, "backbone": str(tiny_sd), "length": 8, "hidden": 8}
    return ReferringSegmentor(network, store=str(tmp_path / "store"))


@pytest.fixture
def depth(tiny_sd, tmp_path):
    network = {
        "type": DepthNet,
        "backbone": str(tiny_sd),
        "templates": ["a {}"],
        "fusion_channels": 8,
        "num_filters": [8, 8, 8],
        "decoder_channels": 8,
    }
    return DepthEstimator(network, store=str(tmp_path / "store"))


@pytest.fixture
def calls(tiny_sd):
    """Counts the images that VAE and denoiser of the shared backbone see."""
    seen = {"vae": 0, "unet": 0}
    backbone = shared_backbone(str(tiny_sd), "float32", None, None)

    def counter(name):
        return lambda module, args: seen.__setitem__(name, seen[name] + len(args[0]))

    hooks = [
        backbone.vae.encoder.register_forward_pre_hook(counter("vae")),
        backbone.unet.conv_in.register_forward_pre_hook(counter("unet")),
    ]
    yield seen
    for hook in hooks:
        hook.remove()


def test_referring_loss_is_that_of_the_network(referring):
    images, sentences = _images(), ["the red car", "a dog"]
    masks = torch.zeros(2, 1, 64, 128, dtype=torch.int64)
    masks[..., :40] = 1
    samples = _samples(images, gt_sem_seg=list(masks), sentence=sentences)
    losses = referring(images, samples, mode="loss")
    wanted = referring_loss(referring.network(images, sentences), masks[:, 0])
    assert losses["loss"].item() == pytest.approx(wanted.item(), rel=1e-2)  # features went through half precision
    losses["loss"].backward()
    assert all(p.grad is not None for p in referring.parameters())


def test_masks_come_at_the_size_of_the_ground_truth(referring):
    images = _images(1)
    sample = _samples(images, gt_sem_seg=[torch.zeros(1, 50, 90, dtype=torch.int64)], sentence=["a dog"])
    (predicted,) = referring.eval()(images, sample, mode="predict")
    assert predicted.pred_sem_seg.data.shape == (1, 50, 90)
    (predicted,) = referring(images, _samples(images, sentence=["a dog"]), mode="predict")
    assert predicted.pred_sem_seg.data.shape == (1, 64, 128)


def test_depth_loss_is_that_of_the_network(depth):
    images, rooms = _images(height=60, width=100), [3, -1]
    truth = torch.rand(2, 1, 60, 100, generator=torch.Generator().manual_seed(1)) * 9
    samples = _samples(images, gt_depth_map=list(truth), given=rooms)
    losses = depth(images, samples, mode="loss")
    assert losses["loss"].item() == pytest.approx(silog_loss(depth.network(images, rooms), truth).item(), rel=1e-2)
    losses["loss"].backward()
    assert all(p.grad is not None for p in depth.parameters())
    padded = depth.network.pad(images)
    here, there = depth.features(padded, rooms), depth.features(padded, [5, 5])
    assert not torch.equal(here[0], there[0])  # the room matters


def test_depth_windows_and_mirror_images(depth):
    images = _images(1, 64, 100)
    sample = _samples(images, gt_depth_map=[torch.ones(1, 64, 100)], given=[2])
    depth.eval()
    (whole,) = depth(images, copy.deepcopy(sample), mode="predict")
    depth.windows, depth.flip = 2, True
    (windows,) = depth(images, copy.deepcopy(sample), mode="predict")
    assert whole.pred_depth_map.data.shape == windows.pred_depth_map.data.shape == (1, 64, 100)
    assert windows.pred_depth_map.data.isfinite().all()


def test_depth_and_mirror_images_without_windows(depth, monkeypatch):
    images, ramp = _images(1, 64, 128), torch.linspace(0, 1, 128)
    monkeypatch.setattr(depth, "depth", lambda pixels, given: pixels[:, :1] + ramp)  # what lies right is farther
    depth.flip = True
    (found,) = depth(images, _samples(images, gt_depth_map=[torch.ones(1, 64, 128)]), mode="predict")
    assert torch.allclose(found.pred_depth_map.data, images[0, :1] + 0.5)


def test_features_are_computed_once_per_image_and_sentence(referring, calls):
    images = _images()
    for _ in range(2):
        referring.features(images, ["a dog", "a cat"])
    assert calls == {"vae": 2, "unet": 2}
    referring.features(images, ["a dog", "a bird"])
    assert calls == {"vae": 2, "unet": 3}
    twin = copy.deepcopy(referring)
    assert twin._features.vpd is twin.network.encoder is not referring.network.encoder
    assert twin.network.backbone is referring.network.backbone


def _options(task, tiny_sd, tmp_path):
    options = {
        "model.network.backbone": tiny_sd,
        "model.store": tmp_path / "store",
        "train_cfg.max_epochs": 2,
        "train_cfg.val_interval": 1,
        "param_scheduler.0.end": 2,
        "train_dataloader.dataset.views": 1,
        "train_dataloader.dataset.dataset.count": 4,
        "train_dataloader.dataset.dataset.size": "(64,64)",
        "val_dataloader.dataset.size": "(64,64)",
        "test_dataloader.dataset.size": "(64,64)",
        "val_dataloader.dataset.count": 1,
        "test_dataloader.dataset.count": 1,
    }
    if task == "referring":
        options |= {"model.network.hidden": 8, "val_dataloader.dataset.cache": tmp_path / "world"}
        options["test_dataloader.dataset.cache"] = tmp_path / "world"
        options |= {"model.network.train": "head", "model.network.adapter": "False"}  # frozen, so features are stored
    else:
        options |= {"model.network.fusion_channels": 8, "model.network.num_filters": "[8,8,8]"}
    for mode in ("train", "val", "test"):
        options |= {f"{mode}_dataloader.num_workers": 0, f"{mode}_dataloader.batch_size": 2}
        options[f"{mode}_dataloader.persistent_workers"] = "False"
        prefix = f"{mode}_dataloader.dataset." + ("dataset." if mode == "train" else "")
        options[f"{prefix}cache"] = tmp_path / "world"
    return [f"{key}={value}" for key, value in options.items()]


@pytest.mark.parametrize("task", list(CONFIGS))
def test_train_and_test(task, tiny_sd, tmp_path, calls, capfd):
    options, work = _options(task, tiny_sd, tmp_path), tmp_path / "run"
    assert train([CONFIGS[task], "--work-dir", str(work), "--cfg-options", *options, "train_cfg.max_epochs=1"]) == 0
    first = dict(calls)
    assert first["vae"] > 0
    assert first["unet"] > 0
    assert train([CONFIGS[task], "--work-dir", str(work), "--resume", "--cfg-options", *options]) == 0
    assert calls == first  # the second epoch and its validation ran neither VAE nor denoiser

    metrics = json.loads((work / "metrics.json").read_text())
    figures = [entry[KEY[task]] for entry in metrics["validation"]]
    assert metrics["best"][KEY[task]] == (min if task == "depth" else max)(figures)
    config = json.loads((work / "model" / "config.json").read_text())
    assert config["task"] == task
    assert config["image_size"] == [64, 64]
    assert config["metrics"][KEY[task]] == metrics["best"][KEY[task]]
    kind = {"referring": ReferringNet, "depth": DepthNet}[task]
    loaded = kind.from_pretrained(work / "model")
    assert set(loaded.state_dict()) == set(load_file(work / "model" / "model.safetensors"))

    (checkpoint,) = work.glob(f"best_{KEY[task]}_*.pth")
    reports = []
    for weights in (work / "model", checkpoint):
        pictures = tmp_path / f"pictures{weights.suffix}"
        common = ["--work-dir", str(tmp_path / "test"), "--show-dir", str(pictures)]
        assert evaluate([CONFIGS[task], str(weights), *common, "--cfg-options", *options]) == 0
        assert {Image.open(path).size for path in pictures.glob("*.png")} == {(3 * 64, 64)}
        reports.append(json.loads((tmp_path / "test" / "test_metrics.json").read_text()))
    assert reports[0] == reports[1]

    other = next(config for name, config in CONFIGS.items() if name != task)
    assert evaluate([other, str(work / "model"), "--work-dir", str(tmp_path / "other")]) == 2
    assert f"is a model for {task}, but the data of this config are for" in capfd.readouterr().err


@pytest.mark.parametrize("task", list(CONFIGS))
@pytest.mark.parametrize("control", ["model.network.encoder=resnet18", "model.network.random_init_seed=0"])
def test_controls_train(task, control, tiny_sd, tmp_path):
    alone = ["model.network.side=None"] if task == "depth" and "encoder" in control else []
    options = [*_options(task, tiny_sd, tmp_path), "train_cfg.max_epochs=1", control, *alone]
    assert train([CONFIGS[task], "--work-dir", str(tmp_path / "run"), "--cfg-options", *options]) == 0
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()


def test_what_would_stay_untrained_is_refused(tiny_sd, tmp_path, capfd):
    options = [*_options("depth", tiny_sd, tmp_path), "model.network.adapter=True"]
    assert train([CONFIGS["depth"], "--work-dir", str(tmp_path / "run"), "--cfg-options", *options]) == 2
    assert "train: train='head' trains nothing before the head, so adapter=True would have" in capfd.readouterr().err
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_mistakes_inside_the_network_are_found(capfd):
    assert train([CONFIGS["referring"], "--cfg-options", "model.network.lenght=3", "model.wights=[1]"]) == 2
    error = capfd.readouterr().err
    assert "ReferringNet takes no 'lenght'; did you mean length?" in error
    assert "ReferringSegmentor takes no 'wights'; did you mean weights?" in error
