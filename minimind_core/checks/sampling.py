"""Checks of lesson 07: temperature, min-p, top-k with top-p, perplexity, bits per byte.

Each recognises the answers that are usually given first, and says what is wrong with them.
"""

# B batch · V vocabulary

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from ..generation import keep_top_k, keep_top_p
from .verdict import Verdict, attempt, wrong_shape

UNSORTED = "top-p: the right number of tokens stay, but in sorted places; scatter the mask back to the tokens' own."


def _close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a.float(), b.float(), atol=1e-5)


def _answer(answer: Callable, logits: Tensor, *inputs) -> Tensor | Verdict:
    """The learner's tensor for a copy of `logits`, or a Verdict: stub, error, wrong shape, or logits written over."""
    given = logits.clone()
    found = attempt(answer, given, *inputs)
    if isinstance(found, Verdict):
        return found
    if not torch.equal(given, logits):
        return Verdict.wrong("the logits that came in have changed: make a new tensor instead of writing into theirs.")
    problem = wrong_shape(found, logits.shape)
    if problem is None and found.dtype == torch.bool:
        problem = Verdict.wrong("this is a mask of True and False; numbers are needed.")
    if problem is not None:
        return problem
    found = found.float()
    return found.masked_fill(found <= -1e4, -torch.inf)  # as good as -inf


def check_temperature(answer: Callable) -> Verdict:
    """answer(logits (V,), temperature) → probabilities (V,); temperature 0 puts everything on the likeliest token."""
    logits = torch.tensor([0.5, 2.0, -1.0, 1.0, 0.0])
    for temperature in (0.5, 2.0):
        found = _answer(answer, logits, temperature)
        if isinstance(found, Verdict):
            return found
        right = (logits / temperature).softmax(-1)
        if _close(found, right):
            continue
        if _close(found, (logits * temperature).softmax(-1)):
            return Verdict.wrong("the logits are multiplied by the temperature; divide them: a low one must sharpen.")
        if _close(found, logits / temperature):
            return Verdict.wrong("these are scores, not probabilities yet: the softmax is missing.")
        if _close(found, logits.softmax(-1) / temperature):
            return Verdict.wrong("the probabilities are divided, so they don't add up to 1; divide the logits instead.")
        if _close(found, logits.softmax(-1)):
            return Verdict.wrong("the temperature has no effect: divide the logits by it before the softmax.")
        total = float(found.sum())
        if abs(total - 1) > 1e-4:
            return Verdict.wrong(
                f"probabilities add up to 1; yours add up to {total:.3g} at temperature {temperature}."
            )
        return Verdict.wrong(
            f"at temperature {temperature} the likeliest has {float(right.max()):.3f}, not {float(found.max()):.3f}."
        )
    found = _answer(answer, logits, 0)
    if isinstance(found, Verdict):
        return found
    if found.isnan().any() or not _close(found, torch.eye(5)[1]):
        return Verdict.wrong("temperature 0 divides by zero: give the likeliest token 1 and all others 0 in that case.")
    return Verdict.right("a low temperature sharpens, a high one flattens, and 0 is the greedy choice.")


