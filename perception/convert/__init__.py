"""Published checkpoints of the reference projects as artifacts of this toolkit."""

from perception.convert.converting import SD15, Report, convert_checkpoint
from perception.convert.layouts import LAYOUTS
from perception.convert.reading import Checkpoint, read_checkpoint

__all__ = ["LAYOUTS", "SD15", "Checkpoint", "Report", "convert_checkpoint", "read_checkpoint"]
