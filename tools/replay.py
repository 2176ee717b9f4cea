"""Compare stopping rules of the zero-shot classifier on recorded errors: evaluations, accuracy, agreement.

perception classify runs/objects --method exhaustive --samples 250 --save-errors --out runs/objects_grid
python tools/replay.py runs/objects_grid
python tools/replay.py runs/objects_grid --stages 25,250 --keep 5,1 --confidence 0.95 0.99 0.999
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from perception.commands.arguments import comma_ints
from perception.errors import exit_status

if TYPE_CHECKING:
    from perception.classification.stopping.schedules import StoppingRule


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recorded", type=Path, help="OUT of an exhaustive run with --save-errors")
    parser.add_argument(
        "--stages", type=comma_ints, metavar="N,N", help="samples of the reference schedule (default: grid / 10, grid)"
    )
    parser.add_argument(
        "--keep", type=comma_ints, default=(5, 1), metavar="K,1", help="candidates it keeps (default: 5,1)"
    )
    parser.add_argument(
        "--confidence", nargs="+", type=float, default=[0.95, 0.99, 0.999], help="of the races (default %(default)s)"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Print one line per rule; returns the exit status."""
    args = parse(argv)
    return exit_status("replay", lambda: compare(args), "run it again")


def compare(args: argparse.Namespace) -> None:
    """Print one line per rule."""
    from perception.classification.recorded import read_recorded
    from perception.classification.replay import SIGNIFICANT, summarise, whole_grid

    names, images = read_recorded(args.recorded)
    grid = images[0].errors.shape[1]
    leads = [whole_grid(image)[1] for image in images]
    sure = sum(lead > SIGNIFICANT for lead in leads)
    print(f"{len(images)} images, {len(names)} classes, {len(images[0].classes)} prompts, grid of {grid}")
    print(f"the whole grid leads by more than {SIGNIFICANT} standard errors on {sure} images, least {min(leads):.1f}")
    print(
        f"{'rule':<36} {'evaluations':>11} {'of fixed':>9} {'most':>6} {'accuracy':>9} {'agree':>8} {'agree, all':>10}"
    )
    reference = None
    for name, rule in rules(args, grid):
        row = summarise(rule, images)
        reference = reference or row.evaluations
        print(
            f"{name:<36} {row.evaluations:11.1f} {'1/%.1f' % (reference / row.evaluations):>9} {row.most:6d} "
            f"{shown(row.accuracy):>9} {shown(row.agreement):>8} {shown(row.agreement_all):>10}",
            flush=True,
        )


def shown(share: float) -> str:
    """A share in percent; a dash where nothing counts, such as the accuracy of images whose class is not known."""
    return "-" if math.isnan(share) else f"{share:.2%}"


def rules(args: argparse.Namespace, grid: int) -> Iterator[tuple[str, StoppingRule]]:
    """The reference schedule first, then what is compared with it."""
    from perception.classification.stopping.racing import Racing
    from perception.classification.stopping.schedules import Exhaustive, FixedSchedule

    stages = args.stages or (max(1, grid // 10), grid)
    name = f"fixed {','.join(map(str, stages))} keep {','.join(map(str, args.keep))}"
    yield name, FixedSchedule(stages, args.keep)
    yield "exhaustive", Exhaustive(grid)
    for confidence in args.confidence:
        yield f"racing {confidence}", Racing(grid, confidence=confidence)


if __name__ == "__main__":
    sys.exit(main())