def check_min_p(answer: Callable) -> Verdict:
    """answer(logits (B, V), m) → (B, V): -inf where a token is less than m times as probable as its row's likeliest."""
    # The second row's logits lie 3 higher: only probabilities can be compared.
    chances = torch.tensor([[0.15, 0.5, 0.1, 0.25], [0.05, 0.11, 0.2, 0.64]])
    logits = chances.log() + torch.tensor([[0.0], [3.0]])
    for m in (0.24, 0.499, 1.0):
        found = _answer(answer, logits, m)
        if isinstance(found, Verdict):
            return found
        most = chances.amax(dim=-1, keepdim=True)
        if _keeps(found, logits, chances >= m * most):
            continue
        typical = {
            "the likeliest token is dropped as well: it is 1 times as probable as itself.": chances > most,
            "min-p compares with the likeliest token: keep where p is at least m times p of that one, not where it is "
            "at least m.": chances >= m,
            "the likeliest of the whole batch is taken; every row has its own: amax(dim=-1, keepdim=True).": chances
            >= m * chances.max(),
            "logits are compared; their ratio says nothing, since they may be negative. Softmax first.": logits
            >= m * logits.amax(dim=-1, keepdim=True),
            "the wrong ones are kept: those BELOW the limit go.": chances < m * most,
            "that is top-p: it adds probabilities up; min-p compares each one with the likeliest.": keep_top_p(
                logits, m
            ).isfinite(),
        }
        for words, kept in typical.items():
            if _keeps(found, logits, kept):
                return Verdict.wrong(words)
        if torch.equal(found.isfinite(), chances >= m * most):
            return Verdict.wrong(
                "the right tokens stay, but with other numbers; the logits that came in are asked for, with -inf at "
                "what is dropped."
            )
        if _close(found, logits.softmax(-1) * (chances >= m * most)) or _close(found, logits.softmax(-1)):
            return Verdict.wrong("those are probabilities; the logits are asked for, with -inf at what is dropped.")
        if torch.equal(found == 0, chances < m * most):
            return Verdict.wrong("dropped logits are 0, which may be more likely than before; they should be -inf.")
        stay = int((found > -1e8).sum())
        return Verdict.wrong(f"with m {m:g}, {int((chances >= m * most).sum())} of 8 tokens should stay, not {stay}.")
    return Verdict.right("each row keeps what comes near its own likeliest token: few where the model is sure.")


def _keeps(found: Tensor, logits: Tensor, kept: Tensor) -> bool:
    """Whether `found` is `logits` with a large negative number at what is not kept."""
    return (
        found.shape == logits.shape and _close(found.where(kept, logits), logits) and bool((found < -1e8)[~kept].all())
    )


def check_top_k_top_p(answer: Callable) -> Verdict:
    """answer(logits (B, V), k, p) → (B, V): -inf outside the k largest, then outside the nucleus of p."""
    logits = torch.tensor([[0.6, 1.0, 0.0, 0.8, -0.5], [1.1, 0.3, 1.3, 0.9, -0.2]])  # row 1: row 0 + 0.3, reordered
    for look in (_check_k, _check_p, _check_both):
        problem = look(answer, logits)
        if problem is not None:
            return problem
    return Verdict.right("first the k largest, then the fewest of these that reach p, the crossing one included.")


def _check_k(answer: Callable, logits: Tensor) -> Verdict | None:
    for k in (2, 1):
        found = _answer(answer, logits, k, 1.0)
        if isinstance(found, Verdict):
            if found.ok is False and "must match the size" in found.message:
                return Verdict.wrong(
                    f"{found.message}. Is it the comparison of top-k? One threshold per row is needed, with shape "
                    "(B, 1) beside logits of shape (B, V)."
                )
            return found
        if _close(found, keep_top_k(logits, k)):
            continue
        if _close(found, _left_sorted(keep_top_k(logits, k), 1.0)):
            return Verdict.wrong(UNSORTED)
        if _close(found, keep_top_k(logits, k + 1)):
            return Verdict.wrong(
                f"top-k, off by one: k={k} keeps {k + 1} tokens. Which of topk's values is the last that may stay?"
            )
        if _close(found, logits.masked_fill(logits < logits.flatten().topk(k).values[-1], -torch.inf)):
            return Verdict.wrong(
                f"top-k is taken over the whole batch, {k} in all rows together; each row keeps its own {k}: dim=-1."
            )
        kept = found.isfinite().sum(-1).tolist()
        if kept == [k - 1, k - 1]:
            return Verdict.wrong(
                f"top-k, off by one: k={k} keeps {k - 1}. The k-th largest itself stays: compare with <, not <=."
            )
        if _close(found, logits.masked_fill(keep_top_k(logits, k).isinf(), 0.0)):
            return Verdict.wrong("dropped logits are set to 0, and e^0 = 1 is no small weight; set them to -inf.")
        if _close(found, logits.masked_fill(logits < logits[0].topk(k).values[-1], -torch.inf)):
            return Verdict.wrong(
                "the first row's threshold is used for every row; each row has a k-th largest of its own."
            )
        if _close(found, logits):
            return Verdict.wrong(f"with k={k} and p=1 nothing is dropped: {k} finite values should stay in each row.")
        return Verdict.wrong(f"with k={k} and p=1 each row should keep its {k} largest; you keep {kept} per row.")
    return None


