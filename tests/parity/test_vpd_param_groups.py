"""Which parameter trains at which rate: our rules on our models' names against the reference's optimisers."""

from __future__ import annotations

import json
import re

import pytest
from safetensors import safe_open

from perception.backbones.ldm_names import unet_ldm_names, vae_ldm_names
from perception.training.param_groups import UNET_PREFIX, Parameter, group_names


def by_stem(goldens, pattern):
    """Stem -> path of the files `<stem>_<pattern>` in the VPD folder; at least one. Stems begin with the task."""
    found = {path.name.removesuffix(f"_{pattern}"): path for path in sorted((goldens / "vpd").glob(f"*_{pattern}"))}
    assert found, f"no *_{pattern} in {goldens / 'vpd'}"
    return found


def task_of(stem):
    """seg, refer or depth."""
    (task,) = (task for task in ("seg", "refer", "depth") if stem.startswith(task))
    return task


def head_shapes(goldens, stem):
    """Official name -> shape of all trained tensors of `<stem>_weights.safetensors`, buffers left out."""
    with safe_open(goldens / "vpd" / f"{stem}_weights.safetensors", "pt") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    buffers = ("running_mean", "running_var", "num_batches_tracked", "class_embeddings")
    return {name: shape for name, shape in shapes.items() if not name.endswith(buffers)}


def model_shapes(goldens, backbone, stem):
    """Reference name -> shape of the whole network: tiny-sd under our map of names, and the head's tensors."""
    prefix = "encoder." if task_of(stem) == "depth" else ""
    unet, vae = backbone.unet.state_dict(), backbone.vae.state_dict()
    shapes = {f"{prefix}{UNET_PREFIX}{ldm}": tuple(unet[name].shape) for name, ldm in unet_ldm_names(unet).items()}
    shapes |= {f"{prefix}encoder_vq.{ldm}": tuple(vae[name].shape) for name, ldm in vae_ldm_names(vae).items()}
    return shapes | head_shapes(goldens, stem)


def numbers(title):
    """`lr=8e-05,wd=0,...` or `...: lr=5e-06 lr_scale=0.01 wd=0.1` -> (lr, weight decay)."""
    found = dict(re.findall(r"\b(lr|wd)=([0-9.e+-]+)", title))
    return float(found["lr"]), float(found["wd"])


def test_param_groups(goldens, tiny_backbone):
    for stem, path in by_stem(goldens, "param_groups.json").items():
        titles = json.loads(path.read_text())
        golden = {title: set(names) for title, names in titles.items() if "trainable=False" not in title}
        trained = set().union(*golden.values())
        shapes = model_shapes(goldens, tiny_backbone, stem)
        frozen = set(shapes) - trained
        assert trained <= set(shapes)
        assert all("encoder_vq." in name or f".{UNET_PREFIX}out." in f".{name}" for name in frozen)
        peak, decay = (max(values) for values in zip(*map(numbers, titles), strict=True))
        described = {name: Parameter(name, len(shapes[name]), norm=False) for name in trained}
        ours = {
            (peak * factor.lr, decay * factor.decay): set(names)
            for factor, names in group_names(described, f"vpd-{task_of(stem)}").items()
        }
        assert len(ours) == len(golden)
        for title, names in golden.items():
            lr, wd = numbers(title)
            match = [key for key in ours if key == pytest.approx((lr, wd), rel=1e-9)]
            assert len(match) == 1
            assert ours[match[0]] == names, title


def test_frozen_tensors_are_the_encoder(goldens, tiny_backbone):
    encoder = {f"encoder_vq.{name}" for name in vae_ldm_names(tiny_backbone.vae.state_dict()).values()}
    listed = [json.loads(path.read_text()) for path in by_stem(goldens, "param_groups.json").values()]
    for titles in listed:
        frozen = {name for title, names in titles.items() if "trainable=False" in title for name in names}
        assert frozen in (set(), encoder)


def test_every_parameter_is_known(goldens, tiny_backbone):
    for stem, path in by_stem(goldens, "grad_norms.json").items():
        golden = {name: tuple(shape) for name, (shape, _) in json.loads(path.read_text()).items()}
        ours = model_shapes(goldens, tiny_backbone, stem)
        assert golden.keys() == ours.keys()
        for name, shape in golden.items():  # ldm's VAE attention is a 1x1 convolution
            assert ours[name] in (shape, shape[:2] if shape[2:] == (1, 1) else shape), name
