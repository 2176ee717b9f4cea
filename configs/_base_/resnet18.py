"""The backbone of the controls, in the place of a diffusion model: timm's ResNet-18 from scratch, strides 4 to 32."""

from mmseg.models import TIMMBackbone

resnet18 = {
    "type": TIMMBackbone,
    "model_name": "resnet18",
    "features_only": True,
    "pretrained": False,
    "out_indices": (1, 2, 3, 4),
}