def _check_p(answer: Callable, logits: Tensor) -> Verdict | None:
    for p in (0.7, 0.3):  # sums of the likeliest: 0.32, 0.59, 0.81, 0.93, 1
        found = _answer(answer, logits, logits.shape[1], p)
        if isinstance(found, Verdict):
            return found
        right = keep_top_p(logits, p)
        if _close(found, right):
            continue
        if _close(found, _without_crossing(logits, p)):
            return Verdict.wrong(
                f"top-p: the token that carries the sum past p={p} is dropped, so less than p is left (nothing at all "
                "where one token alone passes it). It stays: look at the sum BEFORE each token."
            )
        if _close(found, _left_sorted(logits, p)):
            return Verdict.wrong(UNSORTED)
        if _close(found, logits.masked_fill(logits.softmax(-1) < 1 - p, -torch.inf)) or _close(
            found, logits.masked_fill(logits.softmax(-1) < p, -torch.inf)
        ):
            return Verdict.wrong(
                "top-p compares single probabilities with a threshold; it is the running sum that must reach p."
            )
        if _close(found, logits):
            return Verdict.wrong(f"top-p: with p={p} nothing is dropped.")
        kept, wanted = found.isfinite().sum(-1).tolist(), right.isfinite().sum(-1).tolist()
        return Verdict.wrong(f"top-p: with p={p} the rows should keep {wanted} tokens, yours keep {kept}.")
    return None


def _without_crossing(logits: Tensor, p: float) -> Tensor:
    """The usual mistake: tokens stay while the sum including them is at most p."""
    ordered, order = logits.softmax(-1).sort(dim=-1, descending=True)
    dropped = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, ordered.cumsum(-1) > p)
    return logits.masked_fill(dropped, -torch.inf)


def _left_sorted(logits: Tensor, p: float) -> Tensor:
    """Another: the mask of the sorted tokens, laid over the unsorted ones."""
    ordered = logits.softmax(-1).sort(dim=-1, descending=True).values
    return logits.masked_fill(ordered.cumsum(-1) - ordered >= p, -torch.inf)


def _check_both(answer: Callable, logits: Tensor) -> Verdict | None:
    k, p = 3, 0.6  # sums among the three that are left: 0.40, 0.73, 1, so two reach p; among all five it takes three
    found = _answer(answer, logits, k, p)
    if isinstance(found, Verdict):
        return found
    right = keep_top_p(keep_top_k(logits, k), p)
    if _close(found, right):
        return None
    if _close(found, keep_top_k(keep_top_p(logits, p), k)):
        return Verdict.wrong(
            "both together: top-p is taken over all tokens; it should share out what top-k left (softmax again)."
        )
    return Verdict.wrong(
        f"each alone is right, but with k={k} and p={p} the rows should keep {right.isfinite().sum(-1).tolist()}."
    )


def _one_number(found: Any) -> float | Verdict:
    """What an attempt gave as a number, or what is wrong with it."""
    if isinstance(found, Verdict):
        return found
    if isinstance(found, Tensor) and found.numel() != 1:
        return Verdict.wrong(f"one number is needed; yours has shape {tuple(found.shape)}.")
    try:
        return float(found)
    except (TypeError, ValueError):
        return Verdict.wrong(f"one number is needed, this is a {type(found).__name__}.")


