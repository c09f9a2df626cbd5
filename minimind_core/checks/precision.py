"""Checks of lesson 05's exercises: divisors, accumulated gradients, and the order of things in one update.

Answers are run on a very small model; the numbers that the usual mistakes would leave behind are computed as well, so a
check can say which one it sees. Left out: clipping by hand (clipping.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..config import ModelConfig
from ..model import MiniMindLM
from ..training import Hooks, masked_cross_entropy
from .verdict import Verdict, attempt

# B batch · T tokens; a batch is (X, Y, loss_mask), each (B, T) int64
Batch = tuple[Tensor, Tensor, Tensor]
SCALE = 1024.0
# how far an answer's gradient may lie from the right one, by the format of its forward pass: 16 bits round more
TOLERANCES = {torch.float32: 1e-4, torch.float16: 0.01, torch.bfloat16: 0.02}


def check_divisor(answer: Callable[[int, int, int], int]) -> Verdict:
    """Exercise 1: what the loss of a micro-step is divided by, `answer(step, accumulation_steps, iter_per_epoch)`."""
    cases = [(step, 8, 21) for step in range(21)] + [(step, 4, 8) for step in range(8)] + [(1, 8, 3), (0, 1, 5)]
    found = []
    for case in cases:
        value: Any = attempt(answer, *case)
        if isinstance(value, Verdict):
            return value
        if not isinstance(value, (int, float)) or value != int(value):
            return Verdict.wrong(f"a whole number is needed; for {case} yours gives {value!r}.")
        found.append(int(value))
    right = [Hooks(total, accumulation_steps=n).window(step) for step, n, total in cases]
    wrong = {
        "the number of micro-batches in every window but the last: of 21 micro-batches the last 5 make a window of 5, "
        "and dividing them by 8 makes that update too short.": [n for _, n, _ in cases],
        "1 is no division at all: gradients of a window are added up, so 8 of them come out 8 times too long.": [1]
        * len(cases),
        "you divide *every* micro-step by the short window's number; only the last window is short.": [
            total % n or n for _, n, total in cases
        ],
        "where the epoch divides evenly, the remainder is 0, and the last window is a whole one.": [
            total % n if step >= total - total % n or (total % n == 0 and step >= total - n) else n
            for step, n, total in cases
        ],
        "that is how many micro-steps have been added up so far; the divisor is that of the whole window, the same for "
        "all its members.": [step % n + 1 for step, n, _ in cases],
        "the last window is short, but it begins earlier than you think: it holds all that is left behind the last "
        "whole window.": [total % n if step == total - 1 and total % n else n for step, n, total in cases],
    }
    for words, numbers in wrong.items():
        if found == numbers:
            return Verdict.wrong(words)
    for (step, n, total), value, wanted in zip(cases, found, right, strict=True):
        if value != wanted:
            return Verdict.wrong(
                f"micro-step {step} of {total}, {n} to an update: the divisor is {wanted}, yours is {value}."
            )
    return Verdict.right("whole windows, the short last one, and epochs shorter than a window.")


def small_model() -> MiniMindLM:
    """A model of a few thousand weights, the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return MiniMindLM(ModelConfig(dim=16, n_layers=1, n_heads=2, n_kv_heads=1, vocab_size=40, max_seq_len=16))


def batches_of(lengths: Sequence[Sequence[int]], width: int = 12) -> list[Batch]:
    """A batch per entry of `lengths`, a row per number in it: that many counted tokens, the rest padding."""
    generator = torch.Generator().manual_seed(11)
    found = []
    for rows in lengths:
        mask = (torch.arange(width)[None] < torch.tensor(rows)[:, None]).long()
        ids = torch.randint(3, 40, (len(rows), width + 1), generator=generator)
        found.append((ids[:, :-1] * mask, ids[:, 1:] * mask, mask))
    return found


def flat_gradient(model: nn.Module) -> Tensor | None:
    """All gradients end to end, (parameters,); None when there is none."""
    found = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return torch.cat(found) if found else None


def sums_of_gradients(batches: Sequence[Batch]) -> list[Tensor]:
    """The gradient of each batch's loss *summed* over its counted tokens, each (parameters,)."""
    found = []
    for X, Y, mask in batches:
        model = small_model()
        masked_cross_entropy(model(X).logits, Y, mask, total=torch.tensor(1)).backward()
        found.append(flat_gradient(model))
    return found


def close(found: Tensor, wanted: Tensor, tolerance: float = 1e-4) -> bool:
    """Whether two tensors of one shape differ by no more than `tolerance` of the wanted one's norm."""
    return bool((found - wanted).norm() <= tolerance * wanted.norm() + 1e-12)


def formats_seen(model: MiniMindLM) -> set[torch.dtype]:
    """A set that fills with the formats in which the model gives its scores: 16 bits under autocast."""
    seen: set[torch.dtype] = set()
    model.output.register_forward_hook(lambda _module, _given, scores: seen.add(scores.dtype))
    return seen


def _tolerance(formats: set[torch.dtype]) -> float:
    return max((TOLERANCES.get(dtype, 1e-4) for dtype in formats), default=1e-4)


