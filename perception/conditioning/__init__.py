"""Text conditioning for a frozen denoiser: class names, learned tokens, sentences, class ids, empty."""

from perception.conditioning.base import Conditioning, TextAdapter
from perception.conditioning.build import build_conditioning
from perception.conditioning.sentences import EmptyPrompt, Sentences
from perception.conditioning.tokens import ClassId, ClassNames, LearnedTokens, class_table
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
