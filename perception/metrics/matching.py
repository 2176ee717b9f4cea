"""Image-caption matching: paired scores of small examples (Winoground) and recall of retrieval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from perception.checks import check_tensors
from perception.errors import UserError

KINDS = ("text", "image", "group")
OVERALL = "Overall"


@dataclass(frozen=True)
class PairScores:
    """How many examples were matched without a mistake, overall and per tag; states add up.

    In an example caption j belongs to image j; more captions than images (or the reverse) are distractors.
    text: every image prefers its own caption; image: every caption prefers its own image; group: both. Preferences
    are strict, so a tie is a mistake (Thrush et al. 2022, eq. 1 to 3). An example of one caption has no text score,
    one of one image no image score.
    """

    counts: Mapping[tuple[str, str], tuple[int, int]] = field(default_factory=dict)  # (tag, kind) -> examples, hits

    @classmethod
    def of(cls, scores: Tensor, tag: str | None = None) -> PairScores:
        """One example from its scores [captions, images], larger is better.

        Raises:
            UserError: scores that are no table of at least two entries, or not all finite.
        """
        check_tensors(scores=scores)
        if scores.ndim != 2 or scores.numel() < 2 or not scores.isfinite().all():
            raise UserError(
                f"the scores of an example have shape {tuple(scores.shape)}; expected finite numbers "
                "[captions, images], two of one or the other at least"
            )
        text = _prefers_own(scores.T) if scores.shape[0] > 1 else None  # rows: images
        image = _prefers_own(scores) if scores.shape[1] > 1 else None  # rows: captions
        group = None if text is None or image is None else text and image
        hits = {kind: hit for kind, hit in zip(KINDS, (text, image, group), strict=True) if hit is not None}
        tags = dict.fromkeys((OVERALL, *([tag] if tag else [])))
        return cls({(name, kind): (1, int(hit)) for name in tags for kind, hit in hits.items()})

    def __add__(self, other: PairScores) -> PairScores:
        total = dict(self.counts)
        for key, (examples, hits) in other.counts.items():
            before = total.get(key, (0, 0))
            total[key] = (before[0] + examples, before[1] + hits)
        return PairScores(total)

    @property
    def tags(self) -> tuple[str, ...]:
        """Overall, then the tags in the order in which they came."""
        return tuple(dict.fromkeys(tag for tag, _ in self.counts))

    def rate(self, tag: str, kind: str) -> float:
        """Share p of the examples of a tag that are right, in [0, 1]."""
        examples, hits = self.counts[tag, kind]
        return hits / examples

    def half_width(self, tag: str, kind: str) -> float:
        """Half of the 95 % confidence interval of `rate` in the normal approximation, 1.96 sqrt(p (1 - p) / n)."""
        p = self.rate(tag, kind)
        return 1.96 * (p * (1 - p) / self.counts[tag, kind][0]) ** 0.5

    def lines(self) -> list[str]:
        """One line per tag and kind, percent, in the words of the reference's printout."""
        return [
            f"{tag} {kind} score:  {100 * self.rate(tag, kind):.1f} +/-  {100 * self.half_width(tag, kind):.1f}"
            for tag in self.tags
            for kind in KINDS
            if (tag, kind) in self.counts
        ]

    def report(self) -> dict[str, Any]:
        """JSON-ready, tag -> kind -> examples, percent and half width in points."""
        figures: dict[str, Any] = {tag: {} for tag in self.tags}
        for (tag, kind), (examples, _) in self.counts.items():
            percent, width = 100 * self.rate(tag, kind), 100 * self.half_width(tag, kind)
            figures[tag][kind] = {"examples": examples, "percent": round(percent, 4), "half_width": round(width, 4)}
        return figures


def _prefers_own(scores: Tensor) -> bool:
    """Whether entry j of every row j that has one is strictly the largest of its row."""
    own = scores.diagonal()  # [min(rows, columns)]
    others = scores[: len(own)].clone()
    others.diagonal().fill_(float("-inf"))
    return bool((own > others.amax(1)).all())


@dataclass(frozen=True)
class Recall:
    """Recall@k of retrieval in both directions, fractions in [0, 1]; NaN without a query."""

    image_to_text: Mapping[int, float]  # images that have one of their captions among the k best captions
    text_to_image: Mapping[int, float]  # captions that have one of their images among the k best images

    def lines(self) -> list[str]:
        """Two lines, percent."""
        return [
            f"{name}  " + "  ".join(f"R@{k} {100 * value:5.1f}" for k, value in rates.items())
            for name, rates in (("image -> text", self.image_to_text), ("text -> image", self.text_to_image))
        ]


def recall(
    scores: Tensor,  # [captions, images], larger is better
    matches: Tensor,  # bool [captions, images]: which belong together
    ks: Sequence[int] = (1, 5, 10),
) -> Recall:
    """Recall at each k. Equal scores count against the right answer; queries without a right answer are left out.

    Raises:
        UserError: shapes differ.
    """
    if scores.shape != matches.shape:
        raise UserError(f"scores of shape {tuple(scores.shape)} do not fit matches of shape {tuple(matches.shape)}")
    return Recall(_recall(scores.T, matches.T, ks), _recall(scores, matches, ks))


def _recall(scores: Tensor, matches: Tensor, ks: Sequence[int]) -> dict[int, float]:
    """Rows are queries."""
    asked = matches.any(1)
    best = scores.masked_fill(~matches, float("-inf")).amax(1, keepdim=True)  # [Q, 1]
    rank = ((scores >= best) & ~matches).sum(1)[asked]  # wrong answers ahead of the best right one
    return {k: float((rank < k).double().mean()) if len(rank) else float("nan") for k in ks}


def normalised(errors: Tensor, unconditional: Tensor | None = None) -> Tensor:
    """Scores [captions, images] from mean denoising errors: -e(c, i), or -(e(c, i) - e("", i)).

    Subtracting the error [images] of the empty caption makes images comparable, of which some are harder to denoise
    whatever is said about them (DiffusionITM: Krojer et al. 2023). It does not change how captions rank for an image.
    """
    if unconditional is None:
        return -errors
    return unconditional[None, :] - errors