def _named(found: Tensor, wrong: Mapping[str, Tensor]) -> Verdict | None:
    return next((Verdict.wrong(words) for words, numbers in wrong.items() if close(found, numbers, 0.02)), None)


def check_window_gradient(answer: Callable[[nn.Module, list[Batch]], int]) -> Verdict:
    """Exercise 2: `answer(model, batches)` leaves the gradient of the mean over counted tokens; gives their number."""
    batches = batches_of(((12, 11), (3, 2), (7, 5)))
    counts = [int(mask.sum()) for _, _, mask in batches]
    total, n = sum(counts), len(batches)
    model, backwards = small_model(), []
    formats = formats_seen(model)
    model.norm.weight.register_hook(lambda _: backwards.append(1))  # once per backward
    returned: Any = attempt(answer, model, batches)
    found = flat_gradient(model)
    if isinstance(returned, Verdict):
        if returned.ok is None and found is not None:
            return Verdict.wrong("gradients are there, but nothing came back: return the number of counted tokens.")
        return returned
    if found is None:
        return Verdict.wrong("the model has no gradient: is there a .backward(), and no zero_grad behind it?")
    if found.numel() != sum(p.numel() for p in model.parameters()):
        return Verdict.wrong("some parameters have no gradient: every one takes part in the loss.")
    sums = sums_of_gradients(batches)
    means = [part / count for part, count in zip(sums, counts, strict=True)]
    in_all, positions = torch.stack(sums).sum(0), sum(mask.numel() for _, _, mask in batches)
    last = "only the last micro-batch is left: something zeroes the gradients between them."
    wrong = {
        f"the loss isn't divided at all: a sum over tokens, {total} times too long.": in_all,
        f"not divided by the number of micro-batches: {n} means are added up.": torch.stack(means).sum(0),
        "a mean of means: a token in a micro-batch with few counted tokens weighs more than the others. Divide each "
        "micro-batch's *sum* by the number of tokens in all of them.": torch.stack(means).mean(0),
        "divided by all positions, padding included: only tokens with mask 1 count.": in_all / positions,
        "a sum divided by the number of micro-batches: divide by the number of counted tokens.": in_all / n,
        "divided twice: by the tokens in all micro-batches and by the number of micro-batches as well.": in_all
        / total
        / n,
        last: means[-1],
        f"{last} (And it is divided by {n}.)": means[-1] / n,
        f"{last} (Its divisor, the {total} tokens of all, is right.)": sums[-1] / total,
    }
    if (verdict := _named(found, wrong)) is not None:
        return verdict
    if not close(found, in_all / total, _tolerance(formats)):
        ratio = (found @ in_all / (in_all @ in_all)).item() * total
        return Verdict.wrong(f"the gradient differs; measured along the right one, it is {ratio:.3f} times as long.")
    if len(backwards) < n:
        return Verdict.wrong(
            f"the gradient is right, but backward ran {len(backwards)} time(s) for {n} micro-batches: all of them are "
            "kept until then, and memory is that of one big batch. Call backward() for each, inside the loop."
        )
    if returned != total:
        return Verdict.wrong(f"the gradient is right; the number of counted tokens is {total}, yours is {returned}.")
    return Verdict.right(f"the gradient of one big batch of {total} counted tokens, taken in {n} bites.")


class RecordingScaler(torch.amp.GradScaler):
    """A gradient scaler for the CPU that notes the order in which it is called."""

    def __init__(self) -> None:
        super().__init__("cpu", init_scale=SCALE)
        self.calls: list[str] = []

    def scale(self, outputs):
        self.calls.append("scale")
        return super().scale(outputs)

    def unscale_(self, optimizer):
        if "step" not in self.calls:
            self.calls.append("unscale_")
        return super().unscale_(optimizer)

    def step(self, optimizer, *args, **kwargs):
        self.calls.append("step")
        return super().step(optimizer, *args, **kwargs)

    def update(self, new_scale=None):
        self.calls.append("update")
        return super().update(new_scale)


