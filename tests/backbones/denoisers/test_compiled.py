"""The denoiser behind torch.compile: the same predictions, few batch sizes, and as it is where something changes it."""

import pytest
import torch

from perception.backbones import load_backbone


@pytest.fixture
def compiled(tiny_sd):
    """A backbone whose denoiser is compiled to what it was, and the batch sizes that went through."""
    backbone, sizes = load_backbone(tiny_sd, device="cpu"), []

    def counting(graph, examples):
        def run(*args):
            sizes.append(len(next(value for value in args if value.shape[1:] == (4, 8, 8))))
            return graph(*args)

        return run

    backbone.compile_denoiser(backend=counting, fullgraph=True)
    yield backbone, sizes
    torch.compiler.reset()


def test_batches_are_filled_up_to_powers_of_two(compiled, tiny_backbone):
    backbone, sizes = compiled
    x = torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    told, t = backbone.condition([f"{number} cats" for number in range(5)]), torch.tensor([1, 50, 500, 900, 3])
    with torch.inference_mode():
        for rows in (3, 5, 1, 4):
            plain = tiny_backbone.denoise(x[:rows], t[:rows], told[list(range(rows))])
            torch.testing.assert_close(backbone.denoise(x[:rows], t[:rows], told[list(range(rows))]).raw, plain.raw)
    assert sizes == [4, 8, 1, 4]


def test_what_changes_the_denoiser_keeps_it_as_it_is(compiled, tiny_backbone):
    backbone, sizes = compiled
    x, told = torch.ones(2, 4, 8, 8), backbone.condition(["a cat", "a dog"])
    with torch.inference_mode():
        plain = tiny_backbone.denoise(x, 50, told).raw
        with backbone.checkpointed():
            torch.testing.assert_close(backbone.denoise(x, 50, told).raw, plain)
        assert backbone.capture(x, 50, told, ["up_blocks.1"])
        with backbone.as_is():
            torch.testing.assert_close(backbone.denoise(x, 50, told).raw, plain)
        assert sizes == []
        torch.testing.assert_close(backbone.denoise(x, 50, told).raw, plain)
    assert sizes == [2]
