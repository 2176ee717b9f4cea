"""Street scenes from label maps: a frozen diffusion model, guided by a control network (DGInStyle)."""

from perception.generation.control import ControlledDenoiser
from perception.generation.generator import GeneratedScene, SceneGenerator
from perception.generation.labels import CITYSCAPES, Vocabulary
from perception.generation.options import PRESETS, GenerationOptions, preset
from perception.generation.plan import ScenePlanner
from perception.generation.prompts import PromptBuilder
from perception.generation.scenes import Scene, SceneComposer
from perception.generation.styles import load_control, new_control, with_denoiser

__all__ = [
    "CITYSCAPES",
    "PRESETS",
    "ControlledDenoiser",
    "GeneratedScene",
    "GenerationOptions",
    "PromptBuilder",
    "Scene",
    "SceneComposer",
    "SceneGenerator",
    "ScenePlanner",
    "Vocabulary",
    "load_control",
    "new_control",
    "preset",
    "with_denoiser",
]
