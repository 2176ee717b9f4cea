"""Features behind the store: the same values whether stored or not, and no work done twice."""

import pytest
import torch

from perception.backbones import FeatureSpec
from perception.backbones.stored import CachedFeatures, StoredRows
from perception.data.images import content_hash
from perception.data.store import TensorStore
from perception.errors import UserError

SPEC = FeatureSpec(("mid_block", "up_blocks.1", "latent"), (50, 300), noise="per_image", seed=3)


@pytest.fixture
def images():
    return torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def hashes(images):
    return [content_hash(image) for image in images]


@pytest.fixture
def calls(tiny_backbone, monkeypatch):
    """Rows that went through VAE and denoiser."""
    counts = {"encode": 0, "capture": 0}

    def counting(name, real):
        def counted(tensor, *args, **kwargs):
            counts[name] += len(tensor)
            return real(tensor, *args, **kwargs)

        return counted

    for name in counts:
        monkeypatch.setattr(tiny_backbone, name, counting(name, getattr(tiny_backbone, name)))
    return counts


def test_values_are_those_of_the_backbone(tiny_backbone, images, hashes, tmp_path):
    cached = CachedFeatures(tiny_backbone, SPEC, TensorStore(tmp_path, dtype=torch.float32))
    got = cached(images, hashes)
    with torch.no_grad():
        expected = tiny_backbone.features(images, SPEC, image_ids=hashes)
    assert list(got) == list(expected)
    for tap, value in expected.items():
        assert (got[tap] - value).norm() <= 1e-5 * value.norm()
        assert got[tap].dtype == torch.float32 and not got[tap].requires_grad


def test_a_result_does_not_depend_on_what_was_stored_before(tiny_backbone, images, hashes, tmp_path):
    at_once = CachedFeatures(tiny_backbone, SPEC, TensorStore(tmp_path / "a"))(images, hashes)
    piecewise = CachedFeatures(tiny_backbone, SPEC, TensorStore(tmp_path / "b"))
    piecewise(images[2:], hashes[2:])
    piecewise.store.flush()
    order = [3, 0, 2, 1]
    got = piecewise(images[order], [hashes[i] for i in order])
    for tap, value in at_once.items():
        # neighbours change float32 sums in the last bit, which can round to the next half
        torch.testing.assert_close(got[tap], value[order], rtol=2e-3, atol=1e-4)
    again = piecewise(images[order], [hashes[i] for i in order])
    assert all(torch.equal(again[tap], got[tap]) for tap in got)


def test_the_second_time_nothing_runs_and_other_taps_share_latents(tiny_backbone, images, hashes, tmp_path, calls):
    store = TensorStore(tmp_path)
    cached = CachedFeatures(tiny_backbone, SPEC, store)
    assert cached.lookup(hashes) is None
    first = cached(images, hashes)
    assert calls == {"encode": 4, "capture": 8}
    second = cached(images, hashes)
    assert calls == {"encode": 4, "capture": 8} and all(torch.equal(first[tap], second[tap]) for tap in first)
    found = cached.lookup(hashes)
    assert found is not None and all(torch.equal(first[tap], found[tap]) for tap in first)
    CachedFeatures(tiny_backbone, FeatureSpec(("mid_block",)), store)(images, hashes)
    assert calls == {"encode": 4, "capture": 12}


def test_a_store_from_before_there_were_draws_is_read(tiny_backbone, images, hashes, tmp_path):
    from perception.data.store import feature_key

    store = TensorStore(tmp_path)
    document = {"aggregate": "concat", "noise": "shared", "prompt": "", "seed": 0}
    document |= {"taps": ["mid_block"], "timesteps": [50]}
    old = feature_key(hashes[0], tiny_backbone.fingerprint, document)
    one = CachedFeatures(tiny_backbone, FeatureSpec(("mid_block",)), store)
    several = CachedFeatures(tiny_backbone, FeatureSpec(("mid_block",), draws=2), store)
    assert one.key(hashes[0]) == old != several.key(hashes[0])
    assert not torch.equal(one(images, hashes)["mid_block"], several(images, hashes)["mid_block"])


def test_only_missing_images_are_computed(tiny_backbone, images, hashes, tmp_path, calls):
    cached = CachedFeatures(tiny_backbone, SPEC, TensorStore(tmp_path))
    cached(images[:3], hashes[:3])
    cached(images, hashes)
    assert calls == {"encode": 4, "capture": 8}


def test_mistakes_are_one_sentence(tiny_backbone, images, hashes, tmp_path):
    store = TensorStore(tmp_path)
    with pytest.raises(UserError, match="unknown tap 'up_block'; the nearest taps"):
        CachedFeatures(tiny_backbone, FeatureSpec(("up_block",)), store)
    with pytest.raises(UserError, match="1000"):
        CachedFeatures(tiny_backbone, FeatureSpec(("mid_block",), (1000,)), store)
    with pytest.raises(UserError, match="4 images came with 3 hashes"):
        CachedFeatures(tiny_backbone, SPEC, store)(images, hashes[:3])
    with pytest.raises(UserError, match="read-only"):
        CachedFeatures(tiny_backbone, SPEC, TensorStore(tmp_path, read_only=True))(images, hashes)


def test_autocast_does_not_reach_what_is_stored(tiny_backbone, images, hashes, tmp_path):
    expected = CachedFeatures(tiny_backbone, SPEC, TensorStore(tmp_path / "plain"))(images, hashes)
    with torch.autocast("cpu", torch.bfloat16):
        found = CachedFeatures(tiny_backbone, SPEC, TensorStore(tmp_path / "cast"))(images, hashes)
    assert all(torch.equal(found[tap], expected[tap]) for tap in expected)


def test_rows_of_half_precision_under_autocast(tmp_path):
    rows = StoredRows(TensorStore(tmp_path))  # float16
    values = torch.arange(6.0).reshape(2, 3)
    with torch.autocast("cpu", torch.bfloat16):
        found = rows(["a" * 64, "b" * 64], lambda missing: {"x": values[missing]})
    assert torch.equal(found["x"], values.half())
