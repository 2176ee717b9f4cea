"""From a training checkpoint to a folder that the commands open."""
