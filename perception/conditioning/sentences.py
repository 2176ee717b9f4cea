"""Conditionings that are sentences: the text encoder's last hidden states, padding included."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from perception.backbones.backbone import DiffusionBackbone
from perception.backbones.shared import SharedBackbone
from perception.conditioning.base import Conditioning, text_identity
from perception.errors import UserError


class Sentences(Conditioning):
    """One sentence per image: a referring expression (VPD) or a caption (TADP: Kondapaneni et al. 2024).

    Rows are padded to `length` as the tokenizer pads; padding tokens take part in the cross-attention and own map
    channels, as in the reference.
    """

    per_image = True

    def __init__(
        self,
        backbone: DiffusionBackbone,
        length: int | None = None,  # tokens per sentence; None: all that the text encoder takes
        *,
        truncate: bool = False,  # cut sentences that are too long instead of raising
        allow_empty: bool = False,  # "" is an unconditional row; otherwise an error
    ) -> None:
        super().__init__()
        self._source = SharedBackbone(backbone)
        self.tokens = check_length(backbone, length)
        self.width = backbone.text_width
        self.truncate, self.allow_empty = truncate, allow_empty

    def forward(self, given: Sequence[str] | None = None) -> Tensor:
        """Last hidden states [B, L, D] of `given`, one sentence per image; each distinct one is encoded once.

        Raises:
            UserError: no sentences, an empty one, or one that is too long.
        """
        sentences = self.entries(given)
        backbone = self._source.backbone
        return backbone.condition(sentences, length=self.tokens, truncate=self.truncate).hidden.float()

    def entries(self, given: Sequence[str] | None = None) -> list[str]:
        """The sentences themselves, checked."""
        if given is None or isinstance(given, str) or not len(given):
            raise UserError(f"the sentences are {given!r}; expected a list with one sentence per image")
        return [self._checked(sentence) for sentence in given]

    def identity(self, given: Any = None) -> str:
        """Digest of length and sentence."""
        return text_identity("sentence", self.tokens, self._checked(given))

    def _checked(self, sentence: Any) -> str:
        if not isinstance(sentence, str):
            raise UserError(f"the sentence {sentence!r} is a {type(sentence).__name__}; expected a string")
        if not sentence.strip() and not self.allow_empty:
            raise UserError("a sentence is empty; say what to look for, such as 'the man in red'")
        return sentence


class EmptyPrompt(Conditioning):
    """The empty prompt for all images: the control that knows nothing of the task."""

    def __init__(self, backbone: DiffusionBackbone, length: int | None = None) -> None:  # tokens; None: all there are
        super().__init__()
        self._source = SharedBackbone(backbone)
        self.tokens = check_length(backbone, length)
        self.width = backbone.text_width

    def forward(self, given: Sequence[Any] | None = None) -> Tensor:
        """Last hidden states of "" as [1, L, D]; `given` is ignored."""
        return self._source.backbone.condition([""], length=self.tokens).hidden.float()

    def identity(self, given: Any = None) -> str:
        """Digest of the length."""
        return text_identity("sentence", self.tokens, "")


def check_length(backbone: DiffusionBackbone, length: int | None) -> int:
    """The number of tokens per row; UserError unless the text encoder takes it and there is room for start and end."""
    if length is None:
        return backbone.max_text_tokens
    if not 2 <= length <= backbone.max_text_tokens:
        raise UserError(
            f"length is {length} tokens; this text encoder takes 2 (start and end) to {backbone.max_text_tokens}"
        )
    return length
