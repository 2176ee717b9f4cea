"""Both stages of the style swap under tools/train.py: losses, resume, export, pictures, and error sentences."""

import copy
import json
import shutil
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from PIL import Image

from perception.errors import UserError
from perception.generation import SceneGenerator, load_control, preset, with_denoiser
from perception.generation.labels import CITYSCAPES, one_hot
from perception.generation.prompts import names_in
from perception.generation.scenes import noise_stream
from perception.generation.styles import new_control
from perception.generation.training import stratified_timesteps
from perception.training.models.generators import ControlGenerator, SourceGenerator

CONFIGS = {stage: f"configs/dginstyle/{stage}_mini_world.py" for stage in ("source", "control")}


def _tool(name):
    spec = spec_from_file_location(f"tools_{name}", Path("tools") / f"{name}.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


train, evaluate = _tool("train"), _tool("test")


@pytest.fixture(autouse=True)
def fresh_iteration():
    """Outside a run the iteration is 0."""
    MessageHub.get_current_instance().update_info("iter", 0)


@pytest.fixture
def batch():
    """Two pictures [2, 3, 64, 64] and their data samples."""
    stream = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, 64, 64), generator=stream) / 255
    samples = []
    for number in range(2):
        sample = SegDataSample(metainfo={"img_path": f"scene-{number}"})
        labels = torch.randint(0, 19, (1, 64, 64), generator=stream)
        labels[:, :4] = 255
        sample.gt_sem_seg = PixelData(data=labels)
        samples.append(sample)
    return images, samples


def _model(stage, tiny_sd, **options):
    if stage == "source":
        return SourceGenerator(str(tiny_sd), **options)
    return ControlGenerator("perception.WorldScenes", str(tiny_sd), **options)


@pytest.mark.parametrize("stage", ["source", "control"])
def test_loss_is_that_of_the_network_for_the_same_noise(stage, tiny_sd, batch):
    model = _model(stage, tiny_sd, seed=3, timesteps="stratified")
    images, samples = batch
    loss = model(images, samples)["loss"]
    stream = noise_stream(3, "train/0/0")
    latents = model.prior.encode(images)
    noise = torch.randn(latents.shape, generator=stream)
    t = stratified_timesteps(2, model.prior.noise_path, stream)
    assert sorted((t // 500).tolist()) == [0, 1]
    labels = torch.cat([sample.gt_sem_seg.data for sample in samples])
    prompts = [""] if stage == "source" else [names_in(row.numpy(), CITYSCAPES.names) for row in labels]
    told = [model.prior.condition(prompts, truncate=True)] + ([] if stage == "source" else [[one_hot(labels, 19)]])
    assert loss.item() == pytest.approx(model.network(latents, t, noise, *told).item(), rel=1e-5)
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())
    assert all(p.grad is None for p in model.prior.parameters())
    MessageHub.get_current_instance().update_info("iter", 1)
    assert model(images, samples)["loss"].item() != loss.item()


def test_held_out_losses_do_not_depend_on_the_batch(tiny_sd, batch):
    model = _model("source", tiny_sd, draws=3)
    images, samples = batch
    both = [sample.losses["val_loss"] for sample in model(images, copy.deepcopy(samples), mode="predict")]
    MessageHub.get_current_instance().update_info("iter", 7)
    alone = model(images[1:], copy.deepcopy(samples[1:]), mode="predict")[0].losses["val_loss"]
    assert alone == pytest.approx(both[1], rel=1e-4)
    assert both[0] != both[1]


def test_swapped_loss_is_on_the_prior(tiny_sd, batch, tmp_path):
    source = _model("source", tiny_sd)
    with torch.no_grad():
        source.network.unet.conv_out.bias += 1
    source.network.unet.save_pretrained(tmp_path / "source")
    model = _model("control", tiny_sd, source=str(tmp_path / "source"))
    images, samples = batch
    swapped = model(images, copy.deepcopy(samples), mode="predict")[0].losses
    assert set(swapped) == {"val_loss", "val_loss_swapped"}
    plain = _model("control", tiny_sd)(images, copy.deepcopy(samples), mode="predict")[0].losses
    assert set(plain) == {"val_loss"}  # a new control changes nothing, so this is the prior's
    assert swapped["val_loss_swapped"] == pytest.approx(plain["val_loss"], rel=1e-5)
    assert swapped["val_loss"] > plain["val_loss"] + 0.1
    assert {name.split(".")[1] for name in model.state_dict()} == {"control"}


def test_latents_are_stored_or_drawn(tiny_sd, batch, tmp_path):
    images, _ = batch
    stored = _model("source", tiny_sd, store=str(tmp_path / "store"))
    calls = []
    handle = stored.prior.vae.encoder.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    first, again = stored.latents(images), stored.latents(images)
    handle.remove()
    assert calls == [2] and torch.equal(first, again)
    drawn = _model("source", tiny_sd, posterior="sample")
    one = drawn.latents(images, noise_stream(0, "a"))
    assert not torch.equal(one, drawn.latents(images, noise_stream(0, "b")))
    assert torch.equal(one, drawn.latents(images, noise_stream(0, "a")))


def test_a_copy_shares_the_frozen_parts(tiny_sd, tmp_path):
    model = _model("control", tiny_sd, store=str(tmp_path / "store"))
    twin = copy.deepcopy(model)
    assert twin.network.control is not model.network.control
    assert twin.network._denoiser.controls[0] is twin.network.control
    assert twin.prior is model.prior and twin.network._denoiser.backbone is model.base


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"timesteps": "even"}, "model.timesteps is 'even'; expected one of uniform, stratified"),
        ({"posterior": "mode"}, "model.posterior is 'mode'; expected one of mean, sample"),
        ({"draws": 0}, "model.draws is 0; expected at least 1"),
    ],
)
def test_bad_choices(tiny_sd, options, sentence):
    with pytest.raises(UserError, match=sentence):
        _model("source", tiny_sd, **options)


