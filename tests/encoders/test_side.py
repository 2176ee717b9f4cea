"""The encoder beside a frozen pyramid: whose maps it joins, and what it does not see in training."""

import torch

from perception.encoders.side import SideNetwork


def maps(count, channels=3, strides=(8, 16, 32, 64), size=64):
    return [torch.ones(count, channels, size // stride, size // stride) for stride in strides]


def test_maps_of_equal_stride_are_joined_and_finer_ones_come_first():
    side = SideNetwork("resnet18", (8, 16, 32, 64)).eval()
    assert side.strides == (4, 8, 16, 32, 64)
    assert side.joined((3, 3, 3, 3)) == (64, 131, 259, 3, 3)
    joined = side(torch.rand(2, 3, 64, 64), maps(2))
    assert [value.shape[1:] for value in joined] == [(64, 16, 16), (131, 8, 8), (259, 4, 4), (3, 2, 2), (3, 1, 1)]
    assert all((value[:, :3] == 1).all() for value in joined[1:])
    assert not any(name.startswith("encoder.layer4") for name, _ in side.named_parameters()), "nothing reads it"


def test_a_pyramid_as_fine_as_its_finest_map():
    side = SideNetwork("resnet18", (4, 4, 8, 16, 32))
    assert side.strides == (4, 4, 8, 16, 32)
    assert side.joined((1, 1, 1, 1, 1)) == (65, 1, 129, 257, 1)


def test_in_training_some_images_are_without_their_pyramid():
    side = SideNetwork("resnet18", (8, 16, 32, 64)).train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        joined = side(torch.rand(64, 3, 64, 64), maps(64))
    seen = [value[:, :3].amax((1, 2, 3)) for value in joined[1:]]
    assert all(torch.equal(seen[0], other) for other in seen), "all maps of an image, or none"
    assert set(seen[0].tolist()) == {0.0, 1.0}
    assert 0.3 < seen[0].mean() < 0.7
    side.drop = 1.0
    assert not any(value[:, :3].any() for value in side(torch.rand(2, 3, 64, 64), maps(2))[1:])
