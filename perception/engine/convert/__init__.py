"""Published checkpoints of the reference projects as artifacts of this toolkit."""

from perception.engine.convert.converting import SD15, Report, convert_checkpoint
from perception.engine.convert.layouts import LAYOUTS
from perception.engine.convert.reading import Checkpoint, read_checkpoint

__all__ = ["LAYOUTS", "SD15", "Checkpoint", "Report", "convert_checkpoint", "read_checkpoint"]
