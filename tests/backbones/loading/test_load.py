"""Loading: what a backbone is made of, its fingerprint, its random control, and every bad folder."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file

from perception.backbones import FeatureSpec, load_backbone
from perception.backbones.image_size import image_size
from perception.backbones.loading import hub
from perception.backbones.loading import load as loading
from perception.errors import UserError

UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"
IMAGE = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
MID = FeatureSpec(("mid_block",))


@pytest.fixture()
def folder(make_folder: Callable[[str], Path]) -> Path:
    """A fresh copy of tiny-sd that a test may break."""
    return make_folder("sd1")


def load(folder: Path, **options: object):
    """load_backbone on the CPU."""
    return load_backbone(folder, device="cpu", **options)


def change_weights(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Rewrite a safetensors file."""
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


def test_sizes_come_from_the_folder(folder: Path) -> None:
    backbone = load(folder)
    assert (backbone.latent_channels, backbone.latent_stride, backbone.num_train_timesteps) == (4, 8, 1000)
    assert backbone.max_text_tokens == 77 and backbone.name == str(folder)
    assert backbone.noise_path.prediction_type == "epsilon"


@pytest.mark.parametrize(("dtype", "vae"), [("bfloat16", torch.bfloat16), (torch.float16, torch.float32)])
def test_half_precision(folder: Path, dtype: object, vae: torch.dtype) -> None:
    full, half = load(folder), load(folder, dtype=dtype)
    assert half.dtype == half.condition([""]).hidden.dtype != torch.float32
    assert next(half.vae.parameters()).dtype == vae, "an autoencoder with force_upcast overflows in float16"
    latents = half.encode(IMAGE)
    assert latents.dtype == torch.float32
    prediction = half.denoise(half.noise(latents, 200, torch.zeros_like(latents)), 200, half.condition([""]))
    assert prediction.raw.dtype == half.dtype and prediction.x0.dtype == prediction.alpha.dtype == torch.float32
    a, b = half.features(IMAGE, MID)["mid_block"], full.features(IMAGE, MID)["mid_block"]
    assert a.dtype == half.dtype and (a.float() - b).abs().max() < 0.1 * b.abs().max()


def test_half_precision_files_are_cast_to_the_asked_dtype(folder: Path) -> None:
    for name in (UNET, VAE, TEXT):
        change_weights(folder / name, lambda w: w.update({k: v.half() for k, v in w.items()}))
    backbone = load(folder)
    assert {p.dtype for p in backbone.parameters()} == {torch.float32}


def test_variant_files_and_shards(folder: Path) -> None:
    expected = load(folder).features(IMAGE, MID)["mid_block"]
    (folder / TEXT).rename(folder / "text_encoder/model.fp16.safetensors")
    backbone = load(folder)
    backbone.unet.save_pretrained(folder / "unet", max_shard_size="3MB")
    (folder / UNET).unlink()
    assert len(list((folder / "unet").glob("*-of-*.safetensors"))) > 1
    torch.testing.assert_close(load(folder).features(IMAGE, MID)["mid_block"], expected, rtol=1e-4, atol=1e-4)


def test_old_attention_names_of_the_autoencoder(folder: Path) -> None:
    expected = load(folder).encode(IMAGE)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def rename(weights: dict[str, torch.Tensor]) -> None:
        for key in [k for k in weights if "mid_block.attentions" in k]:
            name = key
            for new, before in old.items():
                name = name.replace(new, before)
            weights[name] = weights.pop(key)

    change_weights(folder / VAE, rename)
    torch.testing.assert_close(load(folder).encode(IMAGE), expected)


def test_old_names_of_the_text_encoder(folder: Path) -> None:
    expected = load(folder).condition(["a cat"]).hidden

    def rename(weights: dict[str, torch.Tensor]) -> None:
        for key in list(weights):
            weights[f"text_model.{key}"] = weights.pop(key)
        weights["text_model.embeddings.position_ids"] = torch.arange(77)[None]

    change_weights(folder / TEXT, rename)
    torch.testing.assert_close(load(folder).condition(["a cat"]).hidden, expected)


