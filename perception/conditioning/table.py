"""Tables of text rows, one per class: the generator behind VPD's class embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from perception.backbones.backbone import DiffusionBackbone
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
