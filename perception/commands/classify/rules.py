"""The options of `perception classify` that say which samples are drawn and when to stop."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from perception.commands.arguments import comma_ints, positive_int
from perception.errors import UserError

if TYPE_CHECKING:
    from perception.classification.sets import Preset
    from perception.classification.stopping.schedules import StoppingRule

METHODS = {
    "racing": "drop a class once the rest of the grid would hardly prefer it; ends duels that no grid decides",
    "fixed": "the published stages, --samples N,N --keep K,1",
    "exhaustive": "all candidates on all samples",
}
SAMPLES, KEEP, GRID = (20, 100), (3, 1), (250,)  # fixed: for ten classes 440 evaluations per image
CONFIDENCE, MEASURED = 0.99, 40  # of each comparison, which agrees with the whole grid up to so many candidates


def add_rule_arguments(group: argparse._ArgumentGroup) -> None:
    """--method and what belongs to it."""
    group.add_argument(
        "--method",
        choices=tuple(METHODS),
        help="; ".join(f"{name}: {what}" for name, what in METHODS.items()) + " (default: racing; fixed with --keep)",
    )
    group.add_argument(
        "--confidence",
        type=float,
        metavar="P",
        help="of dropping a candidate rightly, per comparison of a race (default: "
        f"{CONFIDENCE} for up to {MEASURED} candidates, 1 - {(1 - CONFIDENCE) * MEASURED:.1g} / N for more)",
    )
    group.add_argument(
        "--budget", type=positive_int, metavar="N", help="most denoiser evaluations per image (default: whole grid)"
    )
    group.add_argument("--preset", metavar="NAME", help="published --samples, --keep and --loss of a data set")
    group.add_argument(
        "--samples",
        type=comma_ints,
        metavar="N",
        help=f"noise samples per candidate at most (default: {GRID[0]}); fixed: N,N up to the end of each stage "
        f"(default: {','.join(map(str, SAMPLES))})",
    )
    group.add_argument(
        "--keep",
        type=comma_ints,
        metavar="K,1",
        help=f"fixed: candidates kept after each stage (default: {','.join(map(str, KEEP))})",
    )
    group.add_argument("--trials", type=positive_int, metavar="N", help="noises per timestep (default: 1)")


def add_preselection_arguments(parser: argparse.ArgumentParser) -> None:
    """--preselect and --preselect-clip."""
    group = parser.add_argument_group(
        "preselection for hundreds of classes (approximate: a class that it drops cannot win)"
    )
    group.add_argument(
        "--preselect",
        type=positive_int,
        metavar="N",
        help="let the N classes race whose prompts are most similar to the image (default: all classes)",
    )
    group.add_argument(
        "--preselect-clip",
        metavar="MODEL",
        help="for this CLIP model: a hub id, or a transformers folder with tokenizer and preprocessor_config.json",
    )


def check_preselection(args: argparse.Namespace) -> None:
    """Raise UserError unless both options of the preselection are there, or none."""
    if (args.preselect is None) != (args.preselect_clip is None):
        raise UserError(
            "--preselect N and --preselect-clip MODEL belong together: how many classes race, and the CLIP model that "
            "chooses them; give both"
        )


def default_confidence(candidates: int) -> float:
    """Of each comparison: the more rivals there are, the rarer each may be wrong (a union bound from MEASURED on)."""
    return 1 - (1 - CONFIDENCE) * min(1.0, MEASURED / candidates)


def chosen_rule(args: argparse.Namespace, preset: Preset | None, costs: Sequence[int]) -> StoppingRule:
    """The stopping rule of parsed arguments, for candidates of so many denoiser rows per sample.

    Raises UserError for options that the method does not know, and for numbers out of range.
    """
    from perception.classification.stopping.racing import Racing
    from perception.classification.stopping.schedules import Exhaustive, FixedSchedule

    method = args.method or ("fixed" if args.keep is not None else "racing")
    _refuse_foreign(args, method)
    trials = args.trials or 1
    if method == "fixed":
        samples = SAMPLES if args.samples is None else args.samples
        keep = KEEP if args.keep is None else args.keep
        if preset:
            samples, keep = args.samples or preset.samples, args.keep or preset.keep
        return FixedSchedule(samples, keep, trials)
    samples = args.samples or (preset.samples[-1:] if preset else GRID)
    if len(samples) != 1:
        raise UserError(f"--samples of --method {method} is one number, such as --samples {max(samples)}")
    if method == "exhaustive":
        return Exhaustive(samples[0], trials)
    confidence = default_confidence(len(costs)) if args.confidence is None else args.confidence
    rule = Racing(samples[0], trials, args.budget, confidence=confidence)
    rule.most_rows(costs)
    return rule


def _refuse_foreign(args: argparse.Namespace, method: str) -> None:
    known = {
        "keep": method == "fixed",
        "budget": method == "racing",
        "confidence": method == "racing",
    }
    for option, fits in known.items():
        if getattr(args, option) is not None and not fits:
            raise UserError(f"--{option} has no meaning for --method {method}; leave it out or choose another method")
