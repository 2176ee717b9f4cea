"""Text encoders: CLIP (Stable Diffusion 1.x, 2.x, XL), T5 (PixArt), or both (SD3, Flux); class labels for DiT."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from perception.backbones.conditioning.condition import Condition, Conditioner
from perception.errors import PromptTooLongError, UserError

_SD3_T5_TOKENS = 256  # as the pipeline pads
_SHORTEST = 3  # begin, a word, end


class ClipConditioner(Conditioner):
    """CLIP-style tokenizers and text encoders as one function of prompts.

    Stable Diffusion 1.x and 2.x read the last hidden state after the final LayerNorm; SDXL concatenates the
    penultimate hidden states of two encoders and pools the second (Podell et al. 2023, section 2.1), and drops text
    in training by zeros, which the empty prompt then stands for (`empty_is_zeros`).
    """

    def __init__(
        self, encoders: Mapping[str, nn.Module], tokenizers: Mapping[str, Any], *, empty_is_zeros: bool = False
    ) -> None:
        super().__init__(encoders, tokenizers, clip_tokens(encoders, tokenizers))
        self.penultimate = len(encoders) > 1
        self.empty_is_zeros = empty_is_zeros

    def encode(self, prompts: list[str], length: int, truncate: bool) -> Condition:
        """One call per encoder."""
        hidden, pooled = [], None
        for tokenizer, encoder in zip(self.tokenizers.values(), self.encoders.values(), strict=True):
            ids = token_ids(tokenizer, prompts, length, truncate)["input_ids"].to(place_of(encoder))
            out = encoder(ids, output_hidden_states=self.penultimate)
            hidden.append(out.hidden_states[-2] if self.penultimate else out[0])  # [n, L, D_i]
            pooled = out[0] if self.penultimate else None  # [n, P]: text_embeds of the last encoder
        condition = Condition(torch.cat(hidden, dim=-1), pooled)
        return condition.zeroed([not prompt for prompt in prompts]) if self.empty_is_zeros else condition


class PixArtConditioner(Conditioner):
    """T5 with padding masked, in the encoder and by `extra["mask"]` in the denoiser; prompts are lower-cased."""

    def encode(self, prompts: list[str], length: int, truncate: bool) -> Condition:
        """One call of T5."""
        encoder = self.encoders["text_encoder"]
        texts = [prompt.lower().strip() for prompt in prompts]  # as PixArt was trained
        tokens = token_ids(self.tokenizers["tokenizer"], texts, length, truncate)
        mask = tokens["attention_mask"].to(place_of(encoder))
        hidden = encoder(tokens["input_ids"].to(place_of(encoder)), attention_mask=mask)[0]
        return Condition(hidden, extra={"mask": mask.bool()})


class SD3Conditioner(Conditioner):
    """Two CLIPs side by side, padded with zeros to the width of T5, then the tokens of T5 (Esser et al. 2024, B.3).

    A condition has 77 CLIP tokens and up to 256 of T5; a shorter `length` takes away from T5 first. The pooled
    texts of both CLIPs are concatenated. Without T5 zeros stand for its tokens.
    """

    def __init__(
        self,
        encoders: Mapping[str, nn.Module],  # text_encoder, text_encoder_2 and maybe text_encoder_3
        tokenizers: Mapping[str, Any],
        width: int,  # of the tokens that the denoiser reads
    ) -> None:
        names = ("text_encoder", "text_encoder_2")
        clips = {name: encoders[name] for name in names}
        self.clip = clip_tokens(clips, {name: tokenizers[name.replace("text_encoder", "tokenizer")] for name in names})
        super().__init__(encoders, tokenizers, self.clip + _SD3_T5_TOKENS)
        self.width = width

    def encode(self, prompts: list[str], length: int, truncate: bool) -> Condition:
        """One call per encoder."""
        hidden, pooled = [], []
        for suffix in ("", "_2"):
            encoder = self.encoders[f"text_encoder{suffix}"]
            ids = token_ids(self.tokenizers[f"tokenizer{suffix}"], prompts, min(length, self.clip), truncate)
            out: Any = encoder(ids["input_ids"].to(place_of(encoder)), output_hidden_states=True)
            hidden.append(out.hidden_states[-2])
            pooled.append(out[0])  # text_embeds
        clip = torch.cat(hidden, dim=-1)
        clip = nn.functional.pad(clip, (0, self.width - clip.shape[-1]))  # [n, 77, width]
        parts = [clip, self._t5(prompts, length - self.clip, truncate, clip)] if length > self.clip else [clip]
        return Condition(torch.cat(parts, dim=1), torch.cat(pooled, dim=-1))

    def _t5(self, prompts: list[str], length: int, truncate: bool, like: Tensor) -> Tensor:
        encoder = self.encoders.get("text_encoder_3")
        if encoder is None:
            return like.new_zeros(len(prompts), length, self.width)
        ids = token_ids(self.tokenizers["tokenizer_3"], prompts, length, truncate)["input_ids"]
        return encoder(ids.to(place_of(encoder)))[0]


class FluxConditioner(Conditioner):
    """The tokens of T5, padding included, and the pooled text of CLIP, which sees the first 77 tokens only."""

    def encode(self, prompts: list[str], length: int, truncate: bool) -> Condition:
        """One call per encoder."""
        clip, t5 = self.encoders["text_encoder"], self.encoders["text_encoder_2"]
        first = {"": self.tokenizers["tokenizer"]}
        most = clip_tokens({"": clip}, first)
        pooled = clip(token_ids(first[""], prompts, most, truncate=True)["input_ids"].to(place_of(clip))).pooler_output
        ids = token_ids(self.tokenizers["tokenizer_2"], prompts, length, truncate)["input_ids"]
        return Condition(t5(ids.to(place_of(t5)))[0], pooled)


def clip_tokens(encoders: Mapping[str, nn.Module], tokenizers: Mapping[str, Any]) -> int:
    """The most tokens that tokenizers and position embeddings allow; CLIP: 77. ValueError where they allow no text."""
    configs: list[Any] = [encoder.config for encoder in encoders.values()]
    limits = [t.model_max_length for t in tokenizers.values()] + [c.max_position_embeddings for c in configs]
    most = int(min(limits))
    if most < _SHORTEST:
        raise ValueError(f"the tokenizers and text encoders allow {most} tokens, a text has at least {_SHORTEST}")
    return most


def check_vocabulary(encoder: Any, tokenizer: Any) -> None:
    """ValueError unless a tokenizer pads texts, with tokens that the text encoder has."""
    most = tokenizer.model_max_length
    if not (isinstance(most, (int, float)) and most >= _SHORTEST):
        raise ValueError(f"the tokenizer's model_max_length is {str(most)[:60]}, a text has {_SHORTEST} tokens or more")
    ids = token_ids(tokenizer, ["a", ""], 2 * _SHORTEST, truncate=False)["input_ids"]
    least, most = int(ids.min()), max(int(ids.max()), len(tokenizer) - 1)
    if least < 0 or most >= encoder.config.vocab_size:
        raise ValueError(f"the tokenizer has tokens up to {most}, the text encoder {encoder.config.vocab_size} of them")


def place_of(encoder: nn.Module) -> torch.device:
    """Device of the weights."""
    return next(encoder.parameters()).device


def token_ids(tokenizer: Any, prompts: list[str], length: int, truncate: bool) -> Mapping[str, Tensor]:
    """input_ids and attention_mask, int64 [n, length], padded as the tokenizer pads.

    Raises:
        PromptTooLongError: for a prompt of more than `length` tokens, unless `truncate`.
        UserError: for one that is no text, such as the name of a folder in another encoding.
    """
    for prompt in prompts:
        try:
            prompt.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"the prompt {prompt[:60]!r} is no Unicode text; write it, or its folder, in UTF-8"
            ) from error
    if not truncate:
        for prompt, ids in zip(prompts, tokenizer(prompts, verbose=False)["input_ids"], strict=True):
            if len(ids) > length:
                raise PromptTooLongError(f"the prompt {prompt[:60]!r}... has {len(ids)} tokens and {length} fit")
    return tokenizer(
        prompts,
        padding="max_length",
        max_length=length,
        truncation=True,
        return_attention_mask=True,
        return_tensors="pt",
    )


class ClassConditioner(Conditioner):
    """Prompts are class names, one of a class's comma-separated names, or class numbers; "" is the null class.

    The condition has no text tokens (hidden is [N, 1, 0]); `extra["class_labels"]` holds int64 class numbers [N].
    """

    def __init__(
        self,
        classes: int,  # number of classes; this number itself is the null class of classifier-free guidance
        id2label: Mapping[int, str] | None = None,  # names out of model_index.json, "tench, Tinca tinca"
    ) -> None:
        super().__init__({}, {}, max_tokens=1)
        self.classes = classes
        names = id2label or {}
        self.class_names = tuple(names.get(i, str(i)) for i in range(classes))
        self._numbers: dict[str, list[int]] = {}
        for number, name in enumerate(self.class_names):
            for text in dict.fromkeys([name, *(part.strip() for part in name.split(","))]):
                self._numbers.setdefault(text.casefold(), []).append(number)

    def encode(self, prompts: list[str], length: int, truncate: bool) -> Condition:
        """Look the classes up."""
        labels = torch.tensor([self.number(prompt) for prompt in prompts])
        return Condition(torch.zeros(len(prompts), 1, 0), extra={"class_labels": labels})

    def number(self, prompt: str) -> int:
        """The class that a prompt names.

        Raises:
            UserError: for a name that no class or more than one class has, or a number outside 0..classes-1.
        """
        text = prompt.strip().casefold()
        if not text:
            return self.classes
        found = self._numbers.get(text, [])
        if len(found) > 1:
            raise UserError(f"the class name {prompt!r} stands for the classes {found}; give the number instead")
        if found:
            return found[0]
        if text.isdecimal() and int(text) < self.classes:
            return int(text)
        near = difflib.get_close_matches(text, self._numbers, n=3, cutoff=0.5)
        nearest = f"; the nearest are {', '.join(near)}" if near else ""
        raise UserError(
            f"{prompt!r} is no class of this class-conditional backbone: expected one of its {self.classes} class "
            f"names (without a template around it) or a number 0 to {self.classes - 1}{nearest}"
        )
