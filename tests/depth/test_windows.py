"""Windows and mirror images: the reference's places, no gaps, any orientation."""

import pytest
import torch

from perception.depth.windows import shift_window_flip, window_starts
from perception.errors import UserError


def brightness(images, given):
    """A network without context: depth = red + 10 * given."""
    offset = torch.tensor([0.0] * len(images) if given is None else [10.0 * g for g in given])
    return images[:, :1] + offset.view(-1, 1, 1, 1)


def positional(images, given):
    """A network that only knows the column."""
    return torch.linspace(0, 1, images.shape[-1]).expand(len(images), 1, images.shape[-2], -1).contiguous()


@pytest.mark.parametrize(
    ("length", "side", "count", "starts"),
    [
        (640, 480, 2, ([0, 160], [])),  # NYUv2
        (640, 480, 3, ([0, 80, 160], [])),
        (681, 480, 3, ([0, 100, 200], [201])),
        (64, 64, 2, ([0], [])),
        (200, 64, 2, ([0, 45, 90, 135], [136])),
        (100, 64, 1, ([0, 36], [])),
    ],
)
def test_window_starts(length, side, count, starts):
    assert window_starts(length, side, count) == starts


@pytest.mark.parametrize("size", [(48, 48), (48, 64), (48, 65), (64, 48), (40, 133)])
@pytest.mark.parametrize("count", [2, 3])
def test_a_network_without_context_is_reproduced(size, count):
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    for flip in (False, True):
        depth = shift_window_flip(brightness, images, [0, 1], count=count, flip=flip)
        assert torch.allclose(depth, brightness(images, [0, 1]), atol=1e-6)
    assert torch.allclose(shift_window_flip(brightness, images), brightness(images, None), atol=1e-6)


def test_regular_columns_do_not_feel_the_filling_window():
    """Where the reference is defined the result is its mean: sum over windows / number of windows."""
    images = torch.zeros(1, 3, 8, 15)
    depth = shift_window_flip(positional, images, count=3, flip=False)
    total, covers = torch.zeros(15), torch.zeros(15)
    for start in (0, 3, 6):
        total[start : start + 8] += torch.linspace(0, 1, 8)
        covers[start : start + 8] += 1
    assert torch.allclose(depth[0, 0, 0, :14], (total / covers)[:14])
    assert depth[0, 0, 0, 14] == 1.0


def test_mirror_images_are_turned_back():
    depth = shift_window_flip(positional, torch.zeros(1, 3, 8, 8), flip=True)
    assert torch.allclose(depth, torch.full_like(depth, 0.5))


def test_no_window_is_refused():
    with pytest.raises(UserError, match="0 windows were asked for"):
        shift_window_flip(brightness, torch.zeros(1, 3, 8, 12), count=0)
