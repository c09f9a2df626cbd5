"""Lessons 04 and 05: every check on the right answer, the stub and the usual wrong answers; pictures and widgets."""

from __future__ import annotations

import math
import re
from contextlib import nullcontext

import pytest
import torch
from conftest import drawn

pytest.importorskip("matplotlib")
widgets = pytest.importorskip("ipywidgets")
nbformat = pytest.importorskip("nbformat")

from matplotlib import pyplot as plt  # noqa: E402

from minimind_core import Hooks, get_lr, make_scaler, masked_cross_entropy, train_epoch  # noqa: E402
from minimind_core.checks import clipping  # noqa: E402
from minimind_core.checks import precision as checks_05  # noqa: E402
from minimind_core.checks import schedule as checks_04  # noqa: E402
from minimind_core.lessons import LESSONS  # noqa: E402
from minimind_core.plots import precision as plots_05  # noqa: E402
from minimind_core.plots import schedule as plots_04  # noqa: E402
from minimind_core.schedule import cosine  # noqa: E402
from minimind_core.widgets import precision as widgets_05  # noqa: E402
from minimind_core.widgets import schedule as widgets_04  # noqa: E402


def stub(*_):
    """An exercise as the notebook leaves it."""


def raises(*_):
    raise IndexError("list index out of range")


ALL_CHECKS = (
    checks_04.check_half_cosine,
    checks_04.check_half_step,
    checks_04.check_warmup_cosine,
    checks_04.check_update_rates,
    checks_05.check_divisor,
    checks_05.check_window_gradient,
    checks_05.check_update,
)


@pytest.mark.parametrize("check", ALL_CHECKS, ids=lambda check: check.__name__)
def test_stubs_are_open_and_errors_are_named(check):
    for unanswered in (stub, None, ...):
        verdict = check(unanswered)
        assert verdict.ok is None and "not answered yet" in repr(verdict)
    verdict = check(raises)
    assert verdict.ok is False and "IndexError" in repr(verdict)


@pytest.mark.parametrize("check", ALL_CHECKS[:5], ids=lambda check: check.__name__)
def test_answers_that_are_no_numbers_are_refused(check):
    assert check(lambda *_: "soon").ok is False


SOLUTIONS = {
    "my_rate": checks_04.check_half_cosine,
    "my_half_step": checks_04.check_half_step,
    "my_schedule": checks_04.check_warmup_cosine,
    "my_update_rates": checks_04.check_update_rates,
    "my_layer_factor": checks_04.check_layer_factor,
    "my_divisor": checks_05.check_divisor,
    "my_window_gradient": checks_05.check_window_gradient,
    "my_clip": clipping.check_clip,
    "my_update": checks_05.check_update,
}


def test_every_folded_solution_passes_its_check():
    found = {}
    for lesson in LESSONS[3:5]:
        for cell in nbformat.read(lesson.path, as_version=4).cells:
            for code in re.findall(r"```python\n(def my_.*?)```", cell.source, re.DOTALL):
                given = {"math": math, "torch": torch, "get_lr": get_lr, "masked_cross_entropy": masked_cross_entropy}
                exec(code, given)
                name = re.match(r"def (\w+)", code).group(1)
                found[name] = given[name]
    assert set(found) == set(SOLUTIONS)
    for name, answer in found.items():
        assert SOLUTIONS[name](answer), (name, SOLUTIONS[name](answer))


# --- lesson 04 ---------------------------------------------------------------------------------------------------


def wave(share, start, end, height=0.5, turn=math.pi):
    return end + height * (start - end) * (1 + math.cos(turn * share))


