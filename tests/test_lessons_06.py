"""Lesson 06: its checks name every typical wrong answer, its curves draw what the metrics say."""

from __future__ import annotations

import copy
from functools import partial

import IPython.display
import numpy as np
import pytest
import torch

from minimind_core import plan_run
from minimind_core.checks.run import check_cost, check_lost_share, check_resume, check_snapshot, lost_share
from minimind_core.plots import run as run_plots
from minimind_core.plots.run import LiveCurves, smoothed, training_figure
from minimind_core.run_status import RunStatus


def look_of(rows):
    return {row["step"]: row["held_out_loss"] for row in rows if "held_out_loss" in row}


def judged(rows, kept):
    return [at for at in kept if at in look_of(rows)]


@pytest.mark.parametrize("check", [check_cost, check_snapshot, check_lost_share])
def test_a_stub_is_not_an_error(check):
    assert check(lambda *a, **k: None).ok is None


@pytest.mark.parametrize(
    ("check", "answer", "said"),
    [
        (check_cost, lambda t, s, p: t / s * p, "3600"),
        (check_cost, lambda t, s, p: t / s / 60 * p, "minutes"),
        (check_cost, lambda t, s, p: 1.0, "yours is 1.0"),
        (check_cost, lambda t, s, p: "1", "a str"),
        (check_snapshot, lambda rows, kept: min(look_of(rows), key=look_of(rows).get), "no weights were kept"),
        (check_snapshot, lambda rows, kept: min(kept, key=lambda at: (abs(at - 30), -at)), "nearest"),
        (check_snapshot, lambda rows, kept: kept[-1], "last one"),
        (check_snapshot, lambda rows, kept: max(at for at in kept if at <= 30), "not always the best"),
        (check_snapshot, lambda rows, kept: min(kept), "first one"),
        (check_snapshot, lambda rows, kept: kept.index(10), "position"),
        (check_snapshot, lambda rows, kept: min(kept, key=look_of(rows).get), "leave out those without a look"),
        (check_snapshot, lambda rows, kept: min(kept, key=lambda at: look_of(rows)[at]), "not judged at each update"),
        (check_snapshot, lambda rows, kept: min(kept, key=lambda at: look_of(rows).get(at, 0)), "no look was made"),
        (check_snapshot, lambda rows, kept: min(look_of(rows)[at] for at in judged(rows, kept)), "that is the loss"),
        (check_snapshot, lambda rows, kept: 1 / 0, "ZeroDivisionError"),
        (check_snapshot, lambda rows, kept: 20, "yours is 20"),
        (check_snapshot, lambda rows, kept: [10], "a list"),
        (check_lost_share, lambda i, u, s, h: s / (i * u), "what a kill takes is missing"),
        (check_lost_share, lambda i, u, s, h: i * u / 2 / 3600 / h, "saving is missing"),
        (check_lost_share, lambda i, u, s, h: s / (i * u) + i * u / 3600 / h, "at any moment"),
        (check_lost_share, lambda i, u, s, h: s / (i * u) + i * u / 2 / h, "3600"),
        (check_lost_share, lambda i, u, s, h: s / (i * u) + 1.5 * i * u / 3600 / h, "one interval is too many"),
        (check_lost_share, lambda i, u, s, h: s / i + i / 2 / 3600 / h, "counts updates"),
        (check_lost_share, lambda i, u, s, h: 100 * lost_share(i, u, s, h), "per cent"),
        (check_lost_share, lambda i, u, s, h: i * u * lost_share(i, u, s, h), "seconds for each interval"),
        (check_lost_share, lambda i, u, s, h: s / (i * u + s) + i * u / 7200 / h, "saving is not training"),
        (check_lost_share, lambda i, u, s, h: (s + (i * u) ** 2 / 7200 / h) / (i * u + s), "without the save"),
        (check_lost_share, lambda i, u, s, h: s / (i * u) + (i * u + s) / 7200 / h, "to first order"),
        (check_lost_share, lambda i, u, s, h: 0.5, "yours is 0.5"),
        (check_lost_share, lambda i, u, s, h: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_typical_wrong_answers_are_recognised(check, answer, said):
    verdict = check(answer)
    assert verdict.ok is False and said in verdict.message


def test_right_answers_are_right():
    assert check_cost(lambda t, s, p: t / s / 3600 * p)
    assert check_snapshot(lambda rows, kept: min(judged(rows, kept), key=look_of(rows).get))
    assert check_snapshot(lambda rows, kept: min(kept, key=lambda at: look_of(rows).get(at, 99)))
    assert "every 520 updates" in check_lost_share(lost_share).message


def test_the_best_interval_that_the_check_names_is_the_best():
    shares = {interval: lost_share(interval, 0.4, 3.0, 2.0) for interval in range(1, 3000)}
    assert min(shares, key=shares.get) == 520


def save(model, optimizer, generator, update):
    kept = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    return copy.deepcopy(kept | {"generator": generator.get_state(), "update": update})


def load(state, model, optimizer, generator, without=()):
    if "model" not in without:
        model.load_state_dict(state["model"])
    if "optimizer" not in without:
        optimizer.load_state_dict(state["optimizer"])
    if "generator" not in without:
        generator.set_state(state["generator"])
    return None if "update" in without else state["update"]


def uncopied(*parts):
    def saves(model, optimizer, generator, update):
        state = save(model, optimizer, generator, update)
        return state | {name: {"model": model, "optimizer": optimizer}[name].state_dict() for name in parts}

    return saves


def careless(model, optimizer, generator, update):
    torch.rand(1, generator=generator)
    return save(model, optimizer, generator, update)


def other_decay(state, model, optimizer, generator):
    done = load(state, model, optimizer, generator)
    optimizer.param_groups[0]["weight_decay"] = 0.9
    return done


@pytest.mark.parametrize(
    ("saves", "loads", "said"),
    [
        (save, partial(load, without=["model"]), "weights did not come back"),
        (save, partial(load, without=["optimizer"]), "running means at zero"),
        (save, partial(load, without=["generator"]), "reads other rows"),
        (save, partial(load, without=["update"]), "how many updates are done"),
        (save, lambda *a: load(*a) + 1, "says 5"),
        (save, lambda *a: 0 * load(*a), "says 0"),
        (save, lambda state, *a: load(state | {"gone": 1}, *a) and 1 / 0, "ZeroDivisionError"),
        (save, other_decay, "other settings"),
        (uncopied("model", "optimizer"), load, "weights are those of the moment it died"),
        (uncopied("optimizer"), load, "optimizer's means are those of the moment it died"),
        (lambda *a: list(save(*a)), load, "a list"),
        (lambda *a: 1 / 0, load, "ZeroDivisionError"),
        (careless, load, "my_save changed the run"),
    ],
)
def test_a_state_that_holds_too_little_is_told_what_is_missing(saves, loads, said):
    verdict = check_resume(saves, loads)
    assert verdict.ok is False and said in verdict.message


def test_a_whole_state_resumes_to_the_same_bits():
    assert check_resume(save, load)
    assert check_resume(lambda *a: None, load).ok is None


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
