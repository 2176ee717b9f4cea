"""`perception adapt`: learn tokens for your classes from a few labelled images, for `perception classify`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

from perception.commands.arguments import a_path, add_backbone_arguments, load_backbone_from, positive_int, size_pair
from perception.commands.classify.inputs import Comparison, add_input_arguments, read_comparison
from perception.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from perception.backbones.backbone import DiffusionBackbone
    from perception.backbones.conditioning.condition import Condition
    from perception.classification.few_shot import ClassTokens

SUMMARY = "learn tokens for your classes from a few labelled images"
EXAMPLES = """perception adapt shots/ --out tokens.safetensors            # one sub-folder per class
perception classify photos/ --classes cat,dog --class-tokens tokens.safetensors --out runs/labels
perception adapt shots/ --classes cat,dog,horse --objective contrast --steps 400 --out tokens.safetensors"""
_REPORTED = 20  # steps whose mean loss is printed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Labelled images and their classes, how to learn, and where to write."""
    add_input_arguments(parser)
    group = parser.add_argument_group("learning")
    group.add_argument("--tokens", type=positive_int, default=4, help="per class (default: 4)")
    group.add_argument("--steps", type=positive_int, default=200, help="of the optimiser (default: 200)")
    group.add_argument("--batch", type=positive_int, default=8, help="noised images per step (default: 8)")
    group.add_argument("--learning-rate", type=float, default=0.02, metavar="RATE", help="(default: 0.02)")
    group.add_argument(
        "--objective",
        choices=("denoise", "contrast"),
        default="denoise",
        help="error of the true class, or telling it from all others, which costs a row per class (default: denoise)",
    )
    group.add_argument("--beta", type=float, default=100.0, help="contrast: inverse temperature (default: 100)")
    group.add_argument("--seed", type=int, default=0, help="of images, timesteps and noise (default: 0)")
    group.add_argument("--size", type=size_pair, help="side, or HEIGHTxWIDTH, in pixels (default: the model's own)")
    group.add_argument("--rows", type=positive_int, default=32, help="rows per denoiser call (default: 32)")
    add_backbone_arguments(parser)
    group = parser.add_argument_group("job")
    group.add_argument("--out", type=a_path, required=True, metavar="FILE", help="new .safetensors file of the tokens")
    group.add_argument("--no-progress", dest="progress", action="store_false", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    """Learn and write; raises UserError before the model is loaded where the images have no class."""
    if args.out.exists():
        raise UserError(f"{args.out} exists already; choose another output file or delete it")
    _check_writable(args.out)
    args.evaluate = True
    comparison = read_comparison(args)
    losses: list[float] = []
    learned = _learn(args, comparison, losses)
    from perception.classification.few_shot import save_class_tokens

    save_class_tokens(learned, comparison.prompts.names, args.out)
    first, last = (sum(part) / len(part) for part in (losses[:_REPORTED], losses[-_REPORTED:]))
    print(
        f"{args.out}: {args.tokens} tokens for each of {len(comparison.prompts.names)} classes from "
        f"{len(comparison.items)} images; loss {first:.4g} at first, {last:.4g} at last\n"
        f"next: perception classify IMAGES --class-tokens {args.out} --out RESULTS, with the same classes and backbone"
    )
    return 0


def _check_writable(out: Path) -> None:
    """UserError where the file could not be written once everything is learned."""
    from perception.data.files import explain_disk_errors

    with explain_disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=out.parent):
            pass


def _learn(args: argparse.Namespace, comparison: Comparison, losses: list[float]) -> ClassTokens:
    from perception.classification.few_shot import fit_class_tokens
    from perception.jobs.progress import progress_bar

    backbone = load_backbone_from(args)
    condition = _one_row_per_class(backbone, comparison)
    latents, labels = _shots(args, backbone, comparison)
    with progress_bar(args.steps, args.progress) as advance:

        def tell(step: int, loss: float) -> None:
            losses.append(loss)
            advance(1, 0)

        return fit_class_tokens(
            backbone,
            condition,
            latents,
            labels,
            tokens=args.tokens,
            steps=args.steps,
            batch=args.batch,
            learning_rate=args.learning_rate,
            objective=args.objective,
            beta=args.beta,
            seed=args.seed,
            rows=args.rows,
            tell=tell,
        )


def _one_row_per_class(backbone: DiffusionBackbone, comparison: Comparison) -> Condition:
    """The prompts of each class, averaged where there are several. Raises UserError for a model that reads no text."""
    if backbone.class_names is not None:
        raise UserError(f"{backbone.name} is told classes and reads no text, so it can learn no tokens; use another")
    prompts = comparison.prompts
    rows = [prompts.rows(c) for c in range(len(prompts.names))]
    condition = backbone.condition(prompts.prompts)
    if all(len(own) == 1 for own in rows):
        return condition[[own[0] for own in rows]]
    return condition.averaged(rows)


def _shots(args: argparse.Namespace, backbone: DiffusionBackbone, comparison: Comparison) -> tuple[Tensor, Tensor]:
    """Clean latents [B, C, h, w] and class numbers [B] of the images."""
    import torch

    from perception.backbones.image_size import image_size
    from perception.classification.transforms import ClassifierTransform
    from perception.data.images import read_image

    transform = ClassifierTransform(image_size(backbone, args.size), border=comparison.border)
    labels = [comparison.prompts.find(str(item.label)) for item in comparison.items]
    _check_all_seen(labels, comparison.prompts.names)
    with torch.no_grad():
        latents = [backbone.encode(transform(read_image(str(item.path)))[None]) for item in comparison.items]
    return torch.cat(latents), torch.tensor(labels)


def _check_all_seen(labels: Sequence[int], names: Sequence[str]) -> None:
    unseen = [name for c, name in enumerate(names) if c not in set(labels)]
    if unseen:
        raise UserError(f"no image shows {', '.join(unseen[:8])}; add one to learn from, or leave the class out")
