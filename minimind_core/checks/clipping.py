"""Check of lesson 05's exercise on clipping: it knows the usual wrong cuts and says which one it sees.

Left out: clipping's place in an update (precision.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .precision import close
from .verdict import Verdict, attempt


def gradients_of(norm: float) -> list[Tensor]:
    """Three gradients of different shapes and lengths, (4, 3), (5,) and (2, 2); all together `norm` long."""
    generator = torch.Generator().manual_seed(3)
    found = [torch.randn(shape, generator=generator) * size for shape, size in (((4, 3), 1), ((5,), 3), ((2, 2), 1.5))]
    length = torch.stack([part.norm() for part in found]).norm()
    return [part * (norm / length) for part in found]


def _cut(gradients: Sequence[Tensor], factor: float) -> list[Tensor]:
    """All of them times one factor."""
    return [part * factor for part in gradients]


def _wrong_cuts(gradients: list[Tensor], limit: float) -> dict[str, list[Tensor]]:
    """What the usual mistakes make of these gradients: words → cut tensors."""
    lengths = torch.stack([part.norm() for part in gradients])
    norm, biggest = lengths.norm().item(), max(part.abs().max().item() for part in gradients)
    mean = norm / sum(part.numel() for part in gradients) ** 0.5
    return {
        "each tensor is cut alone. That turns the gradient: long parts lose, short ones keep theirs. One norm over all "
        "tensors, one factor for all.": [part * min(1.0, limit / part.norm().item()) for part in gradients],
        "each tensor alone is brought to the limit: one norm over all tensors, and one factor for all.": [
            part * limit / part.norm() for part in gradients
        ],
        "every gradient is brought to the limit, short ones too: clipping never lengthens. Where the norm is below "
        "the limit, the factor is 1.": _cut(gradients, limit / norm),
        "that is clipping by value: each number alone is held between -limit and limit, and the direction changes. "
        "Multiply all by one factor.": [part.clamp(-limit, limit) for part in gradients],
        "the norms of the tensors are added up. Lengths that stand at right angles add like the sides of a triangle: "
        "the root of the sum of squares.": _cut(gradients, min(1.0, limit / lengths.sum().item())),
        "the root is missing: you divide by the sum of squares.": _cut(gradients, min(1.0, limit / norm**2)),
        "that is the largest number, not the norm: square all numbers, add up, take the root.": _cut(
            gradients, min(1.0, limit / biggest)
        ),
        "you measure the mean square instead of the sum: the norm grows with the number of weights.": _cut(
            gradients, min(1.0, limit / mean)
        ),
        "the norm is measured on the last tensor only.": _cut(gradients, min(1.0, limit / lengths[-1].item())),
        "the norm is measured on the first tensor only.": _cut(gradients, min(1.0, limit / lengths[0].item())),
    }


def _all_close(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> bool:
    return all(close(part, other, 1e-3) for part, other in zip(found, wanted, strict=True))


def _wrong_lengths(found: Sequence[Sequence[Tensor]], cases: Sequence[tuple[float, float]]) -> Verdict | None:
    """What is wrong with the tensors of all cases (norm, limit), or None: a usual mistake if one explains them all."""
    given = [gradients_of(norm) for norm, _ in cases]
    right = [_cut(parts, min(1.0, limit / norm)) for parts, (norm, limit) in zip(given, cases, strict=True)]
    wrong = [_wrong_cuts(parts, limit) for parts, (_, limit) in zip(given, cases, strict=True)]
    if all(_all_close(parts, wanted) for parts, wanted in zip(found, right, strict=True)):
        return None
    for words in wrong[0]:
        if all(_all_close(parts, cuts[words]) for parts, cuts in zip(found, wrong, strict=True)):
            return Verdict.wrong(words)
    for parts, wanted, (norm, limit) in zip(found, right, cases, strict=True):
        if not _all_close(parts, wanted):
            left = torch.cat([part.flatten() for part in parts]).norm().item()
            return Verdict.wrong(f"a norm of {norm:g} at limit {limit:g} comes out as {left:.4g}, or turned.")
    return None


def check_clip(answer: Callable[[list[Tensor], float], float | Tensor]) -> Verdict:
    """Exercise 3: `answer(gradients, limit)` shortens tensors in place to a common norm; returns the norm before."""
    cases = ((8.0, 1.0), (0.9, 1.0), (1.5, 0.5))  # long; short, though its parts add up to more than 1; long
    found: list[list[Tensor]] = []
    results: list[Any] = []
    for norm, limit in cases:
        given = gradients_of(norm)
        returned = attempt(answer, given, limit)
        if isinstance(returned, Verdict) and returned.ok is False:
            return returned
        if not found and isinstance(returned, Verdict) and _all_close(given, gradients_of(norm)):
            return returned  # a stub
        found.append(given)
        results.append(returned)
    if all(_all_close(given, gradients_of(norm)) for given, (norm, _) in zip(found, cases, strict=True)):
        return Verdict.wrong(
            "the tensors are as they were: `g = g * factor` makes a new tensor and forgets the old one. Change it in "
            "place: `g *= factor` or `g.mul_(factor)`."
        )
    if (verdict := _wrong_lengths(found, cases)) is not None:
        return verdict
    for (norm, _), returned in zip(cases, results, strict=True):
        if isinstance(returned, Verdict) or not isinstance(returned, (int, float, Tensor)):
            return Verdict.wrong("the tensors are right; return the norm before clipping, which a run wants to log.")
        if abs(float(returned) - norm) > 1e-3 * norm:
            return Verdict.wrong(
                f"the tensors are right; return the norm *before* clipping, {norm:g}, not {float(returned):.4g}."
            )
    nothing = [torch.zeros(3), torch.zeros(2, 2)]
    returned = attempt(answer, nothing, 1.0)
    if isinstance(returned, Verdict) or not all(part.eq(0).all() for part in nothing):
        return Verdict.wrong("where all gradients are 0 yours divides by 0: look whether the norm is above the limit.")
    return Verdict.right("one norm, one factor, long ones only; that is torch.nn.utils.clip_grad_norm_.")
