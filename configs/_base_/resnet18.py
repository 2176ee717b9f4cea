"""The backbone of the controls: timm's ResNet-18 from scratch, strides 4, 8, 16 and 32. `_delete_` drops the other."""

from mmseg.models import TIMMBackbone

resnet18 = {
    "type": TIMMBackbone,
    "model_name": "resnet18",
    "features_only": True,
    "pretrained": False,
    "out_indices": (1, 2, 3, 4),
}