WRONG_RATES = {
    "`end` is missing": lambda s, t, a, b: wave(s / t, a, b) - b,
    "begins at start + end": lambda s, t, a, b: b + wave(s / t, a, 0),
    "0.5 is missing": lambda s, t, a, b: wave(s / t, a, b, height=1),
    "π is missing": lambda s, t, a, b: wave(s / t, a, b, turn=1),
    "whole turn": lambda s, t, a, b: wave(s / t, a, b, turn=2 * math.pi),
    "radians": lambda s, t, a, b: wave(s / t, a, b, turn=180),
    "//": lambda s, t, a, b: wave(s // t, a, b),
    "the other way round": lambda s, t, a, b: wave(1 - s / t, a, b),
    "straight line": lambda s, t, a, b: a + (b - a) * s / t,
    "only the wave counts": lambda s, t, a, b: wave(s / t, a, 0),
    "no abs": lambda s, t, a, b: b + abs(wave(s / t, a, b) - b),
    "rise as well": lambda s, t, a, b: wave(s / t, max(a, b), min(a, b)),
    "the rate is": lambda s, t, a, b: 2 * a,
}


def test_a_half_cosine_is_right_and_leads_where_the_seeds_rate_and_the_cosine_do():
    verdict = checks_04.check_half_cosine(lambda s, t, a, b: wave(s / t, a, b))
    assert verdict and "0.000050002277" in repr(verdict)
    for step in (0, 17, 100):
        assert checks_04.half_cosine(step, 100, 1.1, 0.1) == pytest.approx(get_lr(step, 100, 1.0))
        assert checks_04.half_cosine(step, 100, 1.0, 0.1) == pytest.approx(cosine(step, 100, 1.0))


@pytest.mark.parametrize("words", WRONG_RATES)
def test_wrong_rates_are_recognised(words):
    verdict = checks_04.check_half_cosine(WRONG_RATES[words])
    assert verdict.ok is False and words in verdict.message


def right_half(total, lr):
    return math.ceil(total * math.acos(-0.1) / math.pi)


WRONG_HALVES = {
    "middle of the run": lambda total, lr: total // 2,
    "half of `lr`": lambda total, lr: math.ceil(total * math.acos(-0.2) / math.pi),
    "too early": lambda total, lr: right_half(total, lr) - 1,
    "too late": lambda total, lr: right_half(total, lr) + 1,
    "counts updates": lambda total, lr: right_half(total, lr) // 8,
    "Round up": lambda total, lr: total * math.acos(-0.1) / math.pi,
    "looked for": lambda total, lr: total // 3,
}


def test_the_half_is_right():
    assert checks_04.check_half_step(right_half)
    assert checks_04.check_half_step(checks_04.half_step)


@pytest.mark.parametrize("words", WRONG_HALVES)
def test_wrong_halves_are_recognised(words):
    verdict = checks_04.check_half_step(WRONG_HALVES[words])
    assert verdict.ok is False and words in verdict.message


def factor(step, warmup):
    return min(1, (step + 1) / warmup) if warmup else 1


WRONG_WARMUPS = {
    "no warm-up": lambda s, t, lr, w: cosine(s, t, lr),
    "step 0 gets the rate 0": lambda s, t, lr, w: cosine(s, t, lr) * min(1, s / w),
    "goes on rising": lambda s, t, lr, w: cosine(s, t, lr) * (s + 1) / w,
    "starts above lr": lambda s, t, lr, w: get_lr(s, t, lr) * factor(s, w),
    "ends at 0": lambda s, t, lr, w: wave(s / t, lr, 0) * factor(s, w),
    "begins behind": lambda s, t, lr, w: lr * (s + 1) / w if s < w else cosine(s - w, t - w, lr),
    "divides by it": lambda s, t, lr, w: cosine(s, t, lr) * min(1, (s + 1) / w),
    "the factor is 1": lambda s, t, lr, w: cosine(s, t, lr) * (factor(s, w) if w else 0),
    "at step 0": lambda s, t, lr, w: 3.0,
}


def test_cosine_with_warm_up_is_right():
    assert checks_04.check_warmup_cosine(lambda s, t, lr, w: cosine(s, t, lr) * factor(s, w))


@pytest.mark.parametrize("words", WRONG_WARMUPS)
def test_wrong_warm_ups_are_recognised(words):
    verdict = checks_04.check_warmup_cosine(WRONG_WARMUPS[words])
    assert verdict.ok is False and words in verdict.message


def closing(micro_steps, accumulation, whole_only=False):
    return [
        step
        for step in range(micro_steps)
        if (step + 1) % accumulation == 0 or (step + 1 == micro_steps and not whole_only)
    ]


def theirs(m, n, lr, keep_last=False):
    return [get_lr(i, m, lr) for i in range(len(closing(m, n, not keep_last)))]


WRONG_UPDATE_RATES = {
    "still the mistake": theirs,
    "only an eighth": lambda m, n, lr: theirs(m, n, lr, keep_last=True),
    "nearly right": lambda m, n, lr: [get_lr(i, -(-m // n), lr) for i in range(-(-m // n))],
    "count both in updates": lambda m, n, lr: [get_lr(i, m // n, lr) for i in range(m // n)],
    "both in updates": lambda m, n, lr: [get_lr(i, m // n, lr) for i in range(-(-m // n))],
    "counted from 1": lambda m, n, lr: [get_lr(i + 1, -(-m // n), lr) for i in range(-(-m // n))],
    "first micro-step": lambda m, n, lr: [get_lr(step, m, lr) for step in range(0, m, n)],
    "too far": lambda m, n, lr: [get_lr(step + 1, m, lr) for step in closing(m, n)],
    "last update is missing": lambda m, n, lr: [get_lr(step, m, lr) for step in closing(m, n, whole_only=True)],
    "one rate per micro-step": lambda m, n, lr: [get_lr(step, m, lr) for step in range(m)],
    "your list has": lambda m, n, lr: [lr],
    "uses the rate": lambda m, n, lr: [lr for _ in closing(m, n)],
}


def test_rates_of_updates_are_right():
    assert checks_04.check_update_rates(checks_04.update_rates)
    hooks = Hooks(163, lr=5e-4, accumulation_steps=8)
    used = [hooks.learning_rate(0, step) for step in range(163) if hooks.closes_window(step)]
    assert checks_04.check_update_rates(lambda *_: used)


@pytest.mark.parametrize("words", WRONG_UPDATE_RATES)
def test_wrong_update_rates_are_recognised(words):
    verdict = checks_04.check_update_rates(WRONG_UPDATE_RATES[words])
    assert verdict.ok is False and words in verdict.message


def test_the_rate_reader_says_the_seeds_line():
    assert "lr:0.000050002277" in widgets_04.rate_words(44100, 44160, 5e-4)
    assert "update 5,520 of 5,520" in widgets_04.rate_words(44159, 44160, 5e-4)
    reader = widgets_04.rate_reader()
    fields, page = reader.children
    assert "0.000050002277" in page.value
    fields.children[0].value = 0
    assert "0.000550000000" in page.value and "1.1000 · lr" in page.value
    fields.children[1].value = 100  # a shorter run takes the step along
    fields.children[0].value = 100
    assert "0.1000 · lr" in page.value


def test_the_designer_redraws_once_per_change_and_keeps_no_figure():
    plt.close("all")
    designer = widgets_04.schedule_designer(total=960)
    controls, picture, words = designer.children
    before = bytes(picture.value)
    assert before.startswith(b"\x89PNG") and "highest" in words.value
    drawn = []
    picture.observe(drawn.append, "value")
    shape, _, share, _ = controls.children
    shape.value = "constant"
    share.value = 0
    assert len(drawn) == 2 and bytes(picture.value) != before
    assert "1.00 of the peak" in words.value
    assert not plt.get_fignums(), "figures must be closed, or a notebook shows them twice"


def test_design_words_leave_out_the_step_behind_the_end():
    assert "0.55 of the peak" in widgets_04.design_words("linear", 1.0, 1000, 0)
    assert "first    0.1\n" in widgets_04.design_words("constant", 1.0, 1000, 10)


def little_hooks(steps=12):
    hooks = Hooks(steps, accumulation_steps=1)
    hooks.losses, hooks.lrs = [5.0 - i / 10 for i in range(steps)], [1e-3] * steps
    return hooks


FIGURES_04 = {
    "moves": lambda: plots_04.moves(torch.randn(50), torch.full((50,), 5e-4), 5e-4),
    "one_update": lambda: plots_04.one_update([1e-4, 1e-2, 1.0], [6.7, 6.0, 90.0], 6.8),
    "seed_curve": lambda: plots_04.seed_curve(44160, 5e-4, marks=(0, 44100)),
    "micro_steps": lambda: plots_04.micro_steps_and_updates(19, 8, 5e-4),
    "shapes": lambda: plots_04.shapes(400, 1.0, 20),
    "design": lambda: plots_04.design("wsd", 5e-4, 1000, 0),
    "runs": lambda: plots_04.runs({"a": little_hooks(), "b": little_hooks()}, "two", True, 6.0, 5.5),
    "sweep": lambda: plots_04.sweep([1e-4, 1e-3, 1e-2], [6.8, 6.0, 9.0], {"best": 1e-3}),
    "rates": lambda: plots_04.rates_of_updates({"a": [1.0, 0.5], "b": [1.0, 0.9]}, "two"),
}
HISTORY = [{"scale": 2.0**16, "skipped": i == 1, "loss": 6.0 - i} for i in range(4)]
FIGURES_05 = {
    "ranges": lambda: plots_05.ranges(torch.randn(500) * 1e-3),
    "underflow": lambda: plots_05.underflow({"weights": torch.randn(500) * 1e-7}, [1.0, 65536.0]),
    "scaler_life": lambda: plots_05.scaler_life(HISTORY),
    "equal_gradients": lambda: plots_05.equal_gradients({"equal": (torch.randn(50), torch.randn(50))}),
    "windows": lambda: plots_05.windows(21, 8),
    "clipping": lambda: plots_05.clipping([0.5, 3.0, 1.2], 1.0),
    "memory": lambda: plots_05.memory({"a": {"weights": 4e8, "moments": 8e8}, "b": {"weights": 4e8, "moments": 8e8}}),
}
FIGURES = FIGURES_04 | FIGURES_05


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_drawn_without_a_warning_and_closed(name):
    figure = drawn(FIGURES[name])
    assert widgets_04.png(figure).startswith(b"\x89PNG")
    for axes in figure.axes:
        assert axes.get_title(loc="left") or axes.get_title() or axes.get_ylabel(), "every panel says what it shows"


def test_smoothing_takes_the_mean_of_what_is_there():
    assert plots_04.smoothed([1, 2, 3, 4], 2).tolist() == [1.0, 1.5, 2.5, 3.5]
    assert plots_04.steps_to_draw(7).tolist() == list(range(8))
    assert plots_04.steps_to_draw(10**6)[-1] == 10**6 and len(plots_04.steps_to_draw(10**6)) <= 601


# --- lesson 05 ---------------------------------------------------------------------------------------------------


def window(step, n, total):
    return Hooks(total, accumulation_steps=n).window(step)


WRONG_DIVISORS = {
    "every window but the last": lambda step, n, total: n,
    "no division at all": lambda step, n, total: 1,
    "*every* micro-step": lambda step, n, total: total % n or n,
    "remainder is 0": lambda step, n, total: total % n if step // n == -(-total // n) - 1 else n,
    "added up so far": lambda step, n, total: step % n + 1,
    "all that is left": lambda step, n, total: total % n if step == total - 1 and total % n else n,
    "the divisor is": lambda step, n, total: n + 1,
    "whole number": lambda step, n, total: n / 3,
}


def test_divisors_are_right():
    assert checks_05.check_divisor(window)


@pytest.mark.parametrize("words", WRONG_DIVISORS)
def test_wrong_divisors_are_recognised(words):
    verdict = checks_05.check_divisor(WRONG_DIVISORS[words])
    assert verdict.ok is False and words in verdict.message


def accumulate(divide, clear=False, returns="tokens"):
    """An answer to exercise 2 that turns each loss (summed over its tokens) into `divide(sum, own, all, n)`."""

    def answer(model, batches):
        every = sum(int(mask.sum()) for *_, mask in batches)
        for X, Y, mask in batches:
            if clear:
                model.zero_grad()
            total = masked_cross_entropy(model(X).logits, Y, mask, total=torch.tensor(1))
            divide(total, mask, every, len(batches)).backward()
        return {"tokens": every, "nothing": None, "batches": len(batches)}[returns]

    return answer


def right_division(loss, mask, every, n):
    return loss / every


WRONG_GRADIENTS = {
    "isn't divided at all": accumulate(lambda loss, mask, every, n: loss),
    "not divided by the number of micro-batches": accumulate(lambda loss, mask, every, n: loss / mask.sum()),
    "mean of means": accumulate(lambda loss, mask, every, n: loss / mask.sum() / n),
    "padding included": accumulate(lambda loss, mask, every, n: loss / (mask.numel() * n)),
    "a sum divided by": accumulate(lambda loss, mask, every, n: loss / n),
    "divided twice": accumulate(lambda loss, mask, every, n: loss / every / n),
    "only the last micro-batch is left": accumulate(lambda loss, mask, every, n: loss / mask.sum(), clear=True),
    "divided by 3": accumulate(lambda loss, mask, every, n: loss / mask.sum() / n, clear=True),
    "tokens of all, is right": accumulate(right_division, clear=True),
    "measured along": accumulate(lambda loss, mask, every, n: loss * 0.3),
    "return the number": accumulate(right_division, returns="nothing"),
    "the gradient is right": accumulate(right_division, returns="batches"),
}


def test_accumulated_gradients_are_right():
    assert checks_05.check_window_gradient(accumulate(right_division))


@pytest.mark.parametrize("words", WRONG_GRADIENTS)
def test_wrong_gradients_are_recognised(words):
    verdict = checks_05.check_window_gradient(WRONG_GRADIENTS[words])
    assert verdict.ok is False and words in verdict.message


def test_a_missing_backward_is_recognised():
    assert "no gradient" in checks_05.check_window_gradient(lambda model, batches: 3).message

    def half(model, batches):
        model.norm.weight.sum().backward()
        return 40

    assert "some parameters" in checks_05.check_window_gradient(half).message


def update(order="scale unscale clip step update zero", divisor=len, clear_inside=False, returns="norm"):
    """An answer to exercise 3 that does the named things in the named order."""

    def answer(model, optimizer, scaler, batches, grad_clip):
        for X, Y, mask in batches:
            if clear_inside:
                optimizer.zero_grad()
            loss = masked_cross_entropy(model(X).logits, Y, mask) / divisor(batches)
            (scaler.scale(loss) if "scale" in order.split() else loss).backward()
        norm = None
        for word in order.split():
            if word == "unscale":
                scaler.unscale_(optimizer)
            elif word == "clip":
                norm = torch.nn.utils.clip_grad_norm_(model.parameters(), grad_clip)
            elif word == "step":
                scaler.step(optimizer)
            elif word == "plain_step":
                optimizer.step()
            elif word == "update":
                scaler.update()
            elif word in ("zero", "zeros"):
                optimizer.zero_grad(set_to_none=word == "zero")
        return {"norm": norm, "nothing": None, "one": 1.0}[returns]

    return answer


def step_each_time(model, optimizer, scaler, batches, grad_clip):
    norms = [update(divisor=lambda b: len(batches))(model, optimizer, scaler, [batch], grad_clip) for batch in batches]
    return norms[-1]


WRONG_UPDATES = {
    "clipped before unscaling": update("scale clip unscale step update zero"),
    "unscale_(optimizer) is missing": update("scale clip step update zero"),
    "not divided by the number": update(divisor=lambda b: 1),
    "divided by 8": update(divisor=lambda b: 8),
    "inside the loop": update(clear_inside=True),
    "and it isn't divided": update(clear_inside=True, divisor=lambda b: 1),
    "not clipped": update("scale unscale step update zero", returns="one"),
    "stands before scaler.step": update("scale unscale clip update step zero"),
    "scaler.update() is missing": update("scale unscale clip step zero"),
    "still there": update("scale unscale clip step update"),
    "isn't scaled": update("unscale clip step update zero"),
    "stepped once per": step_each_time,
    "still scaled": update("scale clip plain_step update zero"),
    "took no part": update("clip plain_step zero"),
    "zero_grad belongs behind": update("scale zero unscale clip step update"),
    "no weight has moved": update("scale unscale clip zero step update"),
    "return the norm": update(returns="nothing"),
    "before clipping": update(returns="one"),
    "long, it should be": update(divisor=lambda b: 0.7),
}


def test_one_update_is_right():
    assert checks_05.check_update(update())
    verdict = checks_05.check_update(update("scale unscale clip step update zeros"))
    assert verdict and "set_to_none" in verdict.message


@pytest.mark.parametrize("words", WRONG_UPDATES)
def test_wrong_updates_are_recognised(words):
    verdict = checks_05.check_update(WRONG_UPDATES[words])
    assert verdict.ok is False and words in verdict.message, verdict


@pytest.mark.parametrize(
    ("value", "name", "kept"),
    [
        (1.0, "float16", 1.0),
        (257.0, "bfloat16", 256.0),
        (257.0, "float16", 257.0),
        (65519.0, "float16", 65504.0),
        (65520.0, "float16", math.inf),
        (1e-8, "float16", 0.0),
        (2.0**-24, "float16", 2.0**-24),
        (1e-8, "bfloat16", torch.tensor(1e-8).bfloat16().item()),
    ],
)
def test_formats_keep_what_torch_says(value, name, kept):
    assert widgets_05.stored(value, name)[0] == kept


def test_bits_are_those_of_the_standard():
    assert widgets_05.stored(1.0, "float16")[1] == "0" + "01111" + "0" * 10
    assert widgets_05.stored(-2.0, "bfloat16")[1] == "1" + "10000000" + "0" * 7
    assert widgets_05.stored(1.0, "float32")[1] == "0" + "01111111" + "0" * 23


def test_lost_counts_what_float16_loses():
    values = torch.tensor([0.0, 2.0**-26, 2.0**-25, 2.0**-24, 1.0, 70000.0])
    zero, infinite = plots_05.lost(values, 1.0)
    halves = values[1:].half()
    assert zero == pytest.approx((halves == 0).float().mean().item())
    assert infinite == pytest.approx(halves.isinf().float().mean().item())
    assert plots_05.lost(values, 2.0**4)[0] == 0


def test_the_number_inspector_reads_shows_and_complains():
    box = widgets_05.number_inspector()
    row, page = box.children
    field, button = row.children[0], row.children[4]
    assert "0.0999755859" in page.value
    button.click()
    assert field.value == "65520" and "too large" in page.value
    field.value = "<b>"
    assert "not understood" in page.value and "&lt;b&gt;" in page.value
    assert widgets_05.read_number("2^-24") == widgets_05.read_number("2**-24") == 2.0**-24
    for text in ("", "inf", "nan", "0**-1", "(-8)**0.5", "-8**0.5"):
        with pytest.raises(ValueError, match="not understood"):
            widgets_05.read_number(text)


def test_the_scale_slider_says_what_is_lost():
    plt.close("all")
    groups = {"weights": torch.full((10,), 2.0**-30), "scores": torch.full((10,), 1.0)}
    box = widgets_05.scale_slider(groups)
    slider, picture, words = box.children
    assert "weights: 100.00% become 0" in words.value and bytes(picture.value).startswith(b"\x89PNG")
    slider.value = 20
    assert "weights: 0.00% become 0" in words.value and "one inf is enough" in words.value
    assert not plt.get_fignums()
    assert len(widgets_05.thinned(torch.arange(1000.0), 10)) == 10


def test_the_device_table_follows_pick_dtype():
    html = plots_05.device_table().data
    turing = html[html.index("T4") :]
    assert turing.count("float16 + scaler") == 4, "a GPU without bfloat16 falls back to float16 and its scaler"
    without = html[html.index("a CPU without") : html.index("GPU, RTX")]
    assert without.count("float32") == 4
    ada = html[html.index("RTX 4090") : html.index("T4")]
    assert ada.count("float16 + scaler") == 2 and ada.count(">bfloat16<") == 2


def test_the_listing_shows_every_line_of_the_loop():
    notes = plots_05.LOOP_NOTES
    html = plots_05.listing(train_epoch, notes)
    assert "scaler.unscale_(optimizer)" in html.data and notes[-1] in html.data and "Starts at" not in html.data
    with pytest.raises(ValueError, match="pieces"):
        plots_05.listing(train_epoch, notes[:-1])


def test_the_loops_gradient_is_that_of_a_mean_of_means():
    """What lesson 05 says of the loop: equal counts give the big batch's gradient, unequal ones do not."""
    for lengths, equal in ((((6, 6), (6, 6)), True), (((12, 11), (2, 1)), False)):
        batches = checks_05.batches_of(lengths)
        big = checks_05.small_model()
        X, Y, mask = (torch.cat(parts) for parts in zip(*batches, strict=True))
        masked_cross_entropy(big(X).logits, Y, mask).backward()
        model, seen = checks_05.small_model(), []
        hooks = Hooks(2, accumulation_steps=8, grad_clip=1e9)
        hooks.before_update = lambda *_, model=model, seen=seen: seen.append(checks_05.flat_gradient(model).clone())
        cpu = torch.device("cpu")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        train_epoch(0, model, batches, optimizer, make_scaler(cpu, torch.float32), nullcontext(), hooks)
        wanted = checks_05.flat_gradient(big)
        distance = ((seen[0] - wanted).norm() / wanted.norm()).item()
        assert (distance < 1e-5) == equal