def check_update(answer: Callable) -> Verdict:
    """Exercise 4: one update, `answer(model, optimizer, scaler, batches, grad_clip)`; returns the unclipped norm."""
    batches = batches_of(((12, 12),) * 3)
    for clip in (1e9, 0.1):  # first with a clip that does nothing, so that a wrong length shows
        model, scaler = small_model(), RecordingScaler()
        start, formats = flat_weights(model), formats_seen(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)  # a step is then the gradient itself
        returned: Any = attempt(answer, model, optimizer, scaler, batches, clip)
        if isinstance(returned, Verdict) and returned.message.startswith("your code raised"):
            return _explained(returned, scaler.calls)
        if not scaler.calls and torch.equal(start, flat_weights(model)):
            return returned if isinstance(returned, Verdict) else Verdict.wrong("no weight has moved.")
        verdict = _wrong_step(start - flat_weights(model), scaler.calls, batches, clip, _tolerance(formats))
        if verdict is not None:
            return verdict
    if "update" not in scaler.calls:
        return Verdict.wrong(
            "scaler.update() is missing: without it the scale never adapts, and the next unscale_ fails."
        )
    gradient = flat_gradient(model)
    if gradient is not None and gradient.any():
        return Verdict.wrong(
            "the gradients are still there: the next window would be added to them. zero_grad at the end."
        )
    if isinstance(returned, Verdict):
        return Verdict.wrong("the step is right, but nothing came back: return the norm that clip_grad_norm_ gives.")
    norm = torch.stack(sums_of_gradients(batches)).sum(0).norm().item() / sum(int(m.sum()) for *_, m in batches)
    if (
        not isinstance(returned, (int, float, Tensor))
        or abs(float(returned) - norm) > max(1e-3, _tolerance(formats)) * norm
    ):
        return Verdict.wrong(
            f"the step is right; return the gradient's norm before clipping, {norm:.4f}, not {returned}."
        )
    note = "" if gradient is None else " (The gradients are zeros; with set_to_none=True they would take no memory.)"
    return Verdict.right("scaled, accumulated, unscaled, clipped, stepped, updated, cleared." + note)


def flat_weights(model: nn.Module) -> Tensor:
    """A copy of all parameters end to end, (parameters,)."""
    return torch.cat([p.detach().flatten() for p in model.parameters()]).clone()


def _explained(verdict: Verdict, calls: list[str]) -> Verdict:
    """What the scaler's own complaints mean here."""
    if "_scale is None" in verdict.message:
        return Verdict.wrong("the loss isn't scaled, and yet you unscale: use scaler.scale(loss).backward().")
    if "unscale_() has already been called" in verdict.message:
        return Verdict.wrong("unscaled once per micro-batch: unscale_ comes once, when the window is full.")
    if "No inf checks were recorded" in verdict.message:
        if "step" not in calls:
            return Verdict.wrong(
                "optimizer.step() takes gradients as they are, still scaled: use scaler.step(optimizer)."
            )
        return Verdict.wrong("there was no gradient when the scaler stepped: zero_grad belongs behind the step.")
    return verdict


def _wrong_step(moved: Tensor, calls: list[str], batches: list[Batch], clip: float, tolerance: float) -> Verdict | None:
    """What is wrong with the step that was made, or None; its forward pass may have rounded it by `tolerance`."""
    n = len(batches)
    if calls.count("step") > 1:
        return Verdict.wrong("stepped once per micro-batch: the step comes once, after all of them.")
    if "update" in calls and "step" in calls and calls.index("update") < calls.index("step"):
        return Verdict.wrong(
            "scaler.update() stands before scaler.step(optimizer): update closes the books, so the step no longer "
            "knows that these gradients are unscaled, and divides them once more. Step first."
        )
    means = [s / int(m.sum()) for s, (_, _, m) in zip(sums_of_gradients(batches), batches, strict=True)]
    mean = torch.stack(means).mean(0)

    def clipped(gradient: Tensor) -> Tensor:
        return gradient * min(1.0, clip / gradient.norm().item())

    if close(moved, clipped(mean), tolerance):
        if "scale" not in calls or "step" not in calls:
            return Verdict.wrong("the numbers are right, but the scaler took no part: scaler.scale(loss), scaler.step.")
        if clip < 1 and "unscale_" not in calls:
            return Verdict.wrong("scaler.unscale_(optimizer) is missing before clipping.")
        return None
    if not moved.any():
        return Verdict.wrong(
            "no weight has moved: was a step made, and were there gradients left? zero_grad belongs behind the step."
        )
    if "scale" in calls and "step" not in calls and "unscale_" not in calls:
        return Verdict.wrong("optimizer.step() takes gradients as they are, still scaled: use scaler.step(optimizer).")
    early = (
        "clipped before unscaling" if "unscale_" in calls else "scaler.unscale_(optimizer) is missing before clipping"
    )
    if clip < mean.norm():  # lengths and members were right where clipping had nothing to do
        wrong = {
            "not clipped: the step is longer than grad_clip.": mean,
            f"{early}: clipping sees gradients that are still 1,024 times too long, and what it leaves of them is "
            "divided by 1,024 afterwards. First scaler.unscale_(optimizer), then clip.": clipped(mean * SCALE) / SCALE,
        }
    else:
        wrong = {
            f"not divided by the number of micro-batches, {n}: the step is that many times too long.": mean * n,
            f"divided by 8, but this window has {n} micro-batches: use len(batches).": mean * n / 8,
            "only the last micro-batch is left: zero_grad stands inside the loop over micro-batches.": means[-1] / n,
            "only the last micro-batch is left (zero_grad inside the loop?), and it isn't divided.": means[-1],
        }
    if (verdict := _named(moved, wrong)) is not None:
        return verdict
    wanted = clipped(mean).norm().item()
    if abs(moved.norm().item() - wanted) < 0.02 * wanted:
        return Verdict.wrong("the step is about as long as it should be, but its direction is another one.")
    return Verdict.wrong(f"the step is {moved.norm().item():.4g} long, it should be {wanted:.4g} (grad_clip={clip:g}).")
