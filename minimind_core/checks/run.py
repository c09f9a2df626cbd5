"""Checks of lesson 06's exercises: an AdamW step, tokens per parameter, where the held-out loss turns, a run's cost."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .verdict import Verdict, attempt, wrong_shape

_STATE = {"lr": 0.1, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "weight_decay": 0.5, "step": 3}


def adamw_step(w: Tensor, g: Tensor, m: Tensor, v: Tensor, **k: float) -> Tensor:
    """One AdamW step of any shape, the way torch does it; returns the new weights. Loshchilov & Hutter 2019."""
    m = k["beta1"] * m + (1 - k["beta1"]) * g
    v = k["beta2"] * v + (1 - k["beta2"]) * g**2
    m_hat, v_hat = m / (1 - k["beta1"] ** k["step"]), v / (1 - k["beta2"] ** k["step"])
    return w * (1 - k["lr"] * k["weight_decay"]) - k["lr"] * m_hat / (v_hat.sqrt() + k["eps"])


def check_adamw_step(answer: Callable) -> Verdict:
    """`answer(w, g, m, v, lr, beta1, beta2, eps, weight_decay, step)` returns the new weights, (n,) float."""
    w, g, m, v = (torch.tensor(x) for x in ([1.0, -2.0, 3.0], [0.5, -0.1, 0.2], [0.1, 0.0, -0.2], [0.3, 0.01, 0.02]))
    found = attempt(lambda: answer(w.clone(), g.clone(), m.clone(), v.clone(), **_STATE))
    if isinstance(found, Verdict):
        return found
    if (problem := wrong_shape(found, w.shape)) is not None:
        return problem
    right = adamw_step(w, g, m, v, **_STATE)
    if torch.allclose(found, right, atol=1e-5):
        return Verdict.right("that is what torch.optim.AdamW does to every weight.")
    k = _STATE
    m1, v1 = k["beta1"] * m + (1 - k["beta1"]) * g, k["beta2"] * v + (1 - k["beta2"]) * g**2
    mh, vh = m1 / (1 - k["beta1"] ** k["step"]), v1 / (1 - k["beta2"] ** k["step"])
    decay = 1 - k["lr"] * k["weight_decay"]
    gl2 = g + k["weight_decay"] * w
    ml2 = (k["beta1"] * m + (1 - k["beta1"]) * gl2) / (1 - k["beta1"] ** k["step"])
    vl2 = (k["beta2"] * v + (1 - k["beta2"]) * gl2**2) / (1 - k["beta2"] ** k["step"])
    typical = {
        "the bias correction is missing: divide m by 1 - beta1**step and v by 1 - beta2**step.": w * decay
        - k["lr"] * m1 / (v1.sqrt() + k["eps"]),
        "the weight decay is missing: AdamW also multiplies w by 1 - lr * weight_decay.": w
        - k["lr"] * mh / (vh.sqrt() + k["eps"]),
        "the square root is missing: divide by sqrt(v), not by v.": w * decay - k["lr"] * mh / (vh + k["eps"]),
        "that is Adam with L2: AdamW keeps the decay out of the gradient and applies it to w directly.": w
        - k["lr"] * ml2 / (vl2.sqrt() + k["eps"]),
        "the decay is not multiplied by the learning rate: w * (1 - lr * weight_decay).": w * (1 - k["weight_decay"])
        - k["lr"] * mh / (vh.sqrt() + k["eps"]),
        "the sign is wrong: a step goes against the gradient.": w * decay + k["lr"] * mh / (vh.sqrt() + k["eps"]),
    }
    for message, value in typical.items():
        if torch.allclose(found, value, atol=1e-5):
            return Verdict.wrong(message)
    return Verdict.wrong(f"for the test values the new weights should be {right.tolist()}, yours are {found.tolist()}.")


def check_tokens_per_parameter(answer: Callable) -> Verdict:
    """`answer(tokens, epochs, parameters)` returns how many different tokens there are per parameter."""
    found = attempt(answer, 415_000_000, 2, 25_829_888)
    if isinstance(found, Verdict):
        return found
    right = 415_000_000 / 25_829_888
    if not isinstance(found, (int, float)):
        return Verdict.wrong(f"a number is needed, this is a {type(found).__name__}.")
    if math.isclose(found, right, rel_tol=1e-6):
        return Verdict.right("a second pass over the same text adds no new tokens.")
    if math.isclose(found, 2 * right, rel_tol=1e-6):
        return Verdict.wrong("epochs were counted: the second pass shows the same tokens again.")
    if math.isclose(found, right / 2, rel_tol=1e-6):
        return Verdict.wrong("`tokens` are those of the corpus already, not of all epochs together.")
    if math.isclose(found, 1 / right, rel_tol=1e-6):
        return Verdict.wrong("that is parameters per token: turn the fraction round.")
    return Verdict.wrong(f"for 415M tokens, 2 epochs and 25.8M parameters it is {right:.2f}, yours is {found}.")


def check_turning_point(answer: Callable) -> Verdict:
    """`answer(rows)` returns the update with the lowest held-out loss; rows are lines of a metrics file."""
    rows = [
        {"step": 0, "held_out_loss": 8.0},
        {"step": 5, "loss": 4.0},
        {"step": 8, "held_out_loss": 5.0},
        {"step": 10, "held_out_loss": 5.2},
        {"step": 15, "loss": 3.0},
        {"step": 20, "held_out_loss": 4.9},
        {"step": 25, "loss": 1.0},
        {"step": 30, "held_out_loss": 5.5},
    ]
    found = attempt(answer, rows)
    if isinstance(found, Verdict):
        return found
    known = {
        25: "that is the lowest training loss; the held-out lines have the key held_out_loss.",
        30: "that is the last look, not the lowest.",
        8: "there it rises for the first time, and falls again later: the lowest of all looks is asked for.",
        3: "that is a position in the list of looks; the line's own step is asked for.",
        5: "that is a position in the list; the line's own step is asked for.",
        4.9: "that is the loss itself; the update it was measured at is asked for.",
    }
    if found == 20 and not isinstance(found, bool):
        return Verdict.right("from there on the model learns the training rows by heart.")
    return Verdict.wrong(known.get(found, f"for the test lines it is update 20, yours is {found!r}."))


def check_cost(answer: Callable) -> Verdict:
    """`answer(tokens, tokens_per_s, price_per_hour)` returns what a run costs, in the price's currency."""
    found = attempt(answer, 415_000_000, 150_000, 1.8)
    if isinstance(found, Verdict):
        return found
    right = 415_000_000 / 150_000 / 3600 * 1.8
    if not isinstance(found, (int, float)):
        return Verdict.wrong(f"a number is needed, this is a {type(found).__name__}.")
    if math.isclose(found, right, rel_tol=1e-6):
        return Verdict.right("seconds are tokens over tokens per second; the price is per hour.")
    if math.isclose(found, right * 3600, rel_tol=1e-6):
        return Verdict.wrong("tokens over speed are seconds; the price is per hour: divide by 3600.")
    if math.isclose(found, right * 60, rel_tol=1e-6):
        return Verdict.wrong("that took minutes for hours: divide the seconds by 3600, not by 60.")
    return Verdict.wrong(f"for 415M tokens at 150,000 a second and 1.80 an hour it is {right:.2f}, yours is {found}.")
