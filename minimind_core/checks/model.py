"""Checks of lesson 03's parts, and `prove_equal`, which says whether a part built by hand is the part that trains.

Each check computes the right answer and the typical wrong ones, and says which of them it sees. A learner's function
gets copies; inputs are such that no two of these answers agree by chance. Left out: experts (experts.py).
"""

# B batch · T tokens · S tokens including the cache · H query heads · K key/value heads · Dh per head

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..layers import rotary_angles
from .verdict import Verdict, attempt, wrong_shape

NO_GRADIENT = "the values are right, but no gradient flows back to {}: .detach(), .item(), torch.no_grad() or a new "
NO_GRADIENT += "torch.tensor(…) cuts it, and nothing before this part could learn."


def prove_equal(name: str, mine: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> None:
    """Print a part's output shape and how far it is from minimind_core's; AssertionError when that is too far.

    The tolerance is relative to the largest number, since two orders of summing differ in the last bits.
    """
    if mine.shape != theirs.shape:
        raise AssertionError(f"{name}: shape {tuple(mine.shape)}, minimind_core gives {tuple(theirs.shape)}.")
    gap = (mine - theirs).abs().max().item()
    allowed = tolerance * max(1.0, theirs.abs().max().item())
    if not gap <= allowed:  # not `gap > allowed`: a gap that is NaN must fail too
        raise AssertionError(f"{name}: differs from minimind_core's by up to {gap:.3g} (allowed {allowed:.1g}).")
    print(f"{name} {tuple(mine.shape)}: largest difference {gap:.0e} → equal.")


def random_tensor(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers, the same for the same seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def close(found: Tensor, wanted: Tensor) -> bool:
    """Equal but for rounding."""
    return torch.allclose(found.float(), wanted.float(), rtol=1e-4, atol=1e-5, equal_nan=True)


def _with_a_word(found: object, sign: str, word: str) -> object:
    """What `attempt` gave; a message of torch that holds `sign` (sizes that do not fit) also says what is likely."""
    if isinstance(found, Verdict) and sign in found.message:
        return Verdict.wrong(f"{found.message} {word}")
    return found


def first_slip(*steps: Callable[[], Verdict | None], right: str) -> Verdict:
    """What the first step that finds something says, else that the answer is right. (A wrong Verdict is falsy.)"""
    for step in steps:
        verdict = step()
        if verdict is not None:
            return verdict
    return Verdict.right(right)


def value_slip(found: Tensor, wanted: Tensor, wrong: Iterable[tuple[Tensor, str]]) -> Verdict | None:
    """None when `found` is right, else a Verdict: what the wrong answer that it equals is, or how far off it is."""
    if close(found, wanted):
        return None
    for values, message in wrong:
        if values.shape == found.shape and close(found, values):
            return Verdict.wrong(message)
    if not torch.isfinite(found.float()).all():
        return Verdict.wrong("there are infinite or NaN values in your result.")
    gap = (found.float() - wanted.float()).abs().max()
    return Verdict.wrong(f"the shape is right, the values are not: the largest difference is {gap:.3g}.")


def gradient_slip(
    run: Callable[..., Tensor], wanted: Callable[..., Tensor], *inputs: Tensor, name: str
) -> Verdict | None:
    """None when the gradient of `run` with respect to the first of `inputs` equals that of `wanted`."""
    grads = []
    for function in (run, wanted):
        leaf = inputs[0].clone().requires_grad_()
        result = attempt(function, leaf * 1, *inputs[1:])
        if isinstance(result, Verdict):
            return result
        if not result.requires_grad:
            return Verdict.wrong(NO_GRADIENT.format(name))
        grads.append(torch.autograd.grad((result * random_tensor(*result.shape, seed=9)).sum(), leaf)[0])
    if not close(*grads):
        return Verdict.wrong(f"the values are right, but the gradient of {name} is not: part of the way back is cut.")
    return None


def check_rms_norm(answer: Callable) -> Verdict:
    """`answer(x, weight, eps)`: x (B, T, D), weight (D,) → (B, T, D)."""
    x, weight, eps = random_tensor(2, 3, 8) * 2 + 1, torch.linspace(0.5, 1.5, 8), 0.1
    found = _with_a_word(
        attempt(answer, x.clone(), weight.clone(), eps),
        "must match the size",
        "(A mean over the last dimension drops it: with keepdim=True it stays as (B, T, 1), which fits x.)",
    )
    if isinstance(found, Verdict):
        return found

    def right(x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight

    square = x.pow(2).mean(-1, keepdim=True)
    centred = x - x.mean(-1, keepdim=True)
    minus_mean = "you subtract the mean: that is LayerNorm. RMSNorm leaves the mean alone and only divides."
    length = "you divide by the vector's length; its root mean square is smaller by √D: the mean of x², not the sum."
    size = x.norm(dim=-1, keepdim=True)
    spread = "you divide by the standard deviation, which subtracts the mean inside: RMSNorm takes the mean of x²."
    wrong = [
        (centred * torch.rsqrt(centred.pow(2).mean(-1, keepdim=True) + eps) * weight, minus_mean),
        (centred * torch.rsqrt(square + eps) * weight, minus_mean),
        *((x * torch.rsqrt(x.var(-1, keepdim=True, correction=c) + eps) * weight, spread) for c in (0, 1)),
        *((x / (x.std(-1, keepdim=True, correction=c) + eps) * weight, spread) for c in (0, 1)),
        (x / size * weight, length),
        (x / (size + eps) * weight, length),
        (x * torch.rsqrt(square + eps), "the learned weight is missing: multiply by it at the end."),
        (x * torch.rsqrt(square) * weight, "eps is missing: a vector of zeros would be divided by 0."),
        (x / (square.sqrt() + eps) * weight, "eps belongs inside the square root, beside the mean of x²."),
        (x / (square + eps) * weight, "the square root is missing: you divide by the mean square."),
        (x * (square + eps).sqrt() * weight, "you multiply by the root mean square instead of dividing by it."),
        (x * torch.rsqrt(8 * square + eps) * weight, "you take the sum of x² where the mean is needed: divide by D."),
        (
            x * torch.rsqrt(x.pow(2).mean() + eps) * weight,
            "the mean goes over each vector alone: mean(-1, keepdim=True).",
        ),
        (
            x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + eps) * weight,
            "the mean goes over the tokens; it belongs over the last dimension, the D numbers of one token.",
        ),
    ]
    return first_slip(
        lambda: wrong_shape(found, x.shape),
        lambda: value_slip(found, right(x, weight, eps), wrong),
        lambda: gradient_slip(answer, right, x, weight, eps, name="x"),
        right="each vector is divided by its root mean square, and nothing is subtracted.",
    )


def _turn(even: Tensor, odd: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    return even * cos - odd * sin, even * sin + odd * cos


def check_rotary(answer: Callable) -> Verdict:
    """`answer(x, cos, sin)`: x (B, T, heads, Dh), cos and sin (T, Dh / 2) → (B, T, heads, Dh)."""
    x, (cos, sin) = random_tensor(2, 5, 3, 8), rotary_angles(8, 5, 50.0)
    found = _with_a_word(
        attempt(answer, x.clone(), cos.clone(), sin.clone()),
        "must match the size",
        "(cos and sin are (T, Dh/2): cos[:, None] gives them a dimension for the heads.)",
    )
    if isinstance(found, Verdict):
        return found

    def right(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        turned = _turn(x[..., 0::2], x[..., 1::2], cos[:, None], sin[:, None])
        return torch.stack(turned, dim=-1).flatten(-2)

    c, s = cos[:, None], sin[:, None]
    even, odd, low, high = x[..., 0::2], x[..., 1::2], x[..., :4], x[..., 4:]
    halves = "you pair element i with element i + Dh/2 (halves); here the pairs are neighbours, 2i with 2i + 1."
    early = "the first elements were overwritten before the second ones were made of them: keep a copy, "
    early += "or make a new tensor (torch.stack)."
    late = "the second elements were overwritten before the first ones were made of them: keep a copy, or torch.stack."
    new_even, new_odd = _turn(even, odd, c, s)
    order = "the pairs are turned rightly, but put back in another order: 2i and 2i + 1 must be neighbours again "
    wrong = [
        (torch.cat(_turn(low, high, c, s), -1), halves),
        (torch.stack(_turn(low, high, c, s), -1).flatten(-2), halves),
        (torch.cat(_turn(even, odd, c, s), -1), order + "(stack on a new last dimension, then flatten)."),
        (
            torch.stack(_turn(even, odd, c, -s), -1).flatten(-2),
            "you turn the other way: even·cos − odd·sin comes first.",
        ),
        (torch.stack((even * c - odd * s, odd * c - even * s), -1).flatten(-2), "a sign: odd' = even·sin + odd·cos."),
        (torch.stack((even * c + odd * s, even * s + odd * c), -1).flatten(-2), "a sign: even' = even·cos − odd·sin."),
        (torch.stack((new_even, new_even * s + odd * c), -1).flatten(-2), early),
        (torch.stack((even * c - new_odd * s, new_odd), -1).flatten(-2), late),
        (torch.stack((even * c, odd * c), -1).flatten(-2), "the sine's half is missing: each new element needs both."),
        (x, "x comes back unturned."),
    ]
    return first_slip(
        lambda: wrong_shape(found, x.shape),
        lambda: value_slip(found, right(x, cos, sin), wrong),
        lambda: gradient_slip(answer, right, x, cos, sin, name="x"),
        right="neighbouring pairs, turned by their position's angle.",
    )


_SCALES = {
    "sqrt": (lambda dh: dh**-0.5, ""),
    "none": (lambda dh: 1.0, "the scores are not divided by √Dh, so softmax is far too sure of itself"),
    "width": (lambda dh: 1.0 / dh, "the scores are divided by Dh where √Dh is meant"),
    "times": (lambda dh: dh**0.5, "the scores are multiplied by √Dh where they should be divided"),
}
_MASKS = {
    "bottom right": "",
    "none": "there is no causal mask: tokens look into the future",
    "top left": "the mask's diagonal is wrong when there is a cache (S > T): align it to the bottom right, tril(S − T)",
    "strict": "the mask's diagonal is wrong: a token must see itself too (the first would see nothing)",
    "zeroed": "the future's scores are set to 0, but e⁰ = 1 is a share like any other: set them to −inf",
    "late": "the future is zeroed after the softmax, so rows no longer add up to 1: put −inf in before it",
    "upper": "the mask is the wrong way round: the past is hidden and the future visible",
}
_HEADS = {
    "neighbours": "",
    "cycled": "key/value heads are repeated in the wrong order: repeat gives 0 1 0 1, but neighbours share, 0 0 1 1, "
    "which is repeat_interleave",
}
_AXES = {-1: "", -2: "the softmax goes over the queries: it belongs over the keys, the last dimension"}


def _attention(
    q: Tensor, k: Tensor, v: Tensor, scale="sqrt", mask="bottom right", heads="neighbours", axis=-1
) -> Tensor:
    group, (tokens, span) = q.shape[1] // k.shape[1], (q.shape[2], k.shape[2])
    if heads == "neighbours":
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    else:
        k, v = k.repeat(1, group, 1, 1), v.repeat(1, group, 1, 1)
    scores = q @ k.transpose(-2, -1) * _SCALES[scale][0](q.shape[-1])
    ones = torch.ones(tokens, span, dtype=torch.bool)
    shift = span - tokens
    seen = {"none": ones, "top left": ones.tril(), "strict": ones.tril(shift - 1), "upper": ones.triu(shift)}
    seen = seen.get(mask, ones.tril(shift))
    if mask == "late":
        return (scores.softmax(axis) * seen) @ v
    return scores.masked_fill(~seen, 0 if mask == "zeroed" else -torch.inf).softmax(axis) @ v


class _Watched(TorchFunctionMode):
    """Notices whether torch's own attention is called while this is entered."""

    called = False

    def __torch_function__(self, function: Callable, types: tuple, args: tuple = (), kwargs: dict | None = None):
        self.called = self.called or function is F.scaled_dot_product_attention
        return function(*args, **(kwargs or {}))


def check_attention(answer: Callable) -> Verdict:
    """`answer(q, k, v)`: q (B, H, T, Dh), k and v (B, K, S, Dh) → (B, H, T, Dh), causal, with S ≥ T."""
    whole, after_a_cache = (5, 5), (2, 5)
    return first_slip(
        lambda: _attention_slip(answer, *whole),
        lambda: _attention_slip(answer, *after_a_cache),
        right="scaled, masked, summed, with shared heads, and right with a cache too.",
    )


def _attention_slip(answer: Callable, tokens: int, span: int) -> Verdict | None:
    q, k, v = (
        1.5 * random_tensor(2, 4, tokens, 16),
        random_tensor(2, 2, span, 16, seed=1),
        random_tensor(2, 2, span, 16, seed=2),
    )
    with _Watched() as watched:
        found = attempt(answer, q.clone(), k.clone(), v.clone())
    if watched.called:
        return Verdict.wrong(
            "you call scaled_dot_product_attention, which is all of attention in one call and not allowed here: "
            "make scores, mask, shares and sum yourself."
        )
    found = _with_a_word(
        found,
        "at non-singleton dimension 1",
        "(q has 4 heads here, k and v have 2: give every query head its own copy of both first, repeat_interleave.)",
    )
    if isinstance(found, Verdict):
        return found
    shape = wrong_shape(found, q.shape)
    if shape is not None:
        return shape
    # Every combination of slips, fewest first: two at once are named both.
    slips = sorted(product(_SCALES, _MASKS, _HEADS, _AXES), key=_slip_count)
    wrong = ((_attention(q, k, v, *slip), f"{_named(slip)}.") for slip in slips[1:])
    verdict = value_slip(found, _attention(q, k, v), wrong)
    return verdict if verdict is not None else gradient_slip(answer, _attention, q, k, v, name="the queries")


def _slip_count(slip: tuple) -> int:
    scale, mask, heads, axis = slip
    return (scale != "sqrt") + (mask != "bottom right") + (heads != "neighbours") + (axis != -1)


def _named(slip: tuple) -> str:
    scale, mask, heads, axis = slip
    return "; ".join(text for text in (_SCALES[scale][1], _MASKS[mask], _HEADS[heads], _AXES[axis]) if text)
