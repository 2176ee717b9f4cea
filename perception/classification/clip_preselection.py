"""Preselection by CLIP (Radford et al. 2021): the classes whose prompts resemble the image most go into the race.

Li et al. 2023 do so in their appendix, with the 20 best classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from perception.backbones.conditioning.encoders import token_ids
from perception.backbones.loading.build import build_model, check_skeleton
from perception.backbones.loading.folder import Component, read_component, unusable
from perception.backbones.loading.hub import download_clip, is_hub_id, revision_of
from perception.classification.prompts import PromptSet
from perception.data.documents import DocumentError, entries, read_document
from perception.data.files import file_hash
from perception.errors import PromptTooLongError, UserError, foreign_errors

_TOKENIZER = ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")
_PROCESSOR = ("preprocessor_config.json", "processor_config.json")
_LARGEST = 10_000  # number in a config of an image processor: pixels, gray values, factors
_TEXTS = 100  # prompts per call of the text encoder


@dataclass(frozen=True)
class ClipFolder:
    """A checked CLIP model."""

    model: Component
    files: tuple[Path, ...]  # all that decide its numbers

    @property
    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 over names and contents of the files; it reads all of them."""
        text = "\n".join(f"{path.name} {file_hash(path)}" for path in self.files)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class ClipRanking:
    """What CLIP says about one image."""

    classes: tuple[int, ...]  # all of them, best first; of equal ones the earlier first
    similarities: tuple[float, ...]  # in that order: mean cosine of the image and the prompts of the class, in [-1, 1]


class ClipPreselection:
    """Ranks the classes of a prompt set for images, by a frozen CLIP model in float32.

    The prompts are embedded once, here; equal ones only once, so they tie exactly. Every image is a call of its own, so
    nothing depends on the batch. Raises UserError for a folder that is no whole CLIP model, and PromptTooLongError for
    prompts that the model does not read to their end.
    """

    def __init__(
        self,
        name: str | Path,  # hub id, or folder in transformers layout
        prompts: PromptSet,
        device: torch.device | str = "cpu",
    ) -> None:
        folder = check_clip(name)
        check_skeleton("clip", folder.model)
        self.name = str(name)
        self.revision = revision_of(folder.model.folder)  # commit, where it came from the hub
        self.identity = f"{folder.digest}, prompts {prompts.digest}"  # what its rankings depend on
        with torch.random.fork_rng(devices=[]):  # the constructor draws default weights from the global generator
            model: Any = build_model("clip", folder.model, torch.float32, None)
        self.model = model.eval().requires_grad_(False).to(device)
        tokenizer, self.processor = _companions(folder.model)
        with foreign_errors(
            lambda reason: unusable(folder.model.folder, [f"its parts do not fit together ({reason})"])
        ):
            _check_fit(folder.model.folder, self.model.config, tokenizer, self.pixels(Image.new("RGB", (8, 8))))
        self.vectors = self._class_vectors(tokenizer, prompts)  # [K, D]

    def pixels(self, image: Image.Image) -> Tensor:
        """What the model sees of an image of any mode and size: float32 [3, S, S], by its own preprocessing."""
        pixels: Tensor = self.processor(image.convert("RGB"), return_tensors="pt")["pixel_values"][0]
        return pixels

    @torch.inference_mode()
    def __call__(self, pixels: Sequence[Tensor]) -> list[ClipRanking]:
        """Rank the classes for images, each as `pixels` gives it."""
        return [self._ranking(each) for each in pixels]

    def _ranking(self, pixels: Tensor) -> ClipRanking:
        features = self.model.get_image_features(pixels[None].to(self.model.device)).pooler_output  # [1, D]
        similarities = self.vectors @ normalize(features[0].cpu().double(), dim=0)  # [K]
        order = similarities.argsort(descending=True, stable=True)
        return ClipRanking(tuple(order.tolist()), tuple(similarities[order].tolist()))

    @torch.inference_mode()
    def _class_vectors(self, tokenizer: Any, prompts: PromptSet) -> Tensor:
        """Mean of the normalised embeddings of each class, float64 [K, D]: its dot product is the mean cosine."""
        config = self.model.config.text_config
        length = min(tokenizer.model_max_length, config.max_position_embeddings)
        texts = list(dict.fromkeys(prompts.prompts))
        parts = [self._embedded(tokenizer, texts[i : i + _TEXTS], length) for i in range(0, len(texts), _TEXTS)]
        row_of = dict(zip(texts, torch.cat(parts), strict=True))
        rows = torch.stack([row_of[prompt] for prompt in prompts.prompts])  # [N, D]
        return torch.stack([rows[list(prompts.rows(c))].mean(0) for c in range(len(prompts.names))])

    def _embedded(self, tokenizer: Any, texts: list[str], length: int) -> Tensor:
        try:
            tokens = token_ids(tokenizer, texts, length, truncate=False)
        except PromptTooLongError as error:
            raise PromptTooLongError(f"{error.fact} the CLIP model {self.name}") from error
        tokens = {key: tokens[key].to(self.model.device) for key in ("input_ids", "attention_mask")}
        return normalize(self.model.get_text_features(**tokens).pooler_output.cpu().double(), dim=1)


