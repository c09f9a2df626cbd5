"""Lesson 06: its checks name every typical wrong answer, its curves draw what the metrics say."""

from __future__ import annotations

import IPython.display
import numpy as np
import pytest
import torch

from minimind_core import plan_run
from minimind_core.checks.run import (
    adamw_step,
    check_adamw_step,
    check_cost,
    check_tokens_per_parameter,
    check_turning_point,
)
from minimind_core.plots import run as run_plots
from minimind_core.plots.run import LiveCurves, smoothed, training_figure
from minimind_core.run_status import RunStatus


def moments(w, g, m, v, k):
    m1, v1 = k["beta1"] * m + (1 - k["beta1"]) * g, k["beta2"] * v + (1 - k["beta2"]) * g**2
    return m1, v1, m1 / (1 - k["beta1"] ** k["step"]), v1 / (1 - k["beta2"] ** k["step"])


def without_correction(w, g, m, v, **k):
    m1, v1, _, _ = moments(w, g, m, v, k)
    return w * (1 - k["lr"] * k["weight_decay"]) - k["lr"] * m1 / (v1.sqrt() + k["eps"])


def without_decay(w, g, m, v, **k):
    return adamw_step(w, g, m, v, **(k | {"weight_decay": 0.0}))


def without_root(w, g, m, v, **k):
    _, _, mh, vh = moments(w, g, m, v, k)
    return w * (1 - k["lr"] * k["weight_decay"]) - k["lr"] * mh / (vh + k["eps"])


def with_l2(w, g, m, v, **k):
    return adamw_step(w, g + k["weight_decay"] * w, m, v, **(k | {"weight_decay": 0.0}))


def uphill(w, g, m, v, **k):
    kept = w * (1 - k["lr"] * k["weight_decay"])
    return kept - (adamw_step(w, g, m, v, **k) - kept)