def _named(value: float, mistakes: Iterable[tuple[float, str]]) -> Verdict | None:
    """The first mistake that gives this number, or None."""
    return next((Verdict.wrong(why) for wrong, why in mistakes if math.isclose(value, wrong, rel_tol=1e-4)), None)


def check_perplexity(answer: Callable) -> Verdict:
    """answer(rows) → perplexity over all tokens; rows is a list of 1-D tensors of nats, of unequal lengths."""
    rows = [torch.tensor([2.0, 0.5, 1.0, 3.0]), torch.tensor([6.0]), torch.tensor([0.1, 4.0])]
    value = _one_number(attempt(answer, [row.clone() for row in rows]))
    if isinstance(value, Verdict):
        return value
    every = torch.cat(rows)
    mean, by_row = float(every.mean()), torch.stack([row.mean() for row in rows])
    mistakes = (
        (2**mean, "the loss is in nats (logs to base e), so the base is e and not 2: exp(loss)."),
        (
            float(every.exp().mean()),
            "this is the mean of every token's e^loss; average the losses first, then take exp once.",
        ),
        (
            float(by_row.exp().mean()),
            "this is the mean of the rows' perplexities; average over all tokens, then take exp once.",
        ),
        (
            math.exp(float(by_row.mean())),
            "this averages the rows' means, so a token of a short row counts more; average over all tokens.",
        ),
        (mean, "this is the loss itself; perplexity is e to its power."),
        (math.exp(float(every.sum())), "the losses are summed and not averaged: divide by the number of tokens."),
        (math.exp(-mean), "this is the typical probability of a token; perplexity is one over it: exp(+loss)."),
    )
    if math.isclose(value, math.exp(mean), rel_tol=1e-4):
        return Verdict.right("e to the mean loss over all tokens: among how many equally likely tokens it chooses.")
    if (known := _named(value, mistakes)) is not None:
        return known
    return Verdict.wrong(
        f"the mean over all {len(every)} tokens is {mean:.4f} nats, so {math.exp(mean):.3f}; yours is {value:.3f}."
    )


def check_bits_per_byte(answer: Callable) -> Verdict:
    """answer(losses (T,) in nats, text) → bits per byte of UTF-8, one number."""
    losses, text = torch.tensor([2.0, 0.5, 4.0, 3.5]), "中国 ok"
    value = _one_number(attempt(answer, losses.clone(), text))
    if isinstance(value, Verdict):
        return value
    total, mean, ln2 = float(losses.sum()), float(losses.mean()), math.log(2)
    size = len(text.encode("utf-8"))
    characters = "this divides by characters; a Chinese one is three bytes: len(text.encode())."
    nats = "these are nats per byte; a bit is ln 2 nats, so divide by ln 2 as well."
    mistakes = (
        (total / ln2 / len(text), characters),
        (total / len(text), f"{characters} And a bit is ln 2 nats: divide by ln 2."),
        (total / size, nats),
        (total * ln2 / size, "multiplied by ln 2; a nat is MORE than a bit, so the number of bits is larger: divide."),
        (mean / ln2, "these are bits per token: sum the losses, then share them out over the bytes of the text."),
        (mean / ln2 / size, "the mean loss is one token's; the whole text costs the sum of them."),
        (mean / size, "the mean loss is one token's; the whole text costs the sum of them. And nats are no bits yet."),
        (size / (total / ln2), "this is bytes per bit: turn it over."),
    )
    if math.isclose(value, total / ln2 / size, rel_tol=1e-4):
        return Verdict.right("all nats as bits, over all bytes: no token count is left in it, so tokenizers compare.")
    if (known := _named(value, mistakes)) is not None:
        return known
    return Verdict.wrong(
        f"the losses sum to {total:g} nats, the text has {size} bytes: {total / ln2 / size:.4f} is wanted, yours is "
        f"{value:.4f}."
    )
