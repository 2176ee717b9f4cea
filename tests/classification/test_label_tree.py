"""The label tree: clusters that are there are found, and every class is in one."""

import pytest
import torch

from perception.classification.label_tree import class_vectors, label_tree
from perception.classification.prompts import class_prompts
from perception.errors import UserError


def _bundles():
    """Three directions with four vectors each, the first of each in the middle; plus a part common to all."""
    centres = torch.eye(8)[:3].repeat_interleave(4, 0)
    offsets = 0.1 * torch.eye(8)[[3, 4, 5]].repeat(3, 1).view(3, 3, 8)
    around = torch.cat([torch.zeros(3, 1, 8), offsets], dim=1).flatten(0, 1)
    return centres + around + 5.0


def test_clusters_and_their_medoids_are_found():
    tree = label_tree(_bundles(), 3)
    assert {frozenset(cluster) for cluster in tree.clusters} == {
        frozenset(range(start, start + 4)) for start in (0, 4, 8)
    }
    assert tree.medoids == (0, 4, 8)
    assert tree.ranked([4, 8, 0])[:5] == (4, 5, 6, 7, 8)
    assert sorted(tree.ranked([8, 0, 4])) == list(range(12))


def test_the_tree_is_deterministic_and_square_by_default():
    vectors = torch.randn(30, 6, generator=torch.Generator().manual_seed(0))
    tree = label_tree(vectors)
    assert len(tree.clusters) == 6
    assert tree == label_tree(vectors)
    assert sorted(c for cluster in tree.clusters for c in cluster) == list(range(30))
    with pytest.raises(UserError, match="30 classes cannot be put into 31 clusters; give 1 to 30"):
        label_tree(vectors, 31)


def test_vectors_average_the_prompts_of_a_class(tiny_backbone):
    prompts = class_prompts(["cat", "dog"], ["a {}.", "my {}, a photo"])
    condition = tiny_backbone.condition(prompts.prompts)
    vectors = class_vectors(tiny_backbone, condition, prompts.classes)
    torch.testing.assert_close(vectors, condition.hidden.mean(1).view(2, 2, -1).mean(1))


def test_a_class_conditional_model_has_label_embeddings():
    from perception.backbones import load_backbone

    backbone = load_backbone("mini-dit", device="cpu")
    condition = backbone.condition(["Bag", "Coat", "Dress"])
    vectors = class_vectors(backbone, condition, (0, 1, 2))
    assert vectors.shape == (3, 128)
    assert not torch.equal(vectors[0], vectors[1])
