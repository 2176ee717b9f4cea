"""`build_conditioning`: the conditioning of four papers, chosen by one argument."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from perception.backbones.backbone import DiffusionBackbone
from perception.conditioning.base import Conditioning
from perception.conditioning.sentences import EmptyPrompt, Sentences
from perception.conditioning.tokens import ClassId, ClassNames, LearnedTokens, class_table
from perception.data.templates import IMAGENET_TEMPLATES
from perception.errors import UserError

ConditioningKind = Literal["class_names", "learned", "captions", "empty", "class_id"]
KINDS: tuple[str, ...] = ("class_names", "learned", "captions", "empty", "class_id")


def build_conditioning(
    kind: ConditioningKind,
    backbone: DiffusionBackbone,
    *,
    names: Sequence[str] = (),
    templates: Sequence[str] | Literal["imagenet"] = ("a photo of a {}",),
    pool: Literal["eos", "mean"] = "eos",
    tokens: int | None = None,
    length: int | None = None,
    truncate: bool = False,
    allow_empty: bool = False,
    table: Tensor | None = None,
    seed: int = 0,
) -> Conditioning:
    """The conditioning of a kind; arguments of other kinds are not read.

    Args:
        kind: "class_names" (VPD: one token per class), "learned" (MetaPrompts: free tokens), "captions" (TADP, and
            VPD's referring sentences: one sentence per image), "empty" (no text), "class_id" (VPD's depth: one token
            per image, the row of its room).
        backbone: gives the text encoder and the width of the tokens.
        names: class_names, class_id: the classes, made into a table by `class_table`.
        templates, pool: of that table; "imagenet" stands for the 80 IMAGENET_TEMPLATES.
        tokens: learned: how many; default: as many as there are names.
        length: class_names, class_id, captions, empty: tokens that texts are padded to; default: all there are.
        truncate: cut texts that are too long instead of raising.
        allow_empty: captions: "" is a legal caption.
        table: class_names, class_id: a ready table [K, D] in place of `names`, e.g. out of a checkpoint.
        seed: learned: of the initial values.

    Raises:
        UserError: an unknown kind, neither names nor table, a table of another width, or what the classes raise.
    """
    if kind == "learned":
        if not (tokens or names):
            raise UserError("learned tokens need their number; pass tokens=..., or the class names to count them")
        return LearnedTokens(tokens or len(names), backbone.text_width, seed)
    if kind == "captions":
        return Sentences(backbone, length, truncate=truncate, allow_empty=allow_empty)
    if kind == "empty":
        return EmptyPrompt(backbone, length)
    if kind not in ("class_names", "class_id"):
        raise UserError(f"the conditioning {kind!r} is unknown; expected one of {', '.join(KINDS)}")
    if table is None:
        if not names:
            raise UserError(f"the conditioning {kind!r} needs class names or a table; pass names=[...]")
        chosen = IMAGENET_TEMPLATES if templates == "imagenet" else templates
        table = class_table(backbone, names, templates=chosen, length=length, pool=pool, truncate=truncate)
    if names and len(names) != len(table):
        raise UserError(f"the table has {len(table)} rows for {len(names)} names; expected one row per name")
    if table.shape[-1] != backbone.text_width:
        raise UserError(
            f"the text table is {table.shape[-1]} wide and this denoiser attends to text of width "
            f"{backbone.text_width}; make the table with the text encoder of this backbone"
        )
    return ClassNames(table) if kind == "class_names" else ClassId(table)
