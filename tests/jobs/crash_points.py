"""Kills a job with a store at each of its disk operations in turn, and reruns it: `crash_points.py FOLDER`."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from perception.data.store import TensorStore, feature_key
from perception.data.store.maintenance import verify_store
from perception.jobs import Item, JobOptions, Outcome, run_job
from perception.jobs.manifest import read_manifest

ITEMS = [Item(id=f"{number}.png") for number in range(4)]
OPERATIONS = ("fsync", "replace", "unlink")


class Storing:
    """Puts one tensor per item into a store and writes one file."""

    fingerprint = "storing"

    def __init__(self, root: Path) -> None:
        self.store = TensorStore(root)

    def prepare(self, item: Item) -> str:
        return item.id

    def __call__(self, batch: list[str]) -> list[Outcome]:
        for name in batch:
            self.store.put(feature_key(name, "b", {}), {"x": torch.full((3,), float(name[0]))})
        return [Outcome({"key": feature_key(name, "b", {})}, {f"{name}.txt": name.encode()}) for name in batch]

    def flush(self) -> None:
        self.store.flush()


def job(out: Path) -> None:
    run_job(ITEMS, lambda: Storing(out), JobOptions(out, batch_size=2, workers=1, progress=False))


def dying(at: int, how: Callable[[], None]) -> None:
    """From now on, the disk operation number `at` of this process is its last: it dies before or after it."""
    count = 0

    def wrap(real: Callable[..., object], after: bool) -> Callable[..., object]:
        def operation(*args: object, **kwargs: object) -> object:
            nonlocal count
            count += 1
            if count == at and not after:
                how()
            result = real(*args, **kwargs)
            if count == at:
                how()
            return result

        return operation

    for name in OPERATIONS:
        setattr(os, name, wrap(getattr(os, name), after=name == "replace"))


def forked(work: Callable[[], None]) -> int:
    """Exit status of `work` in a child process."""
    if not (child := os.fork()):
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def check(out: Path, expected: bytes) -> None:
    """The output is what an undisturbed run leaves, and nothing else."""
    assert (out / "manifest.jsonl").read_bytes() == expected
    with TensorStore(out, read_only=True) as store:
        assert verify_store(store.root).ok
        for record, item in zip(read_manifest(out), ITEMS, strict=True):
            assert store.get(record["key"])["x"][0] == float(item.id[0])
    names = {path.name for path in out.iterdir()}
    assert names == {"store.json", "shards", "job.json", "manifest.jsonl", ".rank00000.lock"} | {
        f"{item.id}.txt" for item in ITEMS
    }, names
    assert all(path.suffix == ".safetensors" for path in (out / "shards").iterdir())


def main(root: Path) -> None:
    assert forked(lambda: job(root / "plain")) == 0
    expected = (root / "plain" / "manifest.jsonl").read_bytes()
    at, status = 0, 9
    while status == 9:
        at += 1
        out = root / f"at{at}"
        status = forked(lambda at=at, out=out: (dying(at, lambda: os._exit(9)), job(out)))
        assert status in (0, 9), status
        assert forked(lambda out=out: (job(out), check(out, expected))) == 0, f"after a kill at operation {at}"
    print(f"survived kills at {at - 1} operations")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
