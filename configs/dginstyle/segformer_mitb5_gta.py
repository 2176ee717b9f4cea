"""GTA5 -> five real sets, source only: SegFormer MiT-B5 trained on synthetic frames alone.

    python tools/train.py configs/dginstyle/segformer_mitb5_gta.py
    python tools/evaluate_domains.py gta=runs/segformer_mitb5_gta/model --out runs/targets \
        --config configs/dginstyle/segformer_mitb5_gta.py --domains cityscapes,bdd100k,mapillary,acdc,dark_zurich

Not measured. Published, with DAFormer's head and the feature distance: 52.65, 47.89, 54.66, 38.25, 17.45, mean 42.18
(three seeds; arXiv 2312.03048). 40,000 iterations of 2 crops; needs a GPU.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.gta import *
    from .._base_.segformer_mitb5 import *