def check_clip(name: str | Path) -> ClipFolder:
    """The files of a CLIP model by hub id (fetched unless they are in the cache) or folder; loads no weights.

    Raises:
        UserError: when the hub does not give it, and naming everything that is missing, truncated or of another kind.
    """
    path = download_clip(str(name)) if is_hub_id(name) else Path(name).expanduser()
    if not path.is_dir():
        raise UserError(
            f"the CLIP model {path} does not exist; expected a hub id or a folder with a CLIPModel, its tokenizer and "
            f"its {_PROCESSOR[0]}"
        )
    problems: list[str] = []
    model = read_component(path, "clip", problems, supported=("CLIPModel",))
    small = [path / file for file in ("config.json", *_TOKENIZER, *_PROCESSOR) if (path / file).is_file()]
    names = {file.name for file in small}
    if not ("tokenizer.json" in names or {"vocab.json", "merges.txt"} <= names):
        problems.append("tokenizer.json (or vocab.json and merges.txt) is missing")
    if not names & set(_PROCESSOR):
        problems.append(f"{_PROCESSOR[0]} is missing")
    for file in small[1:]:
        problems += [f"{file.name} {found}" for found in _file_problems(file)]
    if problems:
        raise unusable(path, problems)
    return ClipFolder(model, (*small, *model.weights))


def _file_problems(path: Path) -> Iterator[str]:
    """What is wrong with a small file of tokenizer or image processor: not JSON, a number without bounds."""
    if path.suffix != ".json":
        return
    try:
        document = read_document(path)
    except OSError:
        yield "is missing or unreadable"
        return
    except DocumentError as error:
        yield str(error)
        return
    if path.name in _PROCESSOR:
        numbers = (value for _, _, value in entries(document) if isinstance(value, (int, float)))
        yield from (f"has the number {value}, which no image has" for value in numbers if not abs(value) <= _LARGEST)


def _companions(part: Component) -> tuple[Any, Any]:
    """Tokenizer and image processor."""
    classes: tuple[Any, Any] = (transformers.CLIPTokenizer, transformers.CLIPImageProcessor)
    with foreign_errors(
        lambda reason: unusable(part.folder, [f"its tokenizer or image processor cannot be read ({reason})"])
    ):
        tokenizer, processor = (each.from_pretrained(part.folder, local_files_only=True) for each in classes)
    return tokenizer, processor


def _check_fit(path: Path, config: Any, tokenizer: Any, pixels: Tensor) -> None:
    """UserError when tokenizer or image processor belong to another model."""
    text, side, problems = config.text_config, config.vision_config.image_size, []
    if len(tokenizer) > text.vocab_size:
        problems.append(f"its tokenizer has {len(tokenizer)} tokens, its text encoder {text.vocab_size}")
    elif text.eos_token_id not in (2, tokenizer.eos_token_id):  # 2: of old configs, which look for the largest token
        problems.append(f"its tokenizer ends texts with token {tokenizer.eos_token_id}, not {text.eos_token_id}")
    if tuple(pixels.shape) != (3, side, side):
        given = "x".join(map(str, pixels.shape[1:]))
        problems.append(f"its image processor makes {given} images, its image encoder takes {side}x{side}")
    if problems:
        raise unusable(path, problems)
