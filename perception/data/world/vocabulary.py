"""Names, colours and seeds of the miniature world."""

from __future__ import annotations

# Cityscapes train ids, in id order (Cordts et al. 2016); 255 is ignored.
CLASSES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain",
    "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip
PALETTE = (
    (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153), (250, 170, 30),
    (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142), (0, 0, 70),
    (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32),
)  # fmt: skip
TRAIN_ID = {name: index for index, name in enumerate(CLASSES)}

DOMAINS = ("clear", "night", "fog", "rain", "snow")
TRAIN_SEED, VAL_SEED, TEST_SEED = 0, 1, 2

COLORS = {
    "red": (196, 40, 38), "blue": (44, 86, 190), "green": (48, 142, 62), "yellow": (224, 192, 44),
    "white": (228, 228, 224), "black": (38, 38, 42), "orange": (226, 124, 34), "purple": (126, 62, 158),
}  # fmt: skip

# Few-shot folds: one row per fold, six categories each.
OBJECT_FOLDS = (
    ("car", "tree", "cup", "fish", "star", "lamp"),
    ("bus", "house", "bottle", "bird", "heart", "chair"),
    ("truck", "person", "umbrella", "boat", "clock", "mushroom"),
    ("bicycle", "airplane", "ball", "flower", "table", "ladder"),
)
OBJECT_CLASSES = tuple(name for fold in OBJECT_FOLDS for name in fold)
TEN_OBJECTS = ("car", "bus", "bicycle", "person", "tree", "house", "cup", "fish", "umbrella", "airplane")
