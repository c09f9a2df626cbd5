"""Checks of lesson 05's exercises: the loss's divisor, masked means over micro-batches, clipping, formats."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from .verdict import Verdict, attempt


def check_divisor(answer: Callable) -> Verdict:
    """`answer(step, accumulation_steps, iter_per_epoch)` returns what the loss of that micro-step is divided by."""
    wanted = {(0, 8, 20): 8, (15, 8, 20): 8, (16, 8, 20): 4, (19, 8, 20): 4, (3, 4, 4): 4, (6, 3, 7): 1}
    found = {}
    for case in wanted:
        found[case] = attempt(answer, *case)
        if isinstance(found[case], Verdict):
            return found[case]
    if found == wanted:
        return Verdict.right("the last accumulation of an epoch holds what is left, and is divided by that.")
    if all(value == 1 for value in found.values()):
        return Verdict.wrong("the loss is not divided at all: the gradient would be the sum, not the mean.")
    if all(value == case[1] for case, value in found.items()):
        return Verdict.wrong(
            "always accumulation_steps: the last window of an epoch is shorter, and its gradient would be too small."
        )
    if all(value == case[0] % case[1] + 1 for case, value in found.items()):
        return Verdict.wrong("that is the position inside the window; the size of the whole window is asked for.")
    case = next(case for case in wanted if found[case] != wanted[case])
    return Verdict.wrong(
        f"step {case[0]} of {case[2]} with {case[1]} accumulated: {wanted[case]} micro-batches, not {found[case]!r}."
    )


def check_window_loss(answer: Callable) -> Verdict:
    """`answer(losses, masks)`: lists of token losses and masks of micro-batches, each (B, T); returns the mean loss."""
    losses = [torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([[8.0, 6.0, 5.0, 5.0]])]
    masks = [torch.tensor([[1, 1, 1, 1]]), torch.tensor([[1, 0, 0, 0]])]
    found = attempt(answer, losses, masks)
    if isinstance(found, Verdict):
        return found
    try:
        value = float(found)
    except (TypeError, ValueError, RuntimeError):
        return Verdict.wrong(f"one number is needed, this is a {type(found).__name__}.")
    known = {
        3.6: None,
        5.25: "that is the mean of the micro-batches' means: a row with one token weighs as much as one with four.",
        4.25: "that is the mean over all positions, padding included: use the masks.",
        18.0: "that is the sum; divide by the number of tokens that count.",
        2.25: "the masked sum was divided by all positions; divide by the number of tokens that count.",
    }
    for number, message in known.items():
        if math.isclose(value, number, rel_tol=1e-5):
            return (
                Verdict.right("every token weighs the same, wherever it stands.")
                if message is None
                else Verdict.wrong(message)
            )
    return Verdict.wrong(f"for the test values it is 3.6, yours is {value:.4g}.")


def check_update(answer: Callable) -> Verdict:
    """`answer(model, optimizer, scaler, max_norm)` finishes a step whose scaled gradients are there already."""
    torch.manual_seed(0)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    model = nn.Linear(4, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    before = model.weight.detach().clone()
    inputs = torch.tensor([[3.0, 4.0, 0.0, 0.0]])
    scaler.scale(model(inputs).sum()).backward()  # the true gradient is (3, 4, 0, 0), its norm 5

    def run():
        answer(model, optimizer, scaler, 1.0)
        return model.weight.detach() - before

    moved = attempt(run)
    if isinstance(moved, Verdict):
        return moved
    length = float(moved.norm())
    if length == 0:
        return Verdict.open()
    cleared = model.weight.grad is None or float(model.weight.grad.abs().sum()) == 0
    if math.isclose(length, 1.0, rel_tol=1e-4):
        if not cleared:
            return Verdict.wrong("the step is right, but the gradients are still there and would be added to the next.")
        if scaler.get_scale() == 1024.0 and scaler._growth_tracker == 0:
            return Verdict.wrong("the step is right, but scaler.update() is missing: the factor would never change.")
        return Verdict.right("unscale, clip, step, update, and gradients set to None.")
    if math.isclose(length, 1 / 1024, rel_tol=1e-3):
        return Verdict.wrong(
            "clipped before it was unscaled: the gradient was 1024 times too long, so clipping left almost nothing."
        )
    if math.isclose(length, 5.0, rel_tol=1e-4):
        return Verdict.wrong("nothing was clipped: the gradient's norm is 5 and max_norm is 1.")
    if length > 1000:
        return Verdict.wrong("the scaled gradient was applied as it is: scaler.step() unscales, optimizer.step() not.")
    return Verdict.wrong(f"the weights should have moved by 1.0, yours moved by {length:.4g}.")


def check_format(answer: Callable) -> Verdict:
    """`answer(largest, smallest)` names the 16-bit format that holds both, float16 where it can, else bfloat16."""
    cases = {(6e4, 1e-6): "float16", (7e4, 1e-6): "bfloat16", (1.0, 1e-9): "bfloat16", (1e30, 1e-30): "bfloat16"}
    for case, wanted in cases.items():
        found = attempt(answer, *case)
        if isinstance(found, Verdict):
            return found
        if found != wanted:
            if found == "float32":
                return Verdict.wrong(f"{case}: float32 holds them, but so does {wanted}, with half the bits.")
            if found == "float16":
                return Verdict.wrong(f"{case}: float16 ends at 65504 and rounds what is below about 3e-8 to zero.")
            return Verdict.wrong(f"{case}: {wanted} is asked for, yours is {found!r}; where both hold, name float16.")
    return Verdict.right("float16 has more digits, bfloat16 more range.")