def test_fingerprint(folder: Path, tmp_path: Path, edit: Callable[..., None]) -> None:
    first = load(folder).fingerprint
    assert len(first) == 16 and int(first, 16) >= 0
    shutil.copytree(folder, tmp_path / "elsewhere")
    edit(tmp_path / "elsewhere/unet/config.json", _diffusers_version="9.9", _name_or_path="x")
    assert load(tmp_path / "elsewhere").fingerprint == first
    others = [
        load(folder, **o).fingerprint for o in ({"dtype": "bf16"}, {"random_init_seed": 0}, {"random_init_seed": 1})
    ]
    change_weights(folder / VAE, lambda w: w["encoder.conv_in.bias"].add_(1e-3))
    others.append(load(folder).fingerprint)
    edit(folder / "scheduler/scheduler_config.json", prediction_type="v_prediction")
    others.append(load(folder).fingerprint)
    assert len({first, *others}) == 6


def test_the_fingerprint_passes_over_what_is_no_tokenizer_file(folder: Path) -> None:
    before = load(folder).fingerprint
    (folder / "tokenizer" / ".DS_Store").write_bytes(b"x")
    (folder / "tokenizer" / "onnx").mkdir()
    assert load(folder).fingerprint == before


def test_random_control(folder: Path) -> None:
    state = torch.get_rng_state()
    a, b, c = (load(folder, random_init_seed=seed) for seed in (0, 0, 1))
    assert torch.equal(state, torch.get_rng_state())
    trained = load(folder)
    for name, value in a.state_dict().items():
        assert torch.equal(value, b.state_dict()[name])
        if name.endswith("weight") and "norm" not in name:
            assert not torch.equal(value, c.state_dict()[name]), name
            assert not torch.equal(value, trained.state_dict()[name]), name
    assert list(a.taps) == list(trained.taps)
    assert a.features(IMAGE, MID)["mid_block"].isfinite().all()


@pytest.mark.parametrize(("cells", "pixels"), [(8, (64, 64)), ([8, 12], (64, 96)), (None, None)])
def test_the_size_of_the_training_is_what_the_config_says(
    folder: Path, edit: Callable[..., None], cells: object, pixels: object
) -> None:
    edit(folder / "unet/config.json", sample_size=cells)
    backbone = load(folder)
    if pixels is None:
        with pytest.raises(UserError, match="does not say which size it was trained at; add --size, in pixels"):
            image_size(backbone)
    else:
        assert image_size(backbone) == pixels


def test_another_autoencoder(folder: Path, make_folder: Callable[[str], Path]) -> None:
    tiny = make_folder("tiny_autoencoder")
    swapped = [load(folder, vae=path) for path in (tiny, tiny / "vae")]
    assert {type(b.vae).__name__ for b in swapped} == {"AutoencoderTiny"}
    assert swapped[0].fingerprint == swapped[1].fingerprint == load(tiny).fingerprint != load(folder).fingerprint
    with pytest.raises(
        UserError, match=r"unet/?.* cannot be used: vae is a UNet2DConditionModel, supported is AutoencoderKL or"
    ):
        load(folder, vae=folder / "unet")


def test_an_autoencoder_for_a_model_without_one(make_transformer: Callable[[str], Path], folder: Path) -> None:
    with pytest.raises(UserError, match="the transformer takes 1 channels and the vae makes 4"):
        load(make_transformer("dit_pixels"), vae=folder)


