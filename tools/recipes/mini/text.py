"""The tokenizer and text encoder of `mini`: CLIP's architecture and token layout with a small vocabulary."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
MAX_TOKENS = 40  # room for the longest caption; SD has 77


def train_tokenizer(sentences: Iterable[str], words: Iterable[str] = (), vocabulary: int = 1600) -> CLIPTokenizer:
    """A byte-level BPE in CLIP's layout (Radford et al. 2021): every frequent word of `sentences` becomes one token.

    Words it has never seen are spelt with smaller pieces, so any text can be encoded.
    """
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(pattern=" ", behavior="removed"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = alphabet + [letter + "</w>" for letter in alphabet]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=1,
        end_of_word_suffix="</w>",
        initial_alphabet=alphabet,
        show_progress=False,
    )
    texts = {text.lower().replace(".", " .").replace(",", " ,") for text in sentences} | set(words)
    bpe.train_from_iterator(sorted(texts), trainer)
    merges = [tuple(pair) for pair in _merges(bpe)]
    names = [*special, *dict.fromkeys(a + b for a, b in merges), START, END]
    vocab = {name: index for index, name in enumerate(dict.fromkeys(names))}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=MAX_TOKENS)


def _merges(bpe: Tokenizer) -> list[list[str]]:
    import json

    return json.loads(bpe.to_str())["model"]["merges"]


def build_text_encoder(tokenizer: CLIPTokenizer, width: int = 128, layers: int = 3, heads: int = 4) -> CLIPTextModel:
    """An untrained CLIP text transformer for the tokenizer."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=MAX_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def tokenize(tokenizer: CLIPTokenizer, prompts: list[str]) -> Tensor:
    """[N, MAX_TOKENS] token ids, padded with the end token as SD 1.x does, truncated."""
    tokens = tokenizer(prompts, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt")
    return tokens.input_ids.to(torch.int64)
