"""Lesson 05: its checks name every typical wrong answer."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from minimind_core.checks.precision import check_divisor, check_format, check_update, check_window_loss
from minimind_core.plots.precision import bars_figure, gradient_figure, ranges_figure, scaler_figure, smallest


def right_update(model, optimizer, scaler, max_norm):
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)


def clip_first(model, optimizer, scaler, max_norm):
    torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()


def no_clip(model, optimizer, scaler, max_norm):
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()


def plain_step(model, optimizer, scaler, max_norm):
    optimizer.step()


def never_cleared(model, optimizer, scaler, max_norm):
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    scaler.step(optimizer)
    scaler.update()


def never_updated(model, optimizer, scaler, max_norm):
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    scaler.step(optimizer)
    optimizer.zero_grad()


def cleared_too_early(model, optimizer, scaler, max_norm):
    optimizer.zero_grad()
    scaler.step(optimizer)


def window(step, accumulation_steps, iter_per_epoch):
    start = step - step % accumulation_steps
    return min(accumulation_steps, iter_per_epoch - start)


def token_mean(losses, masks):
    total = sum((loss * mask).sum() for loss, mask in zip(losses, masks, strict=True))
    return total / sum(mask.sum() for mask in masks)


def format_for(largest, low):
    return "float16" if largest <= 65504 and low >= 6e-8 else "bfloat16"


@pytest.mark.parametrize(
    ("check", "answer"),
    [
        (check_divisor, window),
        (check_window_loss, token_mean),
        (check_update, right_update),
        (check_format, format_for),
    ],
)
def test_right_answers_are_right(check, answer):
    assert check(answer), check(answer)


@pytest.mark.parametrize("check", [check_divisor, check_window_loss, check_update, check_format])
def test_a_stub_is_not_an_error(check):
    assert check(lambda *arguments: None).ok is None


@pytest.mark.parametrize(
    ("check", "answer", "said"),
    [
        (check_divisor, lambda s, a, n: 1, "not divided at all"),
        (check_divisor, lambda s, a, n: a, "last window"),
        (check_divisor, lambda s, a, n: s % a + 1, "position inside"),
        (check_divisor, lambda s, a, n: 7, "not 7"),
        (
            check_window_loss,
            lambda ls, ms: sum((x * m).sum() / m.sum() for x, m in zip(ls, ms, strict=True)) / 2,
            "means",
        ),
        (check_window_loss, lambda ls, ms: sum(x.mean() for x in ls) / 2, "padding included"),
        (check_window_loss, lambda ls, ms: sum((x * m).sum() for x, m in zip(ls, ms, strict=True)), "the sum"),
        (
            check_window_loss,
            lambda ls, ms: sum((x * m).sum() for x, m in zip(ls, ms, strict=True)) / 8,
            "all positions",
        ),
        (check_window_loss, lambda ls, ms: ls, "one number"),
        (check_window_loss, lambda ls, ms: 1.0, "it is 3.6"),
        (check_update, clip_first, "before it was unscaled"),
        (check_update, no_clip, "nothing was clipped"),
        (check_update, plain_step, "applied as it is"),
        (check_update, never_cleared, "still there"),
        (check_update, never_updated, "scaler.update()"),
        (check_update, cleared_too_early, "AssertionError"),
        (check_format, lambda a, b: "float32", "half the bits"),
        (check_format, lambda a, b: "float16", "65504"),
        (check_format, lambda a, b: "bfloat16", "where both hold"),
    ],
)
def test_typical_wrong_answers_are_recognised(check, answer, said):
    verdict = check(answer)
    assert verdict.ok is False and said in verdict.message, verdict


def test_the_smallest_number_of_a_format_is_the_smallest():
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        value = torch.tensor(smallest(dtype), dtype=torch.float64)
        assert value.to(dtype) > 0 and (value / 4).to(dtype) == 0


def test_figures_draw_what_they_are_given():
    assert len(ranges_figure().axes[0].lines) == 6
    assert gradient_figure({"a": np.array([-5.0, -9.0])}).axes[0].get_legend() is not None
    assert len(scaler_figure([4.0, 2.0], [1]).axes[0].lines) == 2
    assert len(bars_figure("t", {"a": 1.0, "b": 2.0}, "MiB").axes[0].patches) == 2
