"""Source only: ResNet-18 + FPN on 1,000 clear-day scenes of the miniature world, tested in all of its weathers.

    python tools/train.py configs/dginstyle/segmentor_world.py --amp --work-dir runs/seg_source_0 \
        --cfg-options randomness.seed=0
    python tools/evaluate_domains.py source=runs/seg_source_0/model,runs/seg_source_1/model \
        --config configs/dginstyle/segmentor_world.py --domains clear,night,fog,rain,snow --seen clear \
        --out runs/domains

The lower of the two baselines of `segmentor_world_generated.py`. Results: configs/README.md.
Cost: 1,000 iterations, each
0.55 CPU seconds with --amp (bfloat16) and 0.9 without, on one core.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.world_sources import *
