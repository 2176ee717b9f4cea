"""What all data share: one pass per epoch for training, every sample once and in order for validation and test.

A data base adds the data sets, and the numbers that differ.
"""

from mmengine.dataset import DefaultSampler
from mmengine.runner import EpochBasedTrainLoop, TestLoop, ValLoop

train_dataloader = {
    "batch_size": 16,
    "num_workers": 4,
    "persistent_workers": True,
    "sampler": {"type": DefaultSampler, "shuffle": True},
}
val_dataloader = {
    "batch_size": 1,
    "num_workers": 4,
    "persistent_workers": True,
    "sampler": {"type": DefaultSampler, "shuffle": False, "round_up": False},
}
test_dataloader = {
    "batch_size": 1,
    "num_workers": 4,
    "sampler": {"type": DefaultSampler, "shuffle": False, "round_up": False},
}
train_cfg = {"type": EpochBasedTrainLoop, "max_epochs": 8, "val_interval": 4}
val_cfg = {"type": ValLoop}
test_cfg = {"type": TestLoop}
