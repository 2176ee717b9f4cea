"""CamVid in the SegNet version: 480 x 360 street scenes, 11 classes, 367 / 101 / 233 images.

Brostow, Fauqueur, Cipolla: Semantic object classes in video (2009); split and classes of Badrinarayanan et al.,
SegNet (2017). Label 255 is ignored in training and evaluation.
"""

CLASSES = (
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign_symbol",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
)
PALETTE = (
    (128, 128, 128),
    (128, 0, 0),
    (192, 192, 128),
    (128, 64, 128),
    (60, 40, 222),
    (128, 128, 0),
    (192, 128, 128),
    (64, 64, 128),
    (64, 0, 128),
    (64, 64, 0),
    (0, 128, 192),
)
