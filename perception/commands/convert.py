"""`perception convert`: published checkpoints of VPD as folders that `segment` and `depth` open."""

from __future__ import annotations

import argparse
from pathlib import Path

from perception.commands.common import comma_list

SUMMARY = "turn a published VPD checkpoint into a model folder"
EXAMPLES = """perception convert vpd-seg vpd_ade20k.pth models/vpd-ade20k
perception convert vpd-refer vpd_refcoco.pth models/vpd-refcoco --backbone models/stable-diffusion-v1-5
perception convert vpd-depth vpd_depth_480x480.pth models/vpd-nyu
perception segment street.jpg --model models/vpd-ade20k --out runs/segment"""
_OPENED_BY = {
    "vpd-seg": "perception segment IMAGES --model {out} --out RESULTS",
    "vpd-refer": 'perception segment IMAGES --text "the man in red" --model {out} --out RESULTS',
    "vpd-depth": "perception depth IMAGES --model {out} --out RESULTS",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """TASK, FILE, OUT, --backbone, --classes."""
    parser.add_argument("task", choices=tuple(_OPENED_BY), help="what the checkpoint is for")
    parser.add_argument("file", type=Path, metavar="FILE", help="the .pth or .pt file; code in it is never run")
    parser.add_argument("out", type=Path, metavar="OUT", help="new folder: config.json, model.safetensors, README.md")
    parser.add_argument(
        "--backbone",
        metavar="NAME",
        help="the model it was trained on, for what stays frozen: a local diffusers folder or a hub id "
        "(default: Stable Diffusion 1.5)",
    )
    parser.add_argument(
        "--classes",
        type=comma_list,
        metavar="A,B",
        help="names of the classes or rooms in order (default: those in the file, of ADE20K, or of NYUv2)",
    )


def run(args: argparse.Namespace) -> int:
    """Convert; raises UserError, listing every key, where the file is not exactly what it should be."""
    from perception.engine.convert import SD15, convert_checkpoint

    report = convert_checkpoint(
        args.task, args.file, args.out, backbone=args.backbone or SD15, classes=args.classes or None
    )
    print(f"{args.out}: {report.render()}")
    print(f"next: {_OPENED_BY[args.task].format(out=args.out)}")
    return 0
