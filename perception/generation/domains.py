"""Domains (weather, time of day): their names, and their words in a prompt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from perception.errors import UserError
from perception.generation.prompts import WEATHER_TEMPLATES

NONE = "none"  # class names alone

# nouns beside the adjectives of the paper, whose "in night weather" stays as it was published
DOMAIN_TEMPLATES: Mapping[str, str] = MappingProxyType(
    {
        **WEATHER_TEMPLATES,
        "fog": WEATHER_TEMPLATES["foggy"],
        "rain": WEATHER_TEMPLATES["rainy"],
        "snow": WEATHER_TEMPLATES["snowy"],
        "clear": "A city street scene with {names}, on a clear day.",
        "dusk": "A city street scene with {names}, at dusk.",
    }
)


def own_templates(texts: Iterable[str]) -> dict[str, str]:
    """'NAME=TEXT', where {names} may stand for the class names -> {name: text}.

    Raises:
        UserError: for another form, or a name given twice.
    """
    templates: dict[str, str] = {}
    for text in texts:
        name, _, template = (part.strip() for part in text.partition("="))
        if not name or not template:
            raise UserError(
                f"the template {text!r} is not usable; expected NAME=TEXT, with {{names}} where the class names go, "
                'such as "dawn=A street with {names} at dawn."'
            )
        if name in (*templates, NONE):
            raise UserError(f"the domain {name!r} has a template already; give every domain one of its own")
        templates[name] = template
    return templates


def templates_of(domains: Sequence[str], own: Mapping[str, str]) -> dict[str, str]:
    """The templates of some domains; of no domains: of the paper's weather, or all own ones.

    Raises:
        UserError: for domains without a template, or named twice.
    """
    known = {**DOMAIN_TEMPLATES, **own}
    if unknown := [name for name in domains if name not in (*known, NONE)]:
        raise UserError(
            f"there is no template for the domain {unknown[0]!r}; choose from {', '.join((*known, NONE))}, or add "
            f'one with --template "{unknown[0]}=A street with {{names}} ..."'
        )
    if len(set(domains)) != len(domains):
        raise UserError(f"the domains {', '.join(domains)} name one twice; name each once")
    if domains:
        return {name: known[name] for name in domains if name != NONE}
    return dict(own or WEATHER_TEMPLATES)