def decay_without_lr(w, g, m, v, **k):
    return adamw_step(w, g, m, v, **(k | {"weight_decay": 0.0})) - w * k["weight_decay"]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (without_correction, "bias correction"),
        (without_decay, "decay is missing"),
        (without_root, "square root"),
        (with_l2, "L2"),
        (uphill, "sign"),
        (decay_without_lr, "not multiplied by the learning rate"),
        (lambda w, g, m, v, **k: w[:1], "the shape should be"),
        (lambda w, g, m, v, **k: w, "should be"),
        (lambda w, g, m, v, **k: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_a_wrong_adamw_step_is_told_what_is_wrong(answer, said):
    verdict = check_adamw_step(answer)
    assert verdict.ok is False and said in verdict.message


def test_the_right_adamw_step_is_torchs():
    assert check_adamw_step(adamw_step)
    w = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = torch.optim.AdamW([w], lr=0.1, betas=(0.9, 0.99), weight_decay=0.5)
    ours, m, v = w.detach().clone(), torch.zeros(2), torch.zeros(2)
    for step in (1, 2, 3):
        w.grad = torch.tensor([0.5, -0.25]) * step
        m_before, v_before = m.clone(), v.clone()
        k = {"lr": 0.1, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "weight_decay": 0.5, "step": step}
        ours = adamw_step(ours, w.grad, m_before, v_before, **k)
        m, v = 0.9 * m + 0.1 * w.grad, 0.99 * v + 0.01 * w.grad**2
        optimizer.step()
        torch.testing.assert_close(ours, w.detach())


@pytest.mark.parametrize("check", [check_adamw_step, check_tokens_per_parameter, check_turning_point, check_cost])
def test_a_stub_is_not_an_error(check):
    assert check(lambda *a, **k: None).ok is None


@pytest.mark.parametrize(
    ("check", "answer", "said"),
    [
        (check_tokens_per_parameter, lambda t, e, p: t * e / p, "epochs"),
        (check_tokens_per_parameter, lambda t, e, p: p / t, "turn the fraction"),
        (check_tokens_per_parameter, lambda t, e, p: "16", "number"),
        (check_tokens_per_parameter, lambda t, e, p: 3.0, "yours is 3.0"),
        (check_turning_point, lambda rows: 25, "training loss"),
        (check_turning_point, lambda rows: 30, "last look"),
        (check_turning_point, lambda rows: 4.9, "loss itself"),
        (check_turning_point, lambda rows: 3, "position"),
        (check_turning_point, lambda rows: 8, "first time"),
        (check_tokens_per_parameter, lambda t, e, p: t / e / p, "of the corpus already"),
        (check_cost, lambda t, s, p: t / s * p, "3600"),
        (check_cost, lambda t, s, p: t / s / 60 * p, "minutes"),
        (check_cost, lambda t, s, p: 1.0, "yours is 1.0"),
    ],
)
def test_typical_wrong_answers_are_recognised(check, answer, said):
    verdict = check(answer)
    assert verdict.ok is False and said in verdict.message


def test_right_answers_are_right():
    assert check_tokens_per_parameter(lambda t, e, p: t / p)
    assert check_cost(lambda t, s, p: t / s / 3600 * p)

    def turn(rows):
        looks = [r for r in rows if "held_out_loss" in r]
        return min(looks, key=lambda r: r["held_out_loss"])["step"]

    assert check_turning_point(turn)


ROWS = [
    {
        "step": s,
        "loss": 8.0 / s,
        "lr": 1e-3,
        "grad_norm": 1.0,
        "tokens_per_s": 1000.0,
        "memory": 300,
        "tokens": 100 * s,
        "time": s,
    }
    for s in range(1, 11)
] + [{"step": 10, "held_out_loss": 3.0, "tokens": 1000}]


def test_the_training_figure_shows_the_losses_that_it_was_given():
    figure = training_figure(ROWS, bigram=5.0)
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert list(lines["held-out loss"].get_ydata()) == [3.0]
    drawn = list(lines["training loss, smoothed"].get_ydata())
    assert drawn == pytest.approx(smoothed([8.0 / s for s in range(1, 11)]))


def test_smoothing_a_constant_gives_the_constant():
    assert smoothed([2.0] * 5) == pytest.approx([2.0] * 5)


@pytest.mark.parametrize(("drawing_takes", "least", "most"), [(0.01, 40, 80), (1.0, 2, 5)])
def test_drawing_takes_no_more_than_a_twentieth_of_the_time(monkeypatch, drawing_takes, least, most):
    clock, shown = [1000.0], {"line": 0, "picture": 0}

    class Shown:
        def __init__(self, kind: str) -> None:
            self.kind = kind
            self.update(None)

        def update(self, what, raw: bool = False) -> None:
            shown[self.kind] += 1
            clock[0] += drawing_takes * (self.kind == "picture")

    monkeypatch.setattr(run_plots.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(run_plots, "training_figure", lambda rows, total, band: "figure")
    monkeypatch.setattr(IPython.display, "display", lambda what, **how: Shown("line" if "raw" in how else "picture"))
    curves = LiveCurves(every=1.0)
    for step in range(1, 81):
        clock[0] += 1.0
        curves(RunStatus("x", "running", updates=80, rows=[ROWS[0] | {"step": step}]))
    assert shown["line"] >= 40, "what costs nothing goes on"
    assert least <= shown["picture"] <= most
    before = shown["picture"]
    curves(RunStatus("x", "complete", updates=80, rows=[ROWS[0] | {"step": 80}]))
    assert shown["picture"] == before + 1, "the end is always drawn"
    words = LiveCurves(pictures=False)
    words(RunStatus("x", "complete", rows=ROWS))
    assert shown["picture"] == before + 1


def test_the_band_belongs_to_the_unchanged_laptop_run_on_the_sample_alone(monkeypatch, tmp_path):
    monkeypatch.setenv("MINIMIND_OUT", str(tmp_path))
    usual = {"profile": "laptop", "device": "cpu", "out_dir": str(tmp_path)}
    band = run_plots.reference_band(plan_run(**usual))
    assert band.shape[1] == 3 and (band[:, 1] < band[:, 2]).all() and (band[1:, 0] > band[:-1, 0]).all()
    assert band[-1, 0] == plan_run(**usual).updates
    for change in ({"recipe": "seed"}, {"epochs": 3}, {"n_layers": 2}, {"learning_rate": 1e-4}, {"batch_size": 4}):
        assert run_plots.reference_band(plan_run(**usual, **change)) is None


def test_the_share_inside_the_band_counts_updates():
    band = np.array([[0, 1.0, 3.0], [10, 1.0, 3.0]])
    rows = [{"step": step, "loss": 2.0 if step < 6 else 2e9} for step in range(1, 11)]
    assert run_plots.share_inside(rows, band) == 0.5
    drawn = training_figure(ROWS, band=band)
    assert drawn.axes[0].collections, "the band is drawn"
