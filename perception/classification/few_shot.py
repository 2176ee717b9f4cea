"""Few-shot adaptation: tokens per class, learned from a few labelled images while the backbone stays frozen.

As in textual inversion (Gal et al. 2022, eq. 2) the denoising loss teaches the text side what a class looks like; the
learned tokens are appended to the encoded prompt rather than put through the text encoder.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from perception.backbones.backbone import DiffusionBackbone
from perception.backbones.conditioning.condition import Condition
from perception.classification.scoring import DenoisingErrors
from perception.data.documents import conforms, parse_document
from perception.data.files import write_atomic
from perception.errors import UserError, one_line

Objective = Literal["denoise", "contrast"]
OBJECTIVES = ("denoise", "contrast")


class ClassTokens(nn.Module):
    """Tokens [C, M, D] appended to the text condition of the C classes.

    They begin as copies of each row's last token, which pads most prompts anyway, so that the untrained state is close
    to the plain prompt.
    """

    def __init__(self, start: Tensor) -> None:  # [C, M, D]
        super().__init__()
        self.embedding = nn.Parameter(start.detach().float().clone())

    @classmethod
    def beside(cls, condition: Condition, tokens: int = 4) -> ClassTokens:
        """Untrained tokens for a condition of one row per class. Raises UserError for fewer than one token."""
        if tokens < 1:
            raise UserError(f"{tokens} learned tokens per class were asked for; expected at least 1")
        if not condition.hidden.shape[2]:
            raise UserError(
                "a class-conditional backbone reads no text, so no tokens can be learned for it; use another"
            )
        return cls(condition.hidden[:, -1:].expand(-1, tokens, -1))

    def forward(self, condition: Condition, owners: Sequence[int] | None = None) -> Condition:
        """The condition with the tokens behind its own: hidden [N, L + M, D].

        `owners`: the class of each row, for several prompts per class; default: one row per class, in order. Raises
        UserError for other classes or another width.
        """
        classes, _, width = self.embedding.shape
        found = len(condition) if owners is None else max(owners) + 1
        if found != classes or condition.hidden.shape[2] != width:
            raise UserError(
                f"learned tokens for {classes} classes of width {width} do not fit a condition of {found} "
                f"rows of width {condition.hidden.shape[2]}; use them with the classes they were trained for"
            )
        tokens = self.embedding.to(condition.hidden)[list(range(classes) if owners is None else owners)]
        return condition.followed_by(tokens)


def fit_class_tokens(
    backbone: DiffusionBackbone,
    condition: Condition,  # one row per class, e.g. backbone.condition(prompts.prompts)
    latents: Tensor,  # clean latents of the labelled images, [B, C, h, w]
    labels: Tensor,  # int64 [B]: rows of the condition
    *,
    tokens: int = 4,  # per class
    steps: int = 200,
    batch: int = 8,  # noised images per step
    learning_rate: float = 0.02,
    objective: Objective = "denoise",
    beta: float = 100.0,  # "contrast": inverse temperature of the errors of one sample
    seed: int = 0,  # of images, timesteps and noise
    rows: int = 32,  # most rows per denoiser call
    tell: Callable[[int, float], None] = lambda step, loss: None,
) -> ClassTokens:
    """Train tokens with Adam; the backbone gets no gradient.

    "denoise": mean error of the true class, one denoiser row per noised image. "contrast": cross entropy of
    softmax(-beta * error) over all classes on the same noise, as many rows as classes, and aimed at the decision.

    Raises:
        UserError: labels that do not fit, an unknown objective, or a loss that is not finite.
    """
    _check(condition, latents, labels, objective)
    score = DenoisingErrors(backbone, "l2", rows, recompute=objective == "contrast")
    learned = ClassTokens.beside(condition, tokens)
    learned.to(latents.device)
    optimizer = torch.optim.Adam(learned.parameters(), learning_rate)
    generator = torch.Generator().manual_seed(seed)
    every = torch.arange(len(condition))
    for step in range(steps):
        chosen = torch.randint(len(latents), (batch,), generator=generator)
        timesteps = torch.randint(backbone.num_train_timesteps, (batch,), generator=generator)
        noise = torch.randn(batch, *latents.shape[1:], generator=generator).to(latents.device)
        target = labels.cpu()[chosen]
        candidates = target[:, None] if objective == "denoise" else every.expand(batch, -1)
        x0 = latents[chosen.to(latents.device)]
        errors = score(x0, noise, timesteps, learned(condition), candidates)  # [batch, 1 or C]
        loss = errors.mean()
        if objective == "contrast":
            loss = nn.functional.cross_entropy(-beta * errors, target.to(errors.device))
        if not loss.isfinite():
            raise UserError(f"the loss of step {step} is not finite; lower the learning rate or use float32")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        tell(step, float(loss.detach()))
    return learned


def save_class_tokens(learned: ClassTokens, names: Sequence[str], path: Path) -> None:
    """Write tokens and the names of their classes to one .safetensors file."""
    write_atomic(path, save({"embedding": learned.embedding.detach().cpu()}, {"classes": json.dumps(list(names))}))


def load_class_tokens(path: Path, names: Sequence[str]) -> ClassTokens:
    """Read tokens for these classes.

    Raises:
        UserError: no such file, another kind of file, or tokens of other classes.
    """
    try:
        with safe_open(path, "pt") as file:
            stored, start = parse_document((file.metadata() or {})["classes"]), file.get_tensor("embedding")
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{path} holds no learned class tokens ({one_line(error)}); train them anew") from error
    if not (conforms(stored, [str]) and start.ndim == 3 and len(start) == len(stored) and start.is_floating_point()):
        raise UserError(f"{path} holds no learned class tokens (one row per class is expected); train them anew")
    if stored != list(names):
        raise UserError(f"{path} has tokens of {', '.join(stored[:8])}, but the classes are {', '.join(names[:8])}")
    return ClassTokens(start)


def _check(condition: Condition, latents: Tensor, labels: Tensor, objective: str) -> None:
    if objective not in OBJECTIVES:
        raise UserError(f"unknown objective {objective!r}; choose one of {', '.join(OBJECTIVES)}")
    if labels.shape != latents.shape[:1] or not len(labels) or labels.min() < 0 or labels.max() >= len(condition):
        raise UserError(
            f"the labels do not fit: {labels.numel()} for {len(latents)} images of {len(condition)} classes; "
            f"give one of 0 to {len(condition) - 1} per image"
        )
