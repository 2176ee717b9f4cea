"""Conditionings that are tables of tokens: class names, learned tokens, class ids; the generator of such tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from perception.backbones.backbone import DiffusionBackbone
from perception.conditioning.base import Conditioning, Digest, check_table, text_identity
from perception.errors import UserError


@torch.no_grad()
def class_table(
    backbone: DiffusionBackbone,
    names: Sequence[str],
    *,
    templates: Sequence[str] = ("a photo of a {}",),
    length: int | None = None,
    pool: Literal["eos", "mean"] = "eos",
    truncate: bool = False,
) -> Tensor:
    """One row per class name, averaged over the templates, without projection or normalisation.

    Args:
        backbone: its text encoder is used.
        names: class names; "_" is read as a space.
        templates: each with one {} where the name goes, e.g. IMAGENET_TEMPLATES. VPD's NYU table averages over those
            80 at length 20; one prompt per class keeps the rows longer, as in the published ADE20K table.
        length: tokens that prompts are padded to; default: all that the text encoder takes.
        pool: of the final hidden states: "eos" takes the first end token, which is CLIP's pooled output; "mean"
            averages the tokens between start and end.
        truncate: cut prompts that are longer than `length` instead of raising.

    Returns:
        float32 [K, D] on the CPU.

    Raises:
        UserError: no names, an empty one, a template without {}, or a prompt that is too long.
    """
    _check(names, templates, pool)
    rows = []
    for name in names:
        prompts = [template.replace("{}", name.replace("_", " ")) for template in templates]
        hidden = backbone.condition(prompts, length=length, truncate=truncate).hidden.float().cpu()  # [T, L, D]
        weights = _weights(backbone.tokenizer, prompts, hidden.shape[1], pool)  # [T, L]
        rows.append((weights.unsqueeze(1) @ hidden).squeeze(1).mean(dim=0))
    return torch.stack(rows)


def _weights(tokenizer: Any, prompts: list[str], length: int, pool: str) -> Tensor:
    """Weights [T, L] over the tokens of each prompt that sum to one."""
    ids = tokenizer(prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")["input_ids"]
    end = (ids == tokenizer.eos_token_id).int().argmax(dim=1, keepdim=True)  # the first; padding may be the same token
    place = torch.arange(length)
    chosen = (place == end) if pool == "eos" else (place > 0) & (place < end)
    return chosen / chosen.sum(dim=1, keepdim=True)


def _check(names: Sequence[str], templates: Sequence[str], pool: str) -> None:
    if isinstance(names, str) or not len(names) or not all(name.replace("_", " ").strip() for name in names):
        raise UserError(f"the class names are {names!r}; expected a list of names, none of them empty")
    if isinstance(templates, str) or not len(templates):
        raise UserError(f"the templates are {templates!r}; expected a list such as ['a photo of a {{}}']")
    for template in templates:
        if template.count("{}") != 1:
            raise UserError(f"the template {template!r} must contain {{}} once, where the class name goes")
    if pool not in ("eos", "mean"):
        raise UserError(f"pool is {pool!r}; expected 'eos' or 'mean'")


class ClassNames(Conditioning):
    """One token per class, the same for all images; no start, end or padding tokens (VPD, section 3.2)."""

    table: Tensor

    def __init__(self, table: Tensor) -> None:  # [K, D], one row per class; see class_table
        super().__init__()
        self.register_buffer("table", check_table(table))
        self.tokens, self.width = table.shape
        self._digest = Digest()

    def forward(self, given: Sequence[Any] | None = None) -> Tensor:
        """The table as [1, K, D]; `given` is ignored."""
        return self.table.unsqueeze(0)

    def identity(self, given: Any = None) -> str:
        """Digest of the table."""
        return self._digest(self.table)


class LearnedTokens(Conditioning):
    """Free tokens in place of text, the same for all images (MetaPrompts: Wan et al. 2023, arXiv 2312.14733)."""

    def __init__(
        self,
        tokens: int,  # K
        width: int,  # D
        seed: int = 0,  # of the initial values N(0, 1), which is the scale of CLIP's final LayerNorm
    ) -> None:
        super().__init__()
        if tokens < 1:
            raise UserError(f"{tokens} learned tokens were asked for; expected at least 1")
        generator = torch.Generator(device="cpu")
        generator.manual_seed(seed)
        self.embedding = nn.Parameter(torch.randn(1, tokens, width, generator=generator))
        self.tokens, self.width = tokens, width
        self._digest = Digest()

    def forward(self, given: Sequence[Any] | None = None) -> Tensor:
        """The tokens as [1, K, D]; `given` is ignored."""
        return self.embedding

    def identity(self, given: Any = None) -> str:
        """Digest of the tokens as they are now."""
        return self._digest(self.embedding)


class ClassId(Conditioning):
    """One token per image: the row of its class, e.g. the room type in VPD's depth network.

    Unknown classes (-1), and all images when nothing is given, take the mean of the rows.
    """

    per_image = True
    table: Tensor

    def __init__(self, table: Tensor) -> None:  # [K, D], one row per class; see class_table
        super().__init__()
        self.register_buffer("table", check_table(table))
        self.tokens, self.width = 1, table.shape[1]
        self._digest = Digest()

    def forward(self, given: Sequence[int] | None = None) -> Tensor:
        """Rows [B, 1, D] of the class ids; [1, 1, D], the mean row, for None.

        Raises:
            UserError: an id that is not -1 .. K-1.
        """
        ids = [self._checked(number) for number in self.entries(given)]
        rows = torch.cat([self.table, self.table.mean(dim=0, keepdim=True)])  # index -1 is the mean
        return rows[ids].unsqueeze(1)

    def entries(self, given: Sequence[int] | None = None) -> list[int]:
        """The ids themselves, or one unknown."""
        return [-1] if given is None else list(given)

    def identity(self, given: Any = None) -> str:
        """Digest of the table and the id."""
        return text_identity(self._digest(self.table), -1 if given is None else self._checked(given))

    def _checked(self, number: int) -> int:
        rows = len(self.table)
        number = int(number)
        if not -1 <= number < rows:
            raise UserError(
                f"the class id {number} is outside the table of {rows} rows; expected 0 to {rows - 1}, "
                "or -1 for an unknown class"
            )
        return number
