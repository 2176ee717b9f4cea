"""Test trained segmentors on several domains: mIoU per domain, mean and standard deviation over seeds."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from perception.errors import UserError, exit_status

_EXAMPLES = """examples:
  python tools/evaluate_domains.py source=runs/s0/model,runs/s1/model generated=runs/g0/model,runs/g1/model \\
         --config configs/dginstyle/segmentor_world.py --domains clear,night,fog,rain,snow --seen clear \\
         --out runs/domains
  python tools/evaluate_domains.py gta=runs/gta/model --config configs/dginstyle/segformer_mitb5_gta.py \\
         --domains cityscapes,bdd100k,mapillary,acdc,dark_zurich --out runs/targets

results: OUT/table.md, OUT/table.json, OUT/evaluations/NAME_SEED_DOMAIN.json (IoU per class)
Run the same command again to continue: finished evaluations are read from OUT."""


def build_parser() -> argparse.ArgumentParser:
    """The command line of tools/evaluate_domains.py."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "models", nargs="+", metavar="NAME=FOLDER,...", help="a row of the table: folders WORK_DIR/model, one per seed"
    )
    parser.add_argument("--config", type=Path, required=True, help="config whose test data set has domains")
    parser.add_argument("--domains", required=True, metavar="A,B,...", help="columns of the table")
    parser.add_argument("--seen", default="", metavar="A,...", help="domains trained on, left out of the mean")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument(
        "--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="override the config, e.g. its batch size"
    )
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Parse, then import the training stack, then evaluate; 0, or 2 with one sentence on stderr."""
    args = build_parser().parse_args(arguments)

    def work() -> None:
        models = read_models(args.models)
        from perception.training.domains import Evaluations, evaluate

        domains, seen = args.domains.split(","), [name for name in args.seen.split(",") if name]
        job = Evaluations(models, args.config, domains, args.out, seen, tuple(args.cfg_options))
        print(evaluate(job).markdown())

    return exit_status("evaluate_domains", work)


def read_models(arguments: list[str]) -> dict[str, list[Path]]:
    """["a=x,y"] -> {"a": [x, y]}. Raises UserError for an argument without a name, or a name that comes twice."""
    models: dict[str, list[Path]] = {}
    for argument in arguments:
        name, equals, folders = argument.partition("=")
        if not (name and equals and folders) or "/" in name or name in models:
            raise UserError(
                f"{argument!r} is no NAME=FOLDER,...; give each row of the table another name (without '/') and folders"
            )
        models[name] = [Path(folder) for folder in folders.split(",")]
    return models


if __name__ == "__main__":
    sys.exit(main())