def test_networks_that_do_not_fit(tiny_sd, tiny_backbone, make_folder, tmp_path):
    other = make_folder("sd2_v_prediction") / "unet"
    with pytest.raises(UserError, match="use a UNet fine-tuned from this backbone's own"):
        _model("control", tiny_sd, source=str(other))
    new_control(tiny_backbone, 12).save_pretrained(tmp_path / "control")
    with pytest.raises(UserError, match='takes 12 channels, but 19 classes and "ignore" make 20'):
        _model("control", tiny_sd, control=str(tmp_path / "control"))
    with pytest.raises(UserError, match=r"has no config\.json"):
        _model("control", tiny_sd, source=str(tmp_path / "nowhere"))


def test_labels_out_of_range(tiny_sd, batch):
    images, samples = batch
    samples[1].gt_sem_seg.data[0, 0, 0] = 33
    with pytest.raises(UserError, match="holds the id 33, but there are 19 classes"):
        _model("control", tiny_sd)(images, samples)


@pytest.fixture
def run(tiny_sd, tmp_path):
    """Calls tools/train.py: stage, name of the work dir, options -> work dir."""
    common = {
        "model.backbone": tiny_sd,
        "model.store": tmp_path / "store",
        "train_dataloader.dataset.dataset.count": 4,
        "train_dataloader.dataset.dataset.size": "(64,64)",
        "train_dataloader.dataset.dataset.cache": tmp_path / "world",
        "val_dataloader.dataset.count": 2,
        "val_dataloader.dataset.size": "(64,64)",
        "val_dataloader.dataset.cache": tmp_path / "world",
        "train_cfg.val_interval": 1,
        "param_scheduler.0.end": 2,
        "custom_hooks.0.count": 1,
        "custom_hooks.0.steps": 2,
        "optim_wrapper.optimizer.lr": 1e-3,
    }
    for mode in ("train", "val"):
        common |= {f"{mode}_dataloader.num_workers": 0, f"{mode}_dataloader.batch_size": 2}
        common[f"{mode}_dataloader.persistent_workers"] = "False"

    def call(stage, name, *options, extra=()):
        work = tmp_path / name
        own = [f"{key}={value}" for key, value in common.items()]
        status = train([CONFIGS[stage], "--work-dir", str(work), *extra, "--cfg-options", *own, *options])
        assert status == 0
        return work

    return call


def _weights(file):
    return torch.load(file, weights_only=False, map_location="cpu")["state_dict"]


def test_source_stage_resumes_and_exports(run, tiny_backbone, tmp_path, monkeypatch):
    """A run that ended after its first epoch and is resumed has the weights of the uninterrupted one."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)  # GPUs add gradients up in any order
    options = ("train_cfg.max_epochs=2", "default_hooks.checkpoint.max_keep_ckpts=2")
    whole = run("source", "whole", *options)
    halves = shutil.copytree(whole, tmp_path / "halves", ignore=shutil.ignore_patterns("epoch_2.pth"))
    (halves / "last_checkpoint").write_text(str(halves / "epoch_1.pth"))
    run("source", "halves", *options, extra=["--resume"])
    wanted, found, first = (_weights(folder / f"epoch_{n}.pth") for folder, n in ((whole, 2), (halves, 2), (whole, 1)))
    assert all(torch.equal(value, found[key]) for key, value in wanted.items())
    assert not torch.equal(first["network.unet.conv_in.weight"], found["network.unet.conv_in.weight"])
    metrics = json.loads((halves / "metrics.json").read_text())
    assert [entry["epoch"] for entry in metrics["validation"]] == [1, 2]
    unet = with_denoiser(tiny_backbone, whole / "model").unet
    best = _weights(next(whole.glob("best_val_loss_*.pth")))
    assert torch.equal(unet.conv_in.weight, best["network.unet.conv_in.weight"].half().float())
    assert Image.open(whole / "samples" / "000002.png").size == (64, 64)


def test_control_stage_from_source_to_pictures(run, tiny_backbone, tmp_path, capfd):
    source = run("source", "source", "train_cfg.max_epochs=1", extra=["--amp"])
    work = run("control", "control", "train_cfg.max_epochs=1", f"model.source={source}/model", extra=["--ema", "0.5"])
    best = json.loads((work / "metrics.json").read_text())["best"]
    assert 0 < best["val_loss"] != best["val_loss_swapped"] > 0
    assert Image.open(work / "samples" / "000002.png").size == (5 * 64, 64)  # label map, scene, three domains
    control = load_control(work / "model", tiny_backbone)
    generator = SceneGenerator(tiny_backbone, [control], preset("exact", size=(64, 64), steps=1, rescale=1.0))
    (made,) = generator([generator.composer(np.zeros((64, 64), np.uint8), seed=0, sample_id="a")])
    assert made.image.size == (64, 64)
    facts = json.loads((work / "model" / "training.json").read_text())
    assert facts["backbone_fingerprint"] == tiny_backbone.fingerprint
    assert facts["base"] == f"{source}/model" and len(facts["classes"]) == 19
    assert "WorldScenes (split train, count 4, domain clear), 2 views" in (work / "model" / "README.md").read_text()
    assert "_name_or_path" not in (work / "model" / "config.json").read_text()
    assert evaluate([CONFIGS["control"], str(work / "model"), "--work-dir", str(tmp_path / "t")]) == 2
    assert "make pictures with `perception generate`" in capfd.readouterr().err
