"""`perception store`: look after a store of latents and features."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from perception.commands.arguments import a_path
from perception.errors import UserError, printable

if TYPE_CHECKING:
    from perception.data.store.maintenance import GcReport, VerifyReport

SUMMARY = "count, check or clean a store of latents and features"
EXAMPLES = """perception store runs/features stat
perception store runs/features verify
perception store runs/features gc --max-bytes 20G --dry-run"""
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """STORE, the action, and the options of gc."""
    parser.add_argument(
        "store", type=a_path, metavar="STORE", help="folder written by `perception extract` or by training"
    )
    parser.add_argument("action", choices=("stat", "verify", "gc"), help="count | read all and check hashes | clean up")
    parser.add_argument(
        "--max-bytes", type=byte_count, metavar="N", help="gc: delete the oldest shards above N (such as 20G)"
    )
    parser.add_argument("--check", action="store_true", help="gc: read and hash everything to find damaged shards")
    parser.add_argument("--dry-run", action="store_true", help="gc: only say what would be deleted")


def run(args: argparse.Namespace) -> int:
    """Do the action; 1 when `verify` finds damage."""
    from perception.data.store import maintenance

    if args.action != "gc":
        _refuse_options_of_gc(args)
    if args.action == "stat":
        for name, value in maintenance.store_stat(args.store).items():
            print(f"{name:>8}  {value}")
        return 0
    if args.action == "verify":
        return _show_verify(maintenance.verify_store(args.store), args.store)
    report = maintenance.collect_garbage(args.store, args.max_bytes, check=args.check, dry_run=args.dry_run)
    _show_gc(report, args.dry_run)
    return 0


def _refuse_options_of_gc(args: argparse.Namespace) -> None:
    given = {"--max-bytes": args.max_bytes is not None, "--check": args.check, "--dry-run": args.dry_run}
    if unused := [option for option, present in given.items() if present]:
        raise UserError(f"{', '.join(unused)} has no meaning for {args.action}; leave it out, or use gc.")


def byte_count(text: str) -> int:
    """An argparse type: '500M', '20G' or plain bytes; decimal units."""
    number, unit = (text[:-1], text[-1].upper()) if text[-1:].isalpha() else (text, "")
    try:
        count = int(float(number) * _UNITS[unit])
    except (ValueError, OverflowError, KeyError):
        count = -1
    if count < 0:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of bytes such as 500M or 20G")
    return count


def _show_verify(report: VerifyReport, root: Path) -> int:
    for name, reason in report.damaged:
        print(printable(f"damaged: {name}: {reason}"))
    print(f"{report.shards} shards, {report.entries} entries, {report.bytes} bytes, {len(report.damaged)} damaged")
    if not report.ok:
        print(f"`perception store {root} gc --check` deletes them; what they held is computed again when needed.")
    return 0 if report.ok else 1


def _show_gc(report: GcReport, dry_run: bool) -> None:
    verb = "would delete" if dry_run else "deleted"
    counts = {
        "damaged shards": report.damaged,
        "duplicate shards": report.duplicates,
        "old shards": report.evicted,
        "temporary files": report.temps,
    }
    listed = ", ".join(f"{len(names)} {kind}" for kind, names in counts.items())
    print(f"{verb} {listed}; freed {report.freed_bytes} bytes, kept {report.kept_bytes}")
