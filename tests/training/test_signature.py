"""Signatures of constructors through `**kwargs`."""

import mmseg.models
import pytest
import torch

from perception.training.config.signature import signature_of
from perception.training.models.backbones import DiffusionFeatures


class Base:
    def __init__(self, width, depth=1):
        self.size = (width, depth)


class Child(Base):
    def __init__(self, colour, **kwargs):
        super().__init__(**kwargs)
        self.colour = colour


class Elsewhere(Base):
    def __init__(self, colour, **kwargs):
        super().__init__(1)
        self.more = dict(colour=colour, **kwargs)


def test_kwargs_are_followed_through_the_mro():
    assert signature_of(Child).names == {"colour", "width", "depth"}
    assert not signature_of(Child).open
    assert signature_of(Child).required == {"colour"}


def test_kwargs_that_go_elsewhere_leave_the_signature_open():
    assert signature_of(Elsewhere).accepts("anything")


def test_functions():
    assert signature_of(lambda a, b=2: None).names == {"a", "b"}
    assert signature_of(lambda **rest: None).open


@pytest.mark.parametrize(
    ("target", "taken", "refused"),
    [
        (mmseg.models.FPNHead, ("feature_strides", "num_classes", "loss_decode", "init_cfg"), ("num_class", "kwargs")),
        (mmseg.models.TIMMBackbone, ("model_name", "out_indices"), ("out_indeces",)),
        (mmseg.models.FPN, ("in_channels", "norm_cfg"), ("out_chanels",)),
        (torch.optim.AdamW, ("lr", "betas"), ("momentun",)),
        (torch.nn.BatchNorm2d, ("momentum",), ("moment",)),
        (DiffusionFeatures, ("taps", "random_init_seed"), ("tap", "args")),
    ],
)
def test_constructors_of_configs(target, taken, refused):
    signature = signature_of(target)
    assert all(signature.accepts(name) for name in taken)
    assert not any(signature.accepts(name) for name in refused)
