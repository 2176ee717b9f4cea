"""Counts over the prompts of a generated set: domains, templates, class names and lengths."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ALONE = "class names alone"
_SLOT = "{names}"


@dataclass(frozen=True)
class PromptReport:
    """Counts of samples; a length is the number of words between white space."""

    domains: Mapping[str, int]
    templates: Mapping[str, int]  # the text around {names}; of class names alone: "{names}"
    classes: Mapping[str, int]  # by the class names that a prompt holds, for all classes in the order of their ids
    lengths: Sequence[int]  # of each prompt
    different: int  # prompts

    @classmethod
    def of(cls, records: Sequence[Mapping[str, Any]], names: Sequence[str]) -> PromptReport:
        """Of the manifest lines of finished samples.

        Args:
            records: with `prompt`, `domain` and `class_pixels`, whose classes the prompt names unless its template
                leaves them out.
            names: class names by id.
        """
        told = [[names[int(label)] for label in record["class_pixels"]] for record in records]
        pairs = list(zip([record["prompt"] for record in records], told, strict=True))
        templates = [_template(prompt, " ".join(one)) for prompt, one in pairs]
        counted = Counter(name for prompt, one in pairs if " ".join(one) in prompt for name in one)
        return cls(
            _ordered(Counter(record["domain"] or ALONE for record in records)),
            _ordered(Counter(templates)),
            {name: counted[name] for name in names},
            [len(record["prompt"].split()) for record in records],
            len({record["prompt"] for record in records}),
        )

    @property
    def length(self) -> dict[str, float]:
        """Least, median and most words."""
        if not self.lengths:
            return {}
        return {"least": min(self.lengths), "median": statistics.median(self.lengths), "most": max(self.lengths)}

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "samples": len(self.lengths),
            "different": self.different,
            "domains": dict(self.domains),
            "templates": dict(self.templates),
            "classes": dict(self.classes),
            "words": self.length,
        }

    def render(self) -> str:
        """A few lines for people."""
        length = " / ".join(f"{value:g}" for value in self.length.values())
        named = {name: count for name, count in self.classes.items() if count}
        rows = [
            f"{len(self.lengths)} prompts, {self.different} different; words (least / median / most): {length}",
            f"domains: {_line(self.domains)}",
            *(f"template {count:>6}  {text}" for text, count in self.templates.items()),
            f"classes named: {_line(named)}",
        ]
        return "\n".join(rows)


def _template(prompt: str, names: str) -> str:
    """The prompt with a slot where its class names were."""
    return prompt.replace(names, _SLOT, 1) if names else prompt


def _ordered(counts: Mapping[str, int]) -> dict[str, int]:
    """Most frequent first, then by name."""
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def _line(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"
