"""Lesson 04, the little runs: parameter groups' exercise, further wrong answers, and pictures of what runs leave."""

from __future__ import annotations

import math
import re

import pytest
import torch
from conftest import drawn

pytest.importorskip("matplotlib")
pytest.importorskip("ipywidgets")
nbformat = pytest.importorskip("nbformat")


from minimind_core import Hooks  # noqa: E402
from minimind_core.checks import schedule as checks  # noqa: E402
from minimind_core.lessons import LESSONS  # noqa: E402
from minimind_core.plots import schedule as plots  # noqa: E402
from minimind_core.plots import schedule_runs  # noqa: E402
from minimind_core.schedule import cosine  # noqa: E402
from minimind_core.widgets.schedule import design_words, schedule_designer  # noqa: E402

CELLS = nbformat.read(LESSONS[3].path, as_version=4).cells
CODE = [cell.source for cell in CELLS if cell.cell_type == "code"]
PROSE = [cell.source for cell in CELLS if cell.cell_type == "markdown"]


# --- exercise 5 --------------------------------------------------------------------------------------------------


def block(name):
    return int(name.split(".")[1])


def factor(inside, embedding=lambda n, d: d**n, last=lambda n, d: 1.0):
    """An answer to exercise 5 that takes `inside(name, n_layers, decay)` for parameters of blocks."""

    def answer(name, n_layers, decay):
        if name.startswith("layers."):
            return inside(name, n_layers, decay)
        return (embedding if name.startswith("tok_embeddings") else last)(n_layers, decay)

    return answer


def right(name, n, d):
    return d ** (n - 1 - block(name))


def found_by_searching(name, n, d):
    return next(d ** (n - 1 - i) for i in range(n) if f"layers.{i}" in name)


WRONG_FACTORS = {
    "all blocks get 1": factor(lambda name, n, d: 1),
    "one factor": factor(lambda name, n, d: d),
    "upside down": factor(lambda name, n, d: d ** block(name)),
    "one too far": factor(lambda name, n, d: d ** (n - block(name))),
    "multiplied": factor(lambda name, n, d: d * (n - 1 - block(name))),
    "two digits": factor(lambda name, n, d: d ** (n - 1 - int(name[7]))),
    "count as block 1": factor(found_by_searching),
    "belongs to its block": factor(lambda name, n, d: 1.0 if "norm" in name else right(name, n, d)),
    "one higher": factor(right, embedding=lambda n, d: d ** (n - 1)),
    "the embedding gets 1": factor(right, embedding=lambda n, d: 1),
    "behind the last block": factor(right, last=lambda n, d: d**n),
    "yours is": factor(lambda name, n, d: 0.3),
    "tok_embeddings.weight of 12": factor(right, embedding=lambda n, d: 0.0),
}


def test_layer_factors_are_right():
    assert checks.check_layer_factor(factor(right))
    assert checks.check_layer_factor(checks.layer_factor)
    for unanswered in (lambda *_: None, None, ...):
        assert checks.check_layer_factor(unanswered).ok is None
    assert "IndexError" in repr(checks.check_layer_factor(lambda name, n, d: d ** int(name.split(".")[9])))
    assert checks.check_layer_factor(lambda *_: "soon").ok is False


@pytest.mark.parametrize("words", WRONG_FACTORS)
def test_wrong_layer_factors_are_recognised(words):
    verdict = checks.check_layer_factor(WRONG_FACTORS[words])
    assert verdict.ok is False and words in verdict.message, verdict


# --- more wrong answers to exercises 1 to 3 ----------------------------------------------------------------------


def warm(step, warmup):
    return min(1, (step + 1) / warmup) if warmup else 1


