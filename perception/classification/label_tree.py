"""Classes that resemble each other, by the backbone's own embeddings: clusters with the class in their middle.

Hierarchical pruning of the label set (Shao et al. 2024, arXiv 2411.12073) with clusters in place of a given tree.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perception.backbones.backbone import DiffusionBackbone
from perception.backbones.conditioning import Condition
from perception.errors import UserError


@dataclass(frozen=True)
class LabelTree:
    """Every class in one cluster; a cluster begins with its medoid and goes on by distance to it."""

    clusters: tuple[tuple[int, ...], ...]

    @property
    def medoids(self) -> tuple[int, ...]:
        """The class that stands for each cluster."""
        return tuple(cluster[0] for cluster in self.clusters)

    def ranked(self, medoids: Sequence[int]) -> tuple[int, ...]:
        """All classes, cluster by cluster in the order of these medoids, best first."""
        of_medoid = {cluster[0]: cluster for cluster in self.clusters}
        return tuple(c for medoid in medoids for c in of_medoid[medoid])


def label_tree(vectors: Tensor, clusters: int | None = None) -> LabelTree:
    """Cluster classes by their vectors [K, D], by Ward's criterion on the unit sphere around the mean; deterministic.

    `clusters`: ceil(sqrt(K)) unless given, which makes screening and expanding about equally expensive. The medoid is
    the member with the smallest sum of distances to the others.

    Raises:
        UserError: a number of clusters that is not 1 to K.
    """
    from sklearn.cluster import AgglomerativeClustering  # slow to import

    count = math.ceil(math.sqrt(len(vectors))) if clusters is None else clusters
    if not 1 <= count <= len(vectors):
        raise UserError(f"{len(vectors)} classes cannot be put into {count} clusters; give 1 to {len(vectors)}")
    centred = vectors.double() - vectors.double().mean(0)  # the template's part is common to all
    points = torch.nn.functional.normalize(centred, dim=1).numpy()
    labels = AgglomerativeClustering(count).fit_predict(points)
    members = [np.flatnonzero(labels == number) for number in range(count)]
    return LabelTree(tuple(sorted(_from_the_middle(points, each) for each in members)))


def class_vectors(backbone: DiffusionBackbone, condition: Condition, classes: Sequence[int]) -> Tensor:
    """One vector per class: the mean text token of its prompts, or the label embedding of a class-conditional model.

    condition: one row per prompt; classes: the class of each row, 0..K-1. [K, D] float32 on the CPU.
    """
    rows = _label_embeddings(backbone, condition) if "class_labels" in condition.extra else _mean_tokens(condition)
    own: list[list[int]] = [[] for _ in range(max(classes) + 1)]
    for row, c in enumerate(classes):
        own[c].append(row)
    return torch.stack([rows[some].mean(0) for some in own])


def _mean_tokens(condition: Condition) -> Tensor:
    hidden, mask = condition.hidden.detach().float().cpu(), condition.extra.get("mask")
    if mask is None:
        return hidden.mean(1)
    weight = mask.float().cpu()[..., None]  # [N, L, 1]
    return (hidden * weight).sum(1) / weight.sum(1).clamp(min=1)


def _label_embeddings(backbone: DiffusionBackbone, condition: Condition) -> Tensor:
    """Of the first block, which also conditions the final layer (diffusers keeps a table in every block)."""
    unet: Any = backbone.unet
    table = unet.transformer_blocks[0].norm1.emb.class_embedder.embedding_table.weight
    return table.detach().float().cpu()[condition.extra["class_labels"].cpu()]


def _from_the_middle(points: np.ndarray, members: np.ndarray) -> tuple[int, ...]:
    """Members [n] by distance to their medoid, which comes first; ties by number."""
    near = points[members]
    distances = np.stack([np.linalg.norm(near - point, axis=1) for point in near])  # [n, n]
    medoid = int(distances.sum(1).argmin())
    order = np.argsort(distances[medoid], kind="stable")
    return (int(members[medoid]), *(int(members[i]) for i in order if i != medoid))
