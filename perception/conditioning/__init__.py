"""What a frozen denoiser is told: class names, learned tokens, sentences, room ids, or nothing."""

from perception.conditioning.adapter import TextAdapter
from perception.conditioning.base import Conditioning
from perception.conditioning.build import build_conditioning
from perception.conditioning.sentences import EmptyPrompt, Sentences
from perception.conditioning.table import class_table
from perception.conditioning.tokens import ClassId, ClassNames, LearnedTokens
from perception.data.templates import IMAGENET_TEMPLATES

__all__ = [
    "IMAGENET_TEMPLATES",
    "ClassId",
    "ClassNames",
    "Conditioning",
    "EmptyPrompt",
    "LearnedTokens",
    "Sentences",
    "TextAdapter",
    "build_conditioning",
    "class_table",
]
