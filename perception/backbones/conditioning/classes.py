"""Class names and numbers -> class labels, for class-conditional models (DiT)."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

import torch

from perception.backbones.conditioning.condition import Condition, Conditioner
from perception.errors import UserError


class ClassConditioner(Conditioner):
    """Prompts are class names, one of a class's comma-separated names, or class numbers; "" is the null class.

    The condition has no text tokens (hidden is [N, 1, 0]); `extra["class_labels"]` holds int64 class numbers [N].
    """

    def __init__(
        self,
        classes: int,  # number of classes; this number itself is the null class of classifier-free guidance
        id2label: Mapping[int, str] | None = None,  # names out of model_index.json, "tench, Tinca tinca"
    ) -> None:
        super().__init__({}, {}, max_tokens=1)
        self.classes = classes
        names = id2label or {}
        self.class_names = tuple(names.get(i, str(i)) for i in range(classes))
        self._numbers: dict[str, list[int]] = {}
        for number, name in enumerate(self.class_names):
            for text in dict.fromkeys([name, *(part.strip() for part in name.split(","))]):
                self._numbers.setdefault(text.casefold(), []).append(number)

    def encode(self, prompts: list[str], length: int, truncate: bool) -> Condition:
        """Look the classes up."""
        labels = torch.tensor([self.number(prompt) for prompt in prompts])
        return Condition(torch.zeros(len(prompts), 1, 0), extra={"class_labels": labels})

    def number(self, prompt: str) -> int:
        """The class that a prompt names.

        Raises:
            UserError: for a name that no class or more than one class has, or a number outside 0..classes-1.
        """
        text = prompt.strip().casefold()
        if not text:
            return self.classes
        found = self._numbers.get(text, [])
        if len(found) > 1:
            raise UserError(f"the class name {prompt!r} stands for the classes {found}; give the number instead")
        if found:
            return found[0]
        if text.isdecimal() and int(text) < self.classes:
            return int(text)
        near = difflib.get_close_matches(text, self._numbers, n=3, cutoff=0.5)
        nearest = f"; the nearest are {', '.join(near)}" if near else ""
        raise UserError(
            f"{prompt!r} is no class of this class-conditional backbone: expected one of its {self.classes} class "
            f"names (without a template around it) or a number 0 to {self.classes - 1}{nearest}"
        )
