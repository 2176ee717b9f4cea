"""Preparation in threads with bounded memory, and micro-batches that shrink."""

import threading
import time

import pytest
import torch

from perception.errors import UserError
from perception.jobs import Item, Outcome
from perception.jobs.prepare import MicroBatcher, PreparedItem, is_out_of_memory, prefetch, prepare

MESSAGES = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
    RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB)"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:115] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
    ),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
]


class Limited:
    """Fits `limit` samples at a time."""

    fingerprint = "limited"

    def __init__(self, limit: int, error: BaseException = MESSAGES[0]) -> None:
        self.limit, self.error, self.sizes = limit, error, []

    def prepare(self, item):
        return item.id

    def __call__(self, batch):
        self.sizes.append(len(batch))
        if len(batch) > self.limit:
            raise self.error
        return [Outcome({"twice": 2 * sample}) for sample in batch]


@pytest.mark.parametrize("error", MESSAGES, ids=lambda error: type(error).__name__)
def test_micro_batches_halve_until_they_fit_with_the_same_results(error):
    predictor = Limited(2, error)
    run = MicroBatcher(predictor, 9)
    expected = [Outcome({"twice": 2 * sample}) for sample in range(9)]
    assert run(range(9)) == expected
    assert predictor.sizes == [9, 4, 2, 2, 2, 2, 1]
    assert run(range(9)) == expected and predictor.sizes[7:] == [2, 2, 2, 2, 1]


def test_a_sample_that_does_not_fit_alone_has_no_outcome():
    assert MicroBatcher(Limited(0), 4)(range(3)) == [None, None, None]


def test_the_real_cpu_allocator_is_recognised():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 62, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def test_other_errors_are_not_hidden():
    with pytest.raises(RuntimeError, match="shape"):
        MicroBatcher(Limited(0, RuntimeError("shape mismatch")), 4)(range(2))
    with pytest.raises(ValueError, match="2 outcomes for 3 samples"):
        MicroBatcher(lambda batch: [Outcome({})] * 2, 4)(range(3))


def test_prefetch_keeps_order_and_never_holds_more_than_it_may():
    lock, held, most = threading.Lock(), 0, 0

    def load(item):
        nonlocal held, most
        with lock:
            held += 1
            most = max(most, held)
        time.sleep(0.001 * (int(item.id) % 3))
        return PreparedItem(item, None)

    seen = []
    for entry in prefetch((Item(id=str(n)) for n in range(60)), load, workers=4, ahead=7):
        seen.append(int(entry.item.id))
        with lock:
            held -= 1
    assert seen == list(range(60)) and most <= 8


def test_prepare_hashes_skips_and_explains(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"abc")
    item, predictor = Item(id="a", path=path), Limited(1)
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert prepare(predictor, item, lambda *asked: False) == PreparedItem(item, digest, sample="a")
    assert prepare(predictor, item, lambda *asked: asked == (item, digest)) == PreparedItem(item, digest, skip=True)
    gone = prepare(predictor, Item(id="b", path=tmp_path / "none.txt"), lambda *asked: False)
    assert "none.txt cannot be read (No such file or directory)" in gone.reason and gone.unchecked

    def refuse(item):
        raise UserError("It is blue.")

    predictor.prepare = refuse
    assert prepare(predictor, item, lambda *asked: False) == PreparedItem(item, digest, reason="It is blue.")

    def explode(item):
        raise MemoryError

    predictor.prepare = explode
    assert "does not fit into memory even alone" in prepare(predictor, item, lambda *asked: False).reason
