"""A job for tests that kill it: `slow_job.py OUT COUNT ENGINE`. Needs no torch unless under torchrun."""

import signal
import sys
import time
from pathlib import Path

from perception.errors import UserError
from perception.jobs import Item, JobOptions, Outcome, run_job


class Slow:
    """Writes one file per item, 4 ms each; items whose number ends with 13 fail."""

    fingerprint = "slow"

    def prepare(self, item: Item) -> int:
        if item.id.endswith("13"):
            raise UserError("It is unlucky.")
        return int(item.id)

    def __call__(self, batch: list[int]) -> list[Outcome]:
        time.sleep(0.004 * len(batch))
        return [Outcome({"square": n * n}, {f"files/{n % 7}/{n}.bin": bytes([n % 256]) * 20_000}) for n in batch]


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background shells start processes with SIGINT ignored
    out, count, engine = sys.argv[1:]
    items = [Item(id=f"{number:04d}") for number in range(int(count))]
    summary = run_job(items, Slow, JobOptions(Path(out), batch_size=4, engine=engine, progress=False))
    if summary.rank == 0:
        print(summary.render())
    sys.exit(summary.exit_code)
