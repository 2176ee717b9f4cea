"""`perception convert`: published checkpoints of VPD and DiT as folders that the other commands open."""

from __future__ import annotations

import argparse

from perception.commands.arguments import a_path, comma_list, positive_int
from perception.errors import UserError

SUMMARY = "turn a published VPD or DiT checkpoint into a model folder"
EXAMPLES = """perception convert vpd-seg vpd_ade20k.pth models/vpd-ade20k
perception convert vpd-refer vpd_refcoco.pth models/vpd-refcoco --backbone models/stable-diffusion-v1-5
perception convert vpd-depth vpd_depth_480x480.pth models/vpd-nyu
perception convert dit DiT-XL-2-256x256.pt models/dit-xl-256 --names imagenet
perception segment street.jpg --model models/vpd-ade20k --out runs/segment"""
_OPENED_BY = {
    "vpd-seg": "perception segment IMAGES --model {out} --out RESULTS",
    "vpd-refer": 'perception segment IMAGES --text "the man in red" --model {out} --out RESULTS',
    "vpd-depth": "perception depth IMAGES --model {out} --out RESULTS",
    "dit": "perception classify IMAGES --backbone {out} --classes A,B --out RESULTS",
}
_ONLY = {"backbone": "vpd-", "classes": "vpd-", "vae": "dit", "heads": "dit", "names": "dit"}  # option -> its tasks
DIT_VAE = "stabilityai/sd-vae-ft-ema"  # of the published DiTs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """TASK, FILE, OUT, --backbone, --classes; --vae, --heads, --names."""
    parser.add_argument("task", choices=tuple(_OPENED_BY), help="what the checkpoint is for")
    parser.add_argument("file", type=a_path, metavar="FILE", help="the .pth or .pt file; code in it is never run")
    parser.add_argument("out", type=a_path, metavar="OUT", help="new folder: config.json, model.safetensors, README.md")
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
    group = parser.add_argument_group("dit")
    group.add_argument("--vae", metavar="NAME", help=f"its autoencoder, a folder or a hub id (default: {DIT_VAE})")
    group.add_argument("--heads", type=positive_int, metavar="N", help="attention heads (default: as published)")
    group.add_argument(
        "--names",
        metavar="FILE",
        help="text file with a class per line, synonyms separated by commas, or 'imagenet' (default: numbers)",
    )


def run(args: argparse.Namespace) -> int:
    """Convert; raises UserError, listing every key, where the file is not exactly what it should be."""
    for option, task in _ONLY.items():
        if getattr(args, option) and not args.task.startswith(task):
            raise UserError(f"--{option} has no meaning for {args.task}; leave it out")
    print(f"{args.out}: {_dit(args) if args.task == 'dit' else _vpd(args)}")
    print(f"next: {_OPENED_BY[args.task].format(out=args.out)}")
    return 0


def _vpd(args: argparse.Namespace) -> str:
    from perception.convert import SD15, convert_checkpoint

    report = convert_checkpoint(
        args.task, args.file, args.out, backbone=args.backbone or SD15, classes=args.classes or None
    )
    return report.render()


def _dit(args: argparse.Namespace) -> str:
    from perception.convert.dit import convert_dit

    names = None if args.names is None else _names(args.names)
    config = convert_dit(args.file, args.out, vae=args.vae or DIT_VAE, heads=args.heads, names=names)
    side = config["sample_size"]
    return (
        f"DiT with {config['num_layers']} blocks, {config['num_embeds_ada_norm']} classes, {side}x{side} latent cells"
    )


def _names(source: str) -> list[str]:
    """Class names in order. Raises UserError for a file that cannot be read."""
    if source == "imagenet":
        from perception.classification.prompts import prompt_table

        return list(prompt_table(source).names)
    from perception.data.inputs import read_text

    return [line.strip() for line in read_text(source, "the class names in ").splitlines() if line.strip()]