WRONG_WARMUPS = {
    "one step late": lambda s, t, lr, w: cosine(s, t, lr) * min(1, (s + 1) / (w + 1)),
    "the factor is (step + 1)": lambda s, t, lr, w: cosine(s, t, lr) * min(1, s / (w - 1)),
    "cuts your factor": lambda s, t, lr, w: cosine(s, t, lr) * min(1, (s + 1) // w),
    "radians": lambda s, t, lr, w: lr * (0.1 + 0.45 * (1 + math.cos(180 * s / t))) * warm(s, w),
    "cuts step/total": lambda s, t, lr, w: lr * (0.1 + 0.45 * (1 + math.cos(math.pi * (s // t)))) * warm(s, w),
}


@pytest.mark.parametrize("words", WRONG_WARMUPS)
def test_more_wrong_warm_ups_are_recognised(words):
    verdict = checks.check_warmup_cosine(WRONG_WARMUPS[words])
    assert verdict.ok is False and words in verdict.message, verdict


def test_more_wrong_halves_are_recognised():
    in_degrees = checks.check_half_step(lambda total, lr: math.ceil(total * math.acos(-0.1) / 180))
    assert in_degrees.ok is False and "acos answers in radians" in in_degrees.message
    cut = checks.check_half_step(lambda total, lr: total * math.acos(-0.1) // math.pi)
    assert cut.ok is False and "too early" in cut.message


# --- pictures and words of single schedules -----------------------------------------------------------------------


def test_values_beyond_the_edge_are_no_plateau():
    axes = plots.one_update([1e-4, 1e-2, 1.0], [6.7, 6.0, 90.0], 6.8).axes[0]
    assert list(axes.lines[0].get_ydata()) == [6.7, 6.0, 90.0] and axes.get_ylim()[1] < 10, "the axis cuts the line"
    assert any(line.get_marker() == "^" for line in axes.lines)
    assert "90.0" in "".join(text.get_text() for text in axes.texts)


def test_curves_that_leave_the_picture_are_noted():
    hooks = little_hooks()
    hooks.losses[2] = 50.0
    words = [
        text.get_text() for text in plots.runs({"a": little_hooks(), "b": hooks}, "two", ceiling=6.0).axes[0].texts
    ]
    assert len(words) == 1 and words[0].startswith("▲ b: up to")
    sweep = plots.sweep([1e-4, 1e-3, 1e-2], [6.8, 6.0, 40.0], {"best": 1e-3}).axes[0]
    assert [text.get_text() for text in sweep.texts] == ["best: 0.001 ", "▲ up to 18"]


def test_the_highest_rate_is_where_warm_up_ends():
    assert "at micro-step 4,415" in design_words("cosine", 5e-4, 44160, 4416)
    for warmup_steps, said in ((200, "one lr, warm-up over 5%"), (0, "one lr, no warm-up")):
        axes = plots.shapes(4000, 1.0, warmup_steps).axes[0]
        assert said in (axes.get_title(loc="left") or axes.get_title())  # wherever the style puts it


# --- what runs leave behind --------------------------------------------------------------------------------------


def little_hooks(steps=12):
    hooks = Hooks(steps, accumulation_steps=1)
    hooks.losses, hooks.lrs, hooks.grad_norms = [5.0 - i / 10 for i in range(steps)], [1e-3] * steps, [1.0] * steps
    return hooks


FIGURES = {
    "first_updates": lambda: schedule_runs.first_updates(
        {f"rate {r}": {"without": little_hooks(), "with": little_hooks()} for r in (1, 2)}, 5
    ),
    "weight_decays": lambda: schedule_runs.weight_decays(
        {"0": little_hooks(), "10": little_hooks()}, {"0": 30.0, "10": 8.0}, 20.0
    ),
    "batch_against_rate": lambda: schedule_runs.batch_against_rate((2, 8), (0.1, 0.2), [[5.0, 5.5], [5.6, 5.4]]),
    "one batch size": lambda: schedule_runs.batch_against_rate((2,), (0.1, 0.2), [[5.0, 5.0]]),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_drawn_without_a_warning_and_closed(name):
    figure = drawn(FIGURES[name])
    assert any(axes.get_title(loc="left") or axes.get_title() for axes in figure.axes)


def test_the_frame_stands_at_each_rows_lowest_loss():
    figure = schedule_runs.batch_against_rate((2, 8), (0.1, 0.2, 0.4), [[5.0, 5.5, 6.0], [5.6, 5.7, 5.4]])
    frames = [(patch.get_x() + 0.46, patch.get_y() + 0.44) for patch in figure.axes[0].patches]
    assert frames == [pytest.approx((0, 0)), pytest.approx((2, 1))]


def test_a_typical_move_is_the_rate_at_first_and_less_where_gradients_disagree():
    weight = torch.nn.Parameter(torch.ones(20))
    idle = torch.nn.Parameter(torch.ones(3))  # has no gradient, thus no state
    optimizer = torch.optim.AdamW([{"params": [weight]}, {"params": [idle]}], lr=0.1, weight_decay=0.5)
    weight.grad = torch.randn(20)
    optimizer.step()
    assert schedule_runs.typical_move(optimizer) == pytest.approx(1, abs=1e-4)
    for sign in (-1, 1) * 20:
        before = weight.detach().clone()
        weight.grad = torch.full((20,), float(sign))
        optimizer.step()
    moved = (weight.detach() - before * (1 - 0.1 * 0.5)).abs().median().item() / 0.1
    assert schedule_runs.typical_move(optimizer) == pytest.approx(moved, rel=1e-3) and moved < 0.3


def test_the_best_rate_lies_where_a_parabola_is_lowest():
    rates = (0.001, 0.01, 0.1)
    assert schedule_runs.best_rate(rates, [6, 5, 6]) == pytest.approx(0.01)
    assert 0.01 < schedule_runs.best_rate(rates, [6.5, 5, 5.5]) < 0.1
    assert schedule_runs.best_rate(rates, [6, 5, 4]) == 0.1, "none below the last: the best one tried"
    assert schedule_runs.best_rate(rates, [5, 6, 5.5]) == 0.001


def test_the_length_is_that_of_matrices_only():
    model = torch.nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3.0, 0.0], [0.0, 4.0]]))
        model.bias.fill_(100)
    assert schedule_runs.length_of_matrices(model) == pytest.approx(5)


# --- the notebook ------------------------------------------------------------------------------------------------


def test_cells_are_short_and_few():
    assert 30 <= len(CELLS) <= 60
    for source in CODE:
        lines = [line for line in source.split("\n") if line.strip()]
        assert len(lines) <= (30 if "class " in source else 18), source


def test_every_exercise_states_its_stars_and_minutes_and_is_checked():
    text = "\n".join(cell.source for cell in CELLS if cell.cell_type == "markdown")
    titles = re.findall(r"^### Exercise (\d) · .+ · (★{1,3}) · \d+ minutes$", text, re.MULTILINE)
    assert [int(number) for number, _ in titles] == [1, 2, 3, 4, 5]
    assert sum(bool(re.search(r"^def my_.+: \.\.\.\n\n\nchecks\.check_\w+\(my_\w+\)$", source)) for source in CODE) == 5
    assert text.count("<summary>Hint</summary>") == text.count("<summary>Solution</summary>") == 5


def test_the_folded_solution_of_exercise_5_is_right_and_half_a_cosine_too():
    text = "\n".join(cell.source for cell in CELLS if cell.cell_type == "markdown")
    given: dict = {}
    exec(re.search(r"```python\n(def my_layer_factor.*?)```", text, re.DOTALL).group(1), given)
    assert checks.check_layer_factor(given["my_layer_factor"])
    assert checks.check_half_cosine(checks.half_cosine)


def test_the_designers_folded_answer_is_what_its_sliders_say():
    """The two means, at the designer's first length and warm-up, and at a peak that its slider can be put to."""
    pattern = r"nearest peak is (\S+), with a warm-up of 5% in both: the means are (\S+) and (\S+)\.\n"
    ((peak, wsd, linear),) = re.findall(pattern, "\n".join(PROSE))
    slider = next(part for part in widgets_of(schedule_designer()) if getattr(part, "description", "") == "peak")
    nearest = 10 ** (slider.min + round((math.log10(float(peak)) - slider.min) / slider.step) * slider.step)
    assert f"{nearest:.1e}" == f"{float(peak):.1e}"
    for name, at, told in (("wsd", 5e-4, wsd), ("linear", nearest, linear)):
        words = design_words(name, at, total=44160, warmup_steps=2208)
        assert float(re.search(r"mean\s+(\S+),", words).group(1)) == float(told), words


def widgets_of(part):
    return [part, *(inner for child in getattr(part, "children", ()) for inner in widgets_of(child))]