def truncate(path: Path) -> None:
    """Cut the last tenth off a file."""
    path.write_bytes(path.read_bytes()[: -path.stat().st_size // 10])


BROKEN: dict[str, tuple[Callable[[Path, Callable[..., None]], object], str]] = {
    "no index": (lambda f, e: (f / "model_index.json").unlink(), "has no model_index.json, so it is not a diffusers"),
    "bad index": (lambda f, e: (f / "model_index.json").write_text("{"), "model_index.json is not valid JSON"),
    "missing weights": (lambda f, e: (f / UNET).unlink(), f"the weight file {UNET} is missing"),
    "pickled weights": (
        lambda f, e: (f / UNET).rename(f / "unet/diffusion_pytorch_model.bin"),
        r"only pickled .bin files are there: save them with safe_serialization=True",
    ),
    "truncated weights": (
        lambda f, e: truncate(f / VAE),
        rf"the weight file {VAE} is truncated \(\d+ bytes, its header says",
    ),
    "truncated header": (lambda f, e: (f / TEXT).write_bytes((f / TEXT).read_bytes()[:100]), f"{TEXT} is truncated"),
    "empty weights": (lambda f, e: (f / TEXT).write_bytes(b""), f"{TEXT} is not a safetensors file"),
    "not safetensors": (
        lambda f, e: (f / TEXT).write_bytes(b"\x04" + b"\0" * 7 + b"nope"),
        "is not a safetensors file",
    ),
    "two at once": (
        lambda f, e: (truncate(f / VAE), (f / UNET).unlink()),
        f"{UNET} is missing; the weight file {VAE} is",
    ),
    "no config": (lambda f, e: (f / "vae/config.json").unlink(), r"vae/config.json is missing or unreadable"),
    "no scheduler": (lambda f, e: shutil.rmtree(f / "scheduler"), "scheduler/scheduler_config.json is missing"),
    "no tokenizer": (
        lambda f, e: (f / "tokenizer/tokenizer.json").unlink(),
        r"tokenizer.json \(or vocab.json\) is missing",
    ),
    "truncated tokenizer": (
        lambda f, e: (truncate(f / "tokenizer/tokenizer.json"), (f / "tokenizer/tokenizer_config.json").write_text("")),
        r"tokenizer/tokenizer.json is not valid JSON \(.*\); tokenizer/tokenizer_config.json is not valid JSON",
    ),
    "beta schedule": (
        lambda f, e: e(f / "scheduler/scheduler_config.json", beta_schedule="cubic"),
        r"DDIMScheduler does not take scheduler/scheduler_config.json \(cubic is not implemented",
    ),
    "number of timesteps": (
        lambda f, e: e(f / "scheduler/scheduler_config.json", num_train_timesteps="many"),
        r"DDIMScheduler does not take scheduler/scheduler_config.json \(",
    ),
    "t5 tokenizer": (
        lambda f, e: e(f / "model_index.json", tokenizer=["transformers", "T5Tokenizer"]),
        "tokenizer is a T5Tokenizer, supported is CLIPTokenizer",
    ),
    "class mismatch": (
        lambda f, e: e(f / "vae/config.json", _class_name="AutoencoderTiny"),
        "says vae is a AutoencoderKL, its config.json a AutoencoderTiny",
    ),
    "latent channels": (
        lambda f, e: e(f / "unet/config.json", in_channels=9),
        "the unet takes 9 channels and the vae makes 4",
    ),
    "text width": (
        lambda f, e: e(f / "unet/config.json", cross_attention_dim=768),
        "text of width 768, the encoders give 32",
    ),
    "class embedding": (
        lambda f, e: e(f / "unet/config.json", class_embed_type="timestep"),
        "class_embed_type 'timestep' is not",
    ),
    "image embedding": (
        lambda f, e: e(f / "unet/config.json", addition_embed_type="image"),
        "addition_embed_type 'image' is not",
    ),
    "half an sdxl": (
        lambda f, e: e(f / "unet/config.json", addition_embed_type="text_time"),
        "'text_time' does not go with 1 text encoders",
    ),
    "prediction type": (
        lambda f, e: e(f / "scheduler/scheduler_config.json", prediction_type="score"),
        "prediction_type is 'score'; expected one of epsilon, v_prediction, sample",
    ),
    "scheduler class": (
        lambda f, e: e(f / "model_index.json", scheduler=["diffusers", "MyScheduler"]),
        "the scheduler is 'MyScheduler', supported are DDIMScheduler, ",
    ),
    "a transformer": (
        lambda f, e: (f / "model_index.json").write_text(
            '{"_class_name": "PixArtPipeline", "transformer": ["diffusers", "PixArtModel"]}'
        ),
        "a PixArtPipeline whose denoiser is a PixArtModel; supported denoisers are UNet2DConditionModel",
    ),
    "no text encoder": (
        lambda f, e: e(f / "model_index.json", text_encoder=[None, None]),
        "holds a StableDiffusionPipeline without text_encoder",
    ),
    "missing key": (
        lambda f, e: change_weights(f / UNET, lambda w: w.pop("conv_in.weight")),
        "missing weights: conv_in.weight",
    ),
    "unexpected key": (
        lambda f, e: change_weights(f / UNET, lambda w: w.update(own=torch.ones(1))),
        "unexpected weights: own",
    ),
    "shape": (
        lambda f, e: change_weights(f / UNET, lambda w: w.update({"conv_in.bias": torch.ones(5)})),
        r"its weights do not fit its config \(.*conv_in.bias.*\[32\]",
    ),
    "text shape": (
        lambda f, e: change_weights(f / TEXT, lambda w: w.update({"final_layer_norm.bias": torch.ones(5)})),
        "mis-shaped weights: .*final_layer_norm.bias",
    ),
}


BROKEN_TRANSFORMERS: dict[str, tuple[str, Callable[[Path, Callable[..., None]], object], str]] = {
    "dit channels": (
        "dit",
        lambda f, e: e(f / "transformer/config.json", in_channels=3),
        "transformer takes 3 channels",
    ),
    "dit outputs": (
        "dit",
        lambda f, e: e(f / "transformer/config.json", out_channels=5),
        r"the transformer gives 5 channels, supported is one of \[4, 8\]",
    ),
    "dit pixels": (
        "dit_pixels",
        lambda f, e: e(f / "transformer/config.json", in_channels=4),
        r"without a vae the transformer must take 1 \(grey\) or 3 \(RGB\) channels, not 4",
    ),
    "dit labels": (
        "dit",
        lambda f, e: e(f / "model_index.json", id2label=["cat"]),
        "id2label in model_index.json is not a table of class number -> name",
    ),
    "dit weights": (
        "dit",
        lambda f, e: truncate(f / "transformer/diffusion_pytorch_model.safetensors"),
        "weight file transformer/diffusion_pytorch_model.safetensors is truncated",
    ),
    "pixart text": (
        "pixart_alpha",
        lambda f, e: e(f / "transformer/config.json", caption_channels=7),
        "the transformer's caption_channels is 7, the text encoders give 48",
    ),
    "pixart without text": (
        "pixart_sigma",
        lambda f, e: e(f / "model_index.json", text_encoder=[None, None]),
        "holds a PixArtSigmaPipeline without text_encoder; a folder of the PixArt-alpha and -sigma kind has transf",
    ),
    "pixart tokenizer": (
        "pixart_alpha",
        lambda f, e: e(f / "model_index.json", tokenizer=["transformers", "CLIPTokenizer"]),
        "tokenizer is a CLIPTokenizer, supported is T5Tokenizer",
    ),
    "t5 without sentencepiece": (
        "pixart_alpha",
        lambda f, e: (f / "tokenizer/tokenizer.json").rename(f / "tokenizer/spiece.model"),
        "tokenizer/spiece.model is read with the package sentencepiece: pip install sentencepiece",
    ),
    "sd3 pooled": (
        "sd3",
        lambda f, e: e(f / "transformer/config.json", pooled_projection_dim=7),
        "the transformer's pooled_projection_dim is 7, the text encoders give 20",
    ),
    "sd3 joint": (
        "sd3",
        lambda f, e: e(f / "transformer/config.json", joint_attention_dim=30),
        "the CLIP text encoders alone give 40; the transformer's joint_attention_dim is 30, the text encoders give 48",
    ),
    "flux channels": (
        "flux_dev",
        lambda f, e: e(f / "transformer/config.json", in_channels=64),
        "the transformer takes 64 channels and the vae makes 4 in 4 packed cells",
    ),
    "flux shift": (
        "flux_dev",
        lambda f, e: e(f / "scheduler/scheduler_config.json", time_shift_type="linear"),
        "the scheduler's dynamic shifting is not the exponential one",
    ),
    "another transformer": (
        "flux_dev",
        lambda f, e: e(f / "model_index.json", transformer=["diffusers", "SanaTransformer2DModel"]),
        "whose denoiser is a SanaTransformer2DModel; supported denoisers are UNet2DConditionModel, DiTTrans",
    ),
}


@pytest.mark.parametrize("case", BROKEN_TRANSFORMERS)
def test_broken_transformer_folders(
    make_transformer: Callable[[str], Path], edit: Callable[..., None], monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    kind, breaking, message = BROKEN_TRANSFORMERS[case]
    folder = make_transformer(kind)
    breaking(folder, edit)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(loading, "build_model", lambda *a: pytest.fail("weights were loaded"))
    with pytest.raises(UserError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("case", BROKEN)
def test_broken_folders(folder: Path, edit: Callable[..., None], case: str) -> None:
    breaking, message = BROKEN[case]
    breaking(folder, edit)
    with pytest.raises(UserError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_inconsistent_sdxl(make_folder: Callable[[str], Path], edit: Callable[..., None]) -> None:
    folder = make_folder("sdxl")
    edit(folder / "unet/config.json", projection_class_embeddings_input_dim=99)
    with pytest.raises(
        UserError, match="projection_class_embeddings_input_dim is 99, text_encoder_2 and six sizes give 68"
    ):
        load(folder)


def test_nothing_heavy_is_read_before_the_checks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truncate(folder / TEXT)
    monkeypatch.setattr(loading, "build_model", lambda *a: pytest.fail("weights were loaded"))
    with pytest.raises(UserError, match="truncated"):
        load(folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"name": "./nowhere"},
            "the model folder nowhere does not exist; expected a diffusers folder, a hub id or 'mini'",
        ),
        ({"name": "nowhere"}, "the model folder nowhere does not exist"),
        ({"dtype": "int8"}, "the dtype 'int8' is not supported; expected float32, bfloat16 or float16"),
        ({"dtype": torch.float64}, "the dtype torch.float64 is not supported"),
        ({"device": "gpu"}, "'gpu' is not a device; expected cpu"),
        ({"vae": "./nowhere"}, "nowhere/config.json is missing or unreadable"),
    ],
)
def test_bad_arguments(tiny_sd: Path, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_backbone(**({"name": tiny_sd, "device": "cpu"} | options))


def test_absent_devices(tiny_sd: Path) -> None:
    absent = [
        d
        for d, there in (("mps", torch.backends.mps.is_available()), ("cuda:0", torch.cuda.is_available()))
        if not there
    ]
    assert absent, "no machine has both"
    with pytest.raises(UserError, match=f"the device '{absent[0]}' is not available on this machine"):
        load_backbone(tiny_sd, device=absent[0])


def test_a_gpu_beyond_the_last_is_refused_before_weights_are_read(
    tiny_sd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(loading, "build_model", lambda *a: pytest.fail("weights were loaded"))
    with pytest.raises(UserError, match="the device 'cuda:2' is not available on this machine; use cuda:0 to cuda:1"):
        load_backbone(tiny_sd, device="cuda:2")


def test_mini_without_its_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("mini", "mini-dit"):
        monkeypatch.setitem(loading.SHIPPED, name, tmp_path)
        with pytest.raises(UserError, match=f"the backbone '{name}' is not part of this installation"):
            load_backbone(name)


def test_hub_ids_without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def offline(name: str, **options: object) -> str:
        asked.append(name)
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(hub, "snapshot_download", offline)
    with pytest.raises(UserError, match="'owner/model' is neither a local folder nor in the local hub cache"):
        load_backbone("owner/model")
    assert asked == ["owner/model"]


def test_hub_ids_come_from_the_cache(monkeypatch: pytest.MonkeyPatch, tiny_sd: Path) -> None:
    monkeypatch.setattr(hub, "snapshot_download", lambda name, **options: str(tiny_sd))
    backbone = load_backbone("owner/model", device="cpu")
    assert backbone.name == "owner/model" and backbone.fingerprint == load(tiny_sd).fingerprint


def test_hub_models_with_pickled_weights_alone(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()  # .bin files are not fetched
    without = []
    monkeypatch.setattr(
        hub, "snapshot_download", lambda name, **options: without.append(options["ignore_patterns"]) or str(folder)
    )
    with pytest.raises(UserError, match="the hub has no weights of 'owner/model' in the format safetensors"):
        load_backbone("owner/model")
    assert ["*.fp16.*" in patterns for patterns in without] == [True, False]
