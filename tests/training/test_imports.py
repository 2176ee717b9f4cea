"""What starting a training imports, in a process of its own."""

import subprocess
import sys

_CODE = """
import sys
import perception.training.app
from mmengine.registry import OPTIMIZERS
from torch.nn import Linear
heavy = ("peft", "accelerate", "transformers.optimization", "transformers.trainer_utils", "transformers.models.bloom")
print(*(name for name in heavy if name in sys.modules))
made = OPTIMIZERS.build({"type": "Adafactor", "params": Linear(1, 1).parameters(), "lr": 1e-3, "relative_step": False})
print(type(made).__module__, type(made).__name__)
"""


def test_a_training_imports_no_trainer_of_another_library():
    done = subprocess.run([sys.executable, "-c", _CODE], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert (lines[0], lines[-1]) == ("", "transformers.optimization Adafactor")
