"""The referring decoder for any pyramid, and its loss."""

import pytest
import torch
from torch.nn import functional as F

from perception.errors import UserError
from perception.segmentation.referring_head import ReferringDecoder, referring_loss


@pytest.mark.parametrize("sizes", [((16, 24), (8, 12), (4, 6), (2, 3)), ((8, 8), (4, 4)), ((9, 7), (5, 4), (3, 2))])
def test_any_pyramid(sizes):
    channels = [8, 12, 16, 20][: len(sizes)]
    decoder = ReferringDecoder(channels)
    maps = [torch.rand(2, c, *size) for c, size in zip(channels, sizes, strict=True)]
    logits = decoder(maps)
    assert logits.shape == (2, 2, *sizes[0])
    assert decoder.classifier.in_channels == channels[-1] // 2
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in decoder.parameters())
    single = decoder.eval()([x[:1] for x in maps])
    assert torch.allclose(single, decoder(maps)[:1], atol=1e-6)


def test_one_map_is_refused():
    with pytest.raises(UserError, match="two maps or more"):
        ReferringDecoder([64])


def test_loss_is_the_weighted_mean():
    logits = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    target = (torch.arange(32).reshape(2, 4, 4) % 3 == 0).to(torch.uint8)
    each = F.cross_entropy(logits, target.long(), reduction="none")
    weights = torch.where(target == 1, 1.1, 0.9)
    assert referring_loss(logits, target).item() == pytest.approx(((each * weights).sum() / weights.sum()).item())
    assert referring_loss(logits, target, (1.0, 1.0)).item() == pytest.approx(each.mean().item())


def test_bad_targets():
    logits = torch.zeros(1, 2, 4, 4)
    with pytest.raises(UserError, match=r"shape \(1, 8, 8\) but the logits \(1, 2, 4, 4\); resize the mask"):
        referring_loss(logits, torch.zeros(1, 8, 8))
    with pytest.raises(UserError, match="values up to 255; expected 0 and 1"):
        referring_loss(logits, torch.full((1, 4, 4), 255))
