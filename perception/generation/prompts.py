"""Prompts of scenes: the names of their classes, with or without a domain around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from perception.errors import UserError

Draws = np.random.Generator | np.random.RandomState  # RandomState: the reference's legacy stream
WEATHER = ("snowy", "rainy", "sunny", "foggy", "night")
WEATHER_TEMPLATES: Mapping[str, str] = MappingProxyType(
    {name: f"A city street scene with {{names}}, in {name} weather." for name in WEATHER}
)


@dataclass(frozen=True)
class Prompt:
    """A prompt and how it came about."""

    text: str
    domain: str | None  # None: class names alone


def names_in(labels: np.ndarray, names: Sequence[str]) -> str:
    """The names of the classes of a label map in order of their ids, joined by one space; ids beyond are left out."""
    return " ".join(names[i] for i in np.unique(labels) if i < len(names))


class PromptBuilder:
    """Prompts of label maps; `templates` says how a domain is put into words, with {names} for the class names.

    Raises:
        UserError: for a probability outside [0, 1] or a template with other fields than {names}.
    """

    def __init__(
        self,
        names: Sequence[str],  # by class id
        templates: Mapping[str, str] = WEATHER_TEMPLATES,  # domain -> template
        probability: float = 0.5,  # of a domain where none is asked for
    ) -> None:
        if not 0 <= probability <= 1:
            raise UserError(f"the probability of a domain is {probability}; expected 0 to 1")
        for domain, template in templates.items():
            _check_template(domain, template)
        self.names = tuple(names)
        self.templates = dict(templates)
        self.probability = probability

    def __call__(self, labels: np.ndarray, rng: Draws, domain: str | None = None) -> Prompt:
        """The prompt of one label map.

        Args:
            labels: class ids [H, W] of the crop.
            rng: decides whether there is a domain, then which; untouched where `domain` is given.
            domain: one of `templates`, or "" for none.
        """
        names = names_in(labels, self.names)
        if domain is None:
            domain = self._draw(rng)
        if not domain:
            return Prompt(names, None)
        if domain not in self.templates:
            raise UserError(f"the domain {domain!r} has no template; there are: {', '.join(self.templates)}")
        return Prompt(self.templates[domain].format(names=names), domain)

    def _draw(self, rng: Draws) -> str:
        if not self.templates or rng.random() >= self.probability:
            return ""
        domains = list(self.templates)
        return domains[int(rng.choice(len(domains)))]


def _check_template(domain: str, template: str) -> None:
    try:
        template.format(names="")
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"the template of the domain {domain!r}, {template!r}, cannot be filled in ({error!r}); "
            "its only field is {names}"
        ) from error
