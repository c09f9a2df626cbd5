"""How good a model is on text that it has not seen: loss, perplexity, bits per byte, and a baseline to compare with.

One function judges every run, whatever its recipe: rows of the default kind, mean over their tokens. Taught in notebook
07. Left out: benchmarks of knowledge, which a model of this size does not pass.
"""

from __future__ import annotations

import math
import re
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import nn
from torch.utils.data import DataLoader

from .corpus import iter_texts, split_segments
from .dataset import PretrainDataset
from .encoding import EncodedCorpus
from .tokenizer import token_byte_lengths


@dataclass(frozen=True)
class HeldOut:
    """Mean cross-entropy in nats per token, over `tokens` predicted tokens, `utf8_bytes` bytes of text."""

    loss: float
    tokens: int
    utf8_bytes: int

    @property
    def perplexity(self) -> float:
        """e^loss: among how many equally likely tokens the model is choosing, on average."""
        return math.exp(min(self.loss, 700))

    @property
    def bits_per_byte(self) -> float:
        """Bits spent on each byte of text (markers count as no bytes); comparable between tokenizers."""
        return self.loss * self.tokens / (math.log(2) * max(self.utf8_bytes, 1))

    def __str__(self) -> str:
        return (
            f"loss {self.loss:.3f} nats per token, perplexity {self.perplexity:.1f}, "
            f"{self.bits_per_byte:.3f} bits per byte ({self.tokens:,} tokens)"
        )


@torch.no_grad()
def held_out_loss(
    model: nn.Module, dataset: PretrainDataset, tokenizer: Tokenizer, batch_size: int = 8, context=None
) -> HeldOut:
    """Judge `model` on rows of a PretrainDataset. The model is left in the mode (train or eval) that it was in.

    `context` is an autocast context for GPUs; the loss itself is always computed in float32.
    """
    parameter = next(model.parameters())
    lengths = torch.tensor(token_byte_lengths(tokenizer, max(tokenizer.get_vocab_size(), 1)), device=parameter.device)
    was_training = model.training
    model.eval()
    total = torch.zeros((), dtype=torch.float64, device=parameter.device if parameter.device.type != "mps" else "cpu")
    tokens, utf8_bytes = 0, 0
    try:
        for X, Y, loss_mask in DataLoader(dataset, batch_size, generator=torch.Generator()):
            longest = int(loss_mask.sum(dim=1).max())  # padding at the end of every row is not worth computing
            X, Y, mask = (t[:, :longest].to(parameter.device) for t in (X, Y, loss_mask))
            with context or nullcontext():
                logits = model(X).logits
            losses = F.cross_entropy(logits.float().flatten(0, 1), Y.flatten(), reduction="none")
            total += (losses * mask.flatten()).sum().to(total.device, torch.float64)
            tokens += int(mask.sum())
            utf8_bytes += int((lengths[Y] * mask).sum())
    finally:
        model.train(was_training)
    return HeldOut(float(total) / max(tokens, 1), tokens, utf8_bytes)


def token_losses(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each token of one text given those before it; ids (1, T) → (T - 1,) float32 nats."""
    with torch.no_grad():
        logits = model(ids[:, :-1]).logits
    return F.cross_entropy(logits[0].float(), ids[0, 1:], reduction="none")


def recalled(prompt: str, continuation: str, corpus: str | Path, subject: str) -> str | None:
    """The first sentence of a continued text that the corpus states too, word for word, or None.

    Counts whole statements (10 characters or more, no questions) from segments that speak of `subject`. It shows that a
    model has learned its corpus by heart, and says nothing about text that is not in there.
    """
    segments = [s for text in iter_texts(corpus) for s in split_segments(text) if subject in s]
    for sentence in re.findall(r"[^。？！?!]+[。！]", prompt + continuation):
        if len(sentence) >= 10 and any(sentence in segment for segment in segments):
            return sentence
    return None


@dataclass(frozen=True)
class Bigram:
    """An interpolated bigram model: P(b|a) = w2 · count(ab)/count(a) + w1 · count(b)/N + w0 / V."""

    weights: tuple[float, float, float]
    pairs: dict[tuple[int, int], int]
    firsts: np.ndarray
    singles: np.ndarray

    def loss(self, rows: list[tuple[np.ndarray, np.ndarray]]) -> float:
        """Mean cross-entropy in nats over rows of (previous ids, next ids)."""
        parts = np.concatenate([self.parts(a, b) for a, b in rows])
        return float(-np.log(parts @ np.asarray(self.weights)).mean())

    def parts(self, previous: np.ndarray, following: np.ndarray) -> np.ndarray:
        """The three estimates for each pair, (n, 3): bigram, unigram, uniform."""
        joint = np.array([self.pairs.get(pair, 0) for pair in zip(previous.tolist(), following.tolist(), strict=True)])
        bigram = joint / np.maximum(self.firsts[previous], 1)
        unigram = self.singles[following] / self.singles.sum()
        return np.stack([bigram, unigram, np.full(len(bigram), 1 / len(self.singles))], axis=1)


def fit_bigram(train: PretrainDataset, vocab_size: int) -> Bigram:
    """Count the pairs of a training set and choose the weights on training rows alone.

    Weights come from every tenth row, scored by counts of the other nine (20 rounds of expectation–maximisation); the
    counts are then taken over all rows. Jelinek & Mercer 1980.
    """
    rows = bigram_rows(train)
    fitting = (
        _count([r for i, r in enumerate(rows) if i % 10], vocab_size) if len(rows) > 1 else _count(rows, vocab_size)
    )
    parts = np.concatenate([fitting.parts(a, b) for a, b in rows[::10]])
    weights = np.full(3, 1 / 3)
    for _ in range(20):
        shares = parts * weights
        weights = (shares / shares.sum(axis=1, keepdims=True)).mean(axis=0)
    counts = _count(rows, vocab_size)
    return Bigram(tuple(weights.tolist()), counts.pairs, counts.firsts, counts.singles)


def bigram_baseline(
    corpus: EncodedCorpus, held_out: PretrainDataset, tokenizer: Tokenizer, rows: int = 20_000
) -> float:
    """Held-out loss, in nats per token, of a bigram model of the corpus's tokens (its first `rows` rows, uncut)."""
    train = PretrainDataset(corpus, tokenizer, max_length=1 << 20)
    train.rows = train.rows[:rows]
    return fit_bigram(train, tokenizer.get_vocab_size()).loss(bigram_rows(held_out))


def bigram_rows(dataset: PretrainDataset) -> list[tuple[np.ndarray, np.ndarray]]:
    """(previous, next) ids of each row, where the loss mask counts."""
    rows = []
    for index in range(len(dataset)):
        ids = dataset.ids(index)
        if len(ids) > dataset.max_length:
            ids = dataset[index][0].numpy()
            ids = np.append(ids, dataset[index][1][-1].item())
        rows.append((ids[:-1], ids[1:]))
    return rows


def _count(rows: list[tuple[np.ndarray, np.ndarray]], vocab_size: int) -> Bigram:
    previous, following = (np.concatenate([row[side] for row in rows]) for side in (0, 1))
    keys, counts = np.unique(previous * vocab_size + following, return_counts=True)
    pairs = {divmod(int(key), vocab_size): int(count) for key, count in zip(keys, counts, strict=True)}
    firsts = np.bincount(previous, minlength=vocab_size)
    return Bigram((1 / 3, 1 / 3, 1 / 3), pairs, firsts, np.bincount(following, minlength=vocab_size))
