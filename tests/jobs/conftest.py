"""A cheap predictor, and a job around it, for tests of the runner."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from perception.errors import UserError
from perception.jobs import Item, JobOptions, JobSummary, Outcome, run_job


class Shouter:
    """Reads a text file and shouts it; notes what it was asked to do."""

    def __init__(self, fingerprint: str = "shout-1", on_batch: Callable[[list[str]], None] | None = None) -> None:
        self.fingerprint = fingerprint
        self.options = {"tone": fingerprint}
        self.on_batch = on_batch
        self.prepared: list[str] = []
        self.batches: list[list[str]] = []
        self._lock = threading.Lock()

    def prepare(self, item: Item) -> str:
        assert item.path is not None
        with self._lock:
            self.prepared.append(item.id)
        text = item.path.read_text()
        if not text:
            raise UserError(f"{item.path.name} is empty.")
        return text

    def __call__(self, batch: Sequence[Any]) -> list[Outcome]:
        if self.on_batch is not None:
            self.on_batch(list(batch))
        self.batches.append(list(batch))
        return [Outcome({"length": len(text)}, {f"shouts/{text}.txt": text.upper().encode()}) for text in batch]


class StreamShouter(Shouter):
    """Shouts several texts at a time; of every two the one that came last is ready first."""

    def stream(self, samples: Iterable[tuple[int, str]], together: int) -> Iterator[tuple[int, Outcome] | None]:
        waiting, racing = iter(samples), []
        while True:
            while len(racing) < together and (sample := next(waiting, None)) is not None:
                racing.append(sample)
            if not racing:
                return
            number, _ = racing[min(1, len(racing) - 1)]
            outcomes = dict(zip([key for key, _ in racing], self([text for _, text in racing]), strict=True))
            racing = [each for each in racing if each[0] != number]
            yield number, outcomes[number]
            yield None
            while racing:
                number, text = racing.pop(0)
                (outcome,) = self([text])
                yield number, outcome


class Desk:
    """A folder of text items and an output folder."""

    def __init__(self, root: Path, count: int = 10) -> None:
        self.out = root / "out"
        self.inputs = root / "in"
        self.inputs.mkdir()
        self.items = [self.item(f"{number:03d}") for number in range(count)]

    def item(self, name: str, text: str | None = None) -> Item:
        path = self.inputs / f"{name}.txt"
        path.write_text(f"text-{name}" if text is None else text)
        return Item(id=path.name, path=path)

    def run(self, predictor: Any = None, **options: Any) -> JobSummary:
        predictor = predictor or Shouter()
        settings = {"batch_size": 3, "progress": False} | options
        return run_job(self.items, lambda: predictor, JobOptions(out=self.out, **settings))

    def files(self) -> dict[str, bytes]:
        """Everything below OUT but the lock, by relative path."""
        paths = [path for path in self.out.rglob("*") if path.is_file() and path.suffix != ".lock"]
        return {path.relative_to(self.out).as_posix(): path.read_bytes() for path in paths}


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """Ten good items."""
    return Desk(tmp_path)


@pytest.fixture
def shouter() -> type[Shouter]:
    """The class of the cheap predictor."""
    return Shouter


@pytest.fixture
def stream_shouter() -> type[StreamShouter]:
    """The class of the cheap predictor that streams."""
    return StreamShouter
