"""Checks of lesson 03's exercises on experts: the gate's choice, and the loss that keeps all experts busy.

As in model.py, a check computes the typical wrong answers beside the right one and says which of them it sees.
"""

# B batch · T tokens · N tokens in all · E experts · k experts per token

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from .model import first_slip, gradient_slip, random_tensor, value_slip
from .verdict import Verdict, attempt, wrong_shape


def check_route(answer: Callable) -> Verdict:
    """`answer(logits, k, normalise)`: logits (N, E) → indices (N, k) int64 and weights (N, k)."""
    logits = 1.5 * random_tensor(6, 5)
    return first_slip(
        lambda: _route_slip(answer, logits, 2, True),
        lambda: _route_slip(answer, logits, 2, False),
        lambda: _route_slip(answer, logits, 1, True),
        lambda: gradient_slip(_spread(answer), _spread(_route), logits, 2, True, name="the logits"),
        right="scores over all experts, the k best, and weights that add up to 1 when asked.",
    )


def _route_slip(answer: Callable, logits: Tensor, k: int, normalise: bool) -> Verdict | None:
    found = attempt(answer, logits.clone(), k, normalise)
    if isinstance(found, Verdict):
        return found
    verdict = _route_value(found, logits, k, normalise)
    if verdict is None:
        return None
    return Verdict.wrong(f"for k={k}, normalise={normalise}: {verdict.message}")


def _route(logits: Tensor, k: int, normalise: bool) -> tuple[Tensor, Tensor]:
    weights, indices = logits.softmax(-1).topk(k, dim=-1)
    if normalise and k > 1:
        weights = weights / weights.sum(-1, keepdim=True)
    return indices, weights


def _spread(route: Callable) -> Callable[..., Tensor]:
    """A route as weights on all experts, (N, E), so that the order of the k does not matter."""

    def run(logits: Tensor, k: int, normalise: bool) -> Tensor:
        indices, weights = route(logits, k, normalise)
        return torch.zeros_like(logits).scatter(1, indices, weights)

    return run


def _route_value(found: object, logits: Tensor, k: int, normalise: bool) -> Verdict | None:
    if not isinstance(found, (tuple, list)) or len(found) != 2:
        return Verdict.wrong(f"two things are wanted, indices and weights; this is a {type(found).__name__}.")
    indices, weights = found
    shape = (len(logits), k)
    for each in (indices, weights):
        verdict = wrong_shape(each, shape)
        if verdict is not None:
            return verdict
    if indices.is_floating_point():
        return Verdict.wrong("the first result holds fractions: topk gives (values, indices), here indices come first.")
    wanted = logits.topk(k, dim=-1).indices
    if not torch.equal(indices.sort(-1).values, wanted.sort(-1).values):
        least = logits.topk(k, dim=-1, largest=False).indices.sort(-1).values
        if torch.equal(indices.sort(-1).values, least):
            return Verdict.wrong("those are the k experts with the lowest scores.")
        return Verdict.wrong("other experts are wanted: for each token (row) the k with the highest scores.")
    shares = logits.softmax(-1).gather(1, indices)
    of_chosen = logits.gather(1, indices).softmax(-1)
    over_tokens = logits.softmax(0).gather(1, indices)
    right = shares / shares.sum(-1, keepdim=True) if normalise and k > 1 else shares
    one = "with k=1 dividing gives 1 for every token, and the gate gets no gradient: leave the score as it is."
    wrong = [
        (torch.ones_like(shares), one if k == 1 else "every weight is 1: the scores are not used."),
        (
            shares,
            "the k weights do not add up to 1: divide them by their sum, after top-k. (All E scores add up to 1 "
            "already: dividing before top-k changes nothing.)",
        ),
        (
            of_chosen,
            "the weights add up to 1 though nobody asked: you took the softmax after top-k, over the chosen alone. "
            "Take it over all experts first.",
        ),
        (shares / shares.sum(-1, keepdim=True), "you divide by the sum although normalise is False."),
        (
            shares.softmax(-1),
            "you take a second softmax, of the k chosen scores: it pulls them together. Divide by their sum instead.",
        ),
        (logits.gather(1, indices), "these are the raw logits: the softmax is missing."),
        (over_tokens, "the softmax goes over the tokens: it belongs over the experts, the last dimension."),
        (
            over_tokens / over_tokens.sum(-1, keepdim=True),
            "the softmax goes over the tokens, it belongs over the experts.",
        ),
    ]
    return value_slip(weights, right, wrong)


def _balance(scores: Tensor, chosen: Tensor, alpha: float) -> Tensor:
    share = F.one_hot(chosen, scores.shape[-1]).float().mean((1, 2))  # (B, T, k) → (B, E)
    return alpha * scores.shape[-1] * (share * scores.mean(1)).sum(-1).mean()


def check_balance(answer: Callable) -> Verdict:
    """`answer(scores, chosen, alpha)`: scores (B, T, E) after softmax, chosen (B, T, k) int64 → a scalar."""
    B, T, E, k, alpha = 3, 5, 7, 2, 0.3
    scores = (1.5 * random_tensor(B, T, E)).softmax(-1)
    chosen = scores.topk(k, dim=-1).indices
    found = attempt(answer, scores.clone(), chosen.clone(), alpha)
    if isinstance(found, Verdict):
        return found
    right = _balance(scores, chosen, alpha)
    share, mean = F.one_hot(chosen, E).float().mean((1, 2)), scores.mean(1)  # (B, E) both
    first = F.one_hot(chosen[..., 0], E).float().mean(1)
    other = "squared: multiply each expert's share by its mean score."
    wrong = [
        *_factors(right, B, T, E, k, alpha),
        (
            alpha * E * (share.mean(0) * mean.mean(0)).sum(),
            "shares and scores are taken over the whole batch: take them row by row, then the mean over the rows.",
        ),
        (alpha * E * (first * mean).sum(-1).mean(), "only each token's first choice is counted: all k of them count."),
        (alpha * E * share.pow(2).sum(-1).mean(), f"the shares are {other} Counts alone have no gradient."),
        (alpha * E * mean.pow(2).sum(-1).mean(), f"the scores are {other}"),
        (alpha * E * (share + mean).sum(-1).mean(), "share and mean score are added where they should be multiplied."),
    ]
    return first_slip(
        lambda: wrong_shape(found, right.shape),
        lambda: value_slip(found, right, wrong),
        lambda: gradient_slip(_one(answer), _one(_balance), scores, chosen, alpha, name="the scores"),
        right="share of the assignments times mean score, per row; alpha when all experts get the same.",
    )


def _factors(right: Tensor, B: int, T: int, E: int, k: int, alpha: float) -> list[tuple[Tensor, str]]:
    """What forgotten or doubled factors make of the right value: one slip first, then every two together."""
    slips = [
        (1 / E, "the factor E is missing (or you take the mean over the experts): sum over them, times E"),
        (k, "you count tokens where assignments count: each token makes k of them, so divide by T·k"),
        (T * k, "these are counts, not shares: divide by T·k"),
        (T, "the scores are summed over the tokens where their mean is needed"),
        (B, "the rows are summed where their mean is needed"),
        (1 / alpha, "alpha is missing"),
    ]
    both = [pair for size in (1, 2) for pair in combinations(slips, size)]
    return [(right * prod(s[0] for s in pair), "; ".join(s[1] for s in pair) + ".") for pair in both]


def _one(balance: Callable) -> Callable[..., Tensor]:
    """The loss as a tensor of one number, (1,), which gradient_slip can weight."""
    return lambda *inputs: balance(*inputs).reshape(1)
