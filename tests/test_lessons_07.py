"""Lesson 07's checks, pictures and widgets: right answers, stubs, the usual mistakes; texts that stop when told to."""

from __future__ import annotations

import math
import os
import re
import threading
import time
from html import escape
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from minimind_core import (
    PROMPTS,
    MiniMindLM,
    ModelConfig,
    continue_text,
    generate,
    generation,
    load_model,
    next_token_logits,
    save_weights,
    train_tokenizer,
)
from minimind_core.checks import sampling as checks
from minimind_core.generation import encode_prompt, keep_top_k, keep_top_p
from minimind_core.plots import loss_parts
from minimind_core.plots import sampling as plots
from minimind_core.runs import list_runs
from minimind_core.tokenizer import pieces

widgets = pytest.importorskip("ipywidgets")

from minimind_core.widgets import continuation as writing  # noqa: E402
from minimind_core.widgets import model_choice, probabilities  # noqa: E402
from minimind_core.widgets import sampling as bars  # noqa: E402
from minimind_core.widgets import writer as writer_07  # noqa: E402

NASTY = '<img src=x onerror="alert(1)"> & </div>'
pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")


@pytest.fixture(autouse=True)
def no_text_is_left(monkeypatch):
    """When a test has ended, so has every thread that writes for it."""
    writers, start = [], writer_07.Writer.start

    def remembered(writer, *args, **settings):
        writers.append(writer)
        start(writer, *args, **settings)

    monkeypatch.setattr(writer_07.Writer, "start", remembered)
    yield
    for writer in writers:
        writer.forget()
        assert writer.wait(10)


@pytest.fixture(scope="module")
def pair():
    """A tiny model with chance weights, and its tokenizer."""
    tokenizer = train_tokenizer([*PROMPTS, "天空是蓝色的，大海也是蓝色的。"] * 3, 300)
    torch.manual_seed(0)
    config = ModelConfig(dim=32, n_layers=2, n_heads=2, n_kv_heads=1, vocab_size=300, max_seq_len=64)
    return MiniMindLM(config).eval(), tokenizer


# --- checks -------------------------------------------------------------------------------------------------------


def stub(*_):
    """What a learner finds."""


def test_stubs_are_open_and_right_answers_pass():
    def temperature(logits, t):
        if t == 0:
            return torch.nn.functional.one_hot(logits.argmax(), len(logits)).float()
        return (logits / t).softmax(-1)

    def temperature_with_whole_numbers(logits, t):
        return torch.nn.functional.one_hot(logits.argmax(), len(logits)) if t == 0 else temperature(logits, t)

    def min_p(logits, m):
        p = logits.softmax(-1)
        return logits.masked_fill(p < m * p.amax(-1, keepdim=True), -torch.inf)

    def min_p_by_difference(logits, m):  # without rounding on the edge
        return logits.masked_fill(logits < logits.amax(-1, keepdim=True) + math.log(m) - 1e-6, -1e4)

    def top(logits, k, p):
        return keep_top_p(keep_top_k(logits, k), p)

    def top_with_large_numbers(logits, k, p):
        return top(logits, k, p).clamp(min=-1e9)

    for check, answers in (
        (checks.check_temperature, [temperature, temperature_with_whole_numbers]),
        (checks.check_min_p, [min_p, min_p_by_difference]),
        (checks.check_top_k_top_p, [top, top_with_large_numbers]),
        (
            checks.check_perplexity,
            [lambda rows: torch.cat(rows).mean().exp(), lambda rows: float(torch.cat(rows).mean().exp())],
        ),
        (
            checks.check_bits_per_byte,
            [lambda losses, text: losses.sum() / math.log(2) / len(text.encode())],
        ),
    ):
        for answer in (stub, None, ..., lambda *_: ...):
            assert check(answer).ok is None, repr(check(answer))
        for answer in answers:
            assert check(answer).ok is True, repr(check(answer))


def said(verdict, *words):
    assert verdict.ok is False, repr(verdict)
    for word in words:
        assert word in verdict.message, verdict.message


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda x, t: (x * t).softmax(-1), "multiplied"),
        (lambda x, t: x / t, "not probabilities yet"),
        (lambda x, t: x.softmax(-1) / t, "probabilities are divided"),
        (lambda x, t: x.softmax(-1), "no effect"),
        (lambda x, t: (x / t).exp(), "add up to"),
        (lambda x, t: (x / t / t).softmax(-1), "likeliest has"),
        (lambda x, t: (x / t).softmax(-1), "divides by zero"),
        (lambda x, t: x.div_(t).softmax(-1), "have changed"),
        (lambda x, t: (x / t).softmax(-1)[:2], "shape"),
        (lambda x, t: 1 / 0, "ZeroDivisionError"),
        (lambda x, t: 3, "a int"),
    ],
)
def test_check_temperature_names_the_mistake(answer, words):
    said(checks.check_temperature(answer), words)


def _cut(x, dropped):
    return x.masked_fill(dropped, -torch.inf)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda x, m: _cut(x, x.softmax(-1) < m), "not where it is at least m"),
        (lambda x, m: _cut(x, x.softmax(-1) < m * x.softmax(-1).max()), "every row has its own"),
        (lambda x, m: _cut(x, x < m * x.amax(-1, keepdim=True)), "logits are compared"),
        (lambda x, m: _cut(x, x.softmax(-1) <= m * x.softmax(-1).amax(-1, keepdim=True)), "dropped as well"),
        (lambda x, m: _cut(x, x.softmax(-1) >= m * x.softmax(-1).amax(-1, keepdim=True)), "wrong ones are kept"),
        (lambda x, m: keep_top_p(x, m), "that is top-p"),
        (lambda x, m: x.softmax(-1), "those are probabilities"),
        (lambda x, m: _cut(x.softmax(-1), x.softmax(-1) < m * x.softmax(-1).amax(-1, keepdim=True)), "other numbers"),
        (lambda x, m: x * (x.softmax(-1) >= m * x.softmax(-1).amax(-1, keepdim=True)), "dropped logits are 0"),
        (lambda x, m: x.clone(), "8 tokens should stay"),
        (lambda x, m: x.sub_(1), "have changed"),
        (lambda x, m: x[0], "(2, 4)"),
    ],
)
def test_check_min_p_names_the_mistake(answer, words):
    said(checks.check_min_p(answer), words)


def _k_then(p_part):
    return lambda x, k, p: p_part(keep_top_k(x, k), p)


def _drops_crossing(x, p):
    ordered, order = x.softmax(-1).sort(dim=-1, descending=True)
    return x.masked_fill(torch.zeros_like(x, dtype=torch.bool).scatter(-1, order, ordered.cumsum(-1) > p), -torch.inf)


def _drops_crossing_but_the_first(x, p):
    ordered, order = x.softmax(-1).sort(dim=-1, descending=True)
    dropped = ordered.cumsum(-1) > p
    dropped[:, 0] = False
    return x.masked_fill(torch.zeros_like(dropped).scatter(-1, order, dropped), -torch.inf)


def _unsorted(x, p):
    ordered = x.softmax(-1).sort(dim=-1, descending=True).values
    return x.masked_fill(ordered.cumsum(-1) - ordered >= p, -torch.inf)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda x, k, p: keep_top_p(keep_top_k(x, k + 1), p), "off by one"),
        (lambda x, k, p: x.masked_fill(x <= x.topk(k).values[:, -1:], -torch.inf), "off by one"),
        (lambda x, k, p: x.masked_fill(x < x.topk(k).values[:, -1:], 0.0), "e^0 = 1"),
        (lambda x, k, p: x.masked_fill(x < x[0].topk(k).values[-1], -torch.inf), "first row"),
        (lambda x, k, p: x.clone(), "nothing is dropped"),
        (lambda x, k, p: x.masked_fill(x < x.flatten().topk(k).values[-1], -torch.inf), "whole batch"),
        (lambda x, k, p: x.masked_fill(x < 0, -torch.inf), "largest"),
        (lambda x, k, p: x >= x.topk(k).values[:, -1:], "mask"),
        (lambda x, k, p: x.masked_fill(x < x.topk(k).values[-1], -torch.inf), "One threshold per row"),
        (lambda x, k, p: x.masked_fill(x < x.topk(k).values[:, -1], -torch.inf), "One threshold per row"),
        (_k_then(_drops_crossing), "BEFORE"),
        (_k_then(_drops_crossing_but_the_first), "BEFORE"),
        (_k_then(_unsorted), "scatter"),
        (_k_then(lambda x, p: x.masked_fill(x.softmax(-1) < 1 - p, -torch.inf)), "running sum"),
        (_k_then(lambda x, p: x), "top-p: with p=0.7 nothing"),
        (_k_then(lambda x, p: keep_top_k(x, 5 if p == 1 else 4)), "should keep"),
        (lambda x, k, p: keep_top_k(keep_top_p(x, p), k), "softmax again"),
        (lambda x, k, p: x if k < 3 else 1 / 0, "nothing is dropped"),
    ],
)
def test_check_top_k_top_p_names_the_mistake(answer, words):
    said(checks.check_top_k_top_p(answer), words)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda rows: 2 ** torch.cat(rows).mean(), "base is e"),
        (lambda rows: torch.cat(rows).exp().mean(), "every token's"),
        (lambda rows: sum(row.mean().exp() for row in rows) / len(rows), "rows' perplexities"),
        (lambda rows: math.exp(sum(float(row.mean()) for row in rows) / len(rows)), "short row"),
        (lambda rows: torch.cat(rows).mean(), "loss itself"),
        (lambda rows: torch.cat(rows).sum().exp(), "summed"),
        (lambda rows: (-torch.cat(rows).mean()).exp(), "one over"),
        (lambda rows: 12.0, "yours is 12"),
        (lambda rows: torch.cat(rows).exp(), "one number"),
        (lambda rows: "many", "one number"),
    ],
)
def test_check_perplexity_names_the_mistake(answer, words):
    said(checks.check_perplexity(answer), words)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda losses, text: losses.sum() / math.log(2) / len(text), "divides by characters"),
        (lambda losses, text: losses.sum() / len(text), "divides by characters"),
        (lambda losses, text: losses.sum() / len(text.encode()), "nats per byte"),
        (lambda losses, text: losses.sum() * math.log(2) / len(text.encode()), "multiplied by ln 2"),
        (lambda losses, text: losses.mean() / math.log(2), "bits per token"),
        (lambda losses, text: losses.mean() / math.log(2) / len(text.encode()), "one token's"),
        (lambda losses, text: losses.mean() / len(text.encode()), "one token's"),
        (lambda losses, text: len(text.encode()) / losses.sum() * math.log(2), "turn it over"),
        (lambda losses, text: 12.0, "yours is 12"),
        (lambda losses, text: losses / math.log(2), "one number"),
        (lambda losses, text: "many", "one number"),
        (lambda losses, text: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_check_bits_per_byte_names_the_mistake(answer, words):
    said(checks.check_bits_per_byte(answer), words)


# --- the loss, taken apart ----------------------------------------------------------------------------------------


def test_each_token_has_a_kind(pair):
    _, tokenizer = pair
    sorted_ = {loss_parts.kind_of(tokenizer, i) for i in range(300)}
    assert sorted_ <= set(loss_parts.KINDS) and loss_parts.WORD in sorted_ and loss_parts.PART in sorted_
    for text, kind in (
        ("<s>", loss_parts.MARKER),
        (" ", loss_parts.MARKER),
        ("\n", loss_parts.MARKER),
        ("，", loss_parts.PUNCTUATION),
        ("?", loss_parts.PUNCTUATION),
        ("7", loss_parts.OTHER),
        ("A", loss_parts.OTHER),
    ):
        (token,) = [i for i, piece in enumerate(pieces(tokenizer, range(300))) if piece == text] or [None]
        if token is not None:
            assert loss_parts.kind_of(tokenizer, token) == kind, text
    whole = [i for i, piece in enumerate(pieces(tokenizer, range(300))) if len(piece) == 1 and "一" <= piece <= "鿿"]
    assert whole and all(loss_parts.kind_of(tokenizer, i) == loss_parts.CHARACTER for i in whole)


def test_losses_by_group_add_up_to_the_whole():
    groups = ["b", "a", "b", "c"]
    losses, size = np.array([1.0, 4.0, 3.0, 0.5]), np.array([3, 6, 3, 0])
    parts = loss_parts.by_group(groups, losses, size)
    assert list(parts) == ["a", "b", "c"] and list(loss_parts.by_group(groups, losses, size, False)) == ["b", "a", "c"]
    assert parts["b"] == (2, 2.0, pytest.approx(4 / 6)) and math.isnan(parts["c"].nats_per_byte)
    assert sum(part.tokens * part.nats_per_token for part in parts.values()) == pytest.approx(losses.sum())


@pytest.fixture
def run_with_snapshots(pair, tmp_path, monkeypatch):
    """A finished run of 9 updates in an out folder of its own, with three snapshots and what does not belong there."""
    model, tokenizer = pair
    monkeypatch.setenv("MINIMIND_OUT", str(tmp_path))
    weights = tmp_path / "pretrain_32.pth"
    facts = {"tokenizer_sha256": "ours", "corpus": {"path": "a"}}
    save_weights(model, weights, facts | {"step": 9, "complete": True}, tokenizer)
    folder = tmp_path / "pretrain_32" / "snapshots"
    for step in (5, 1, 3):
        save_weights(MiniMindLM(model.config), folder / f"step-{step:08d}.pth", facts | {"step": step}, tokenizer)
    other = ModelConfig(dim=16, n_layers=1, n_heads=2, n_kv_heads=1, vocab_size=300, max_seq_len=64)
    save_weights(MiniMindLM(other), folder / "step-00000006.pth", facts | {"step": 6}, tokenizer)
    save_weights(model, folder / "step-00000007.pth", facts | {"step": 7, "tokenizer_sha256": "theirs"}, tokenizer)
    save_weights(model, folder / "step-00000012.pth", facts | {"step": 12}, tokenizer)
    (folder / "step-00000004.pth").write_bytes(b"cut sho")
    return model, tmp_path


def test_ages_are_chance_weights_then_snapshots_of_this_run_then_the_model(run_with_snapshots):
    model, _ = run_with_snapshots
    (run,) = list_runs()
    random_state = torch.get_rng_state()
    ages = loss_parts.models_by_age(model, f"{run}; trained on a")
    assert [age.updates for age in ages] == [0, 1, 3, 5, 9] and ages[-1].model is model
    assert torch.equal(torch.get_rng_state(), random_state), "asking for ages must not change what is drawn later"
    assert all(not age.model.training for age in ages)
    assert [a.updates for a in loss_parts.models_by_age(model, f"{run.weights}, trained on the sample")] == [
        0,
        1,
        3,
        5,
        9,
    ]


@pytest.mark.parametrize(("best", "steps"), [(4, [0, 1, 3, 4, 5, 9]), (3, [0, 1, 3, 5, 9]), (9, [0, 1, 3, 5, 9])])
def test_the_best_weights_of_a_run_are_among_its_ages_once_and_marked(run_with_snapshots, pair, best, steps):
    model, folder = run_with_snapshots
    facts = {"tokenizer_sha256": "ours", "corpus": {"path": "a"}}
    ended = facts | {"step": 9, "best_step": best, "complete": True}
    save_weights(model, folder / "pretrain_32.pth", ended, pair[1])
    kept = folder / "pretrain_32" / "snapshots" / "best.pth"
    save_weights(MiniMindLM(model.config), kept, facts | {"step": best}, pair[1])
    (run,) = list_runs()
    ages = loss_parts.models_by_age(model, str(run))
    assert [age.updates for age in ages] == steps and ages[-1].model is model
    assert [age.updates for age in ages if age.best] == [best]
    kept.unlink()
    ages = loss_parts.models_by_age(model, str(run))
    assert [age.updates for age in ages] == [0, 1, 3, 5, 9]
    assert [age.updates for age in ages if age.best] == [best] * (best != 4), "a snapshot may be the best one, too"


def test_without_a_run_or_snapshots_two_ages_are_left(run_with_snapshots):
    model, folder = run_with_snapshots
    assert [age.updates for age in loss_parts.models_by_age(model)] == [0, 1]
    assert [age.updates for age in loss_parts.models_by_age(model, "out/pretrain_7.pth: some other")] == [0, 1]
    (run,) = list_runs()
    (folder / "pretrain_32" / "snapshots").rename(folder / "elsewhere")
    assert [age.updates for age in loss_parts.models_by_age(model, str(run))] == [0, 9]


def test_ages_of_a_quick_model_are_found(run_with_snapshots, monkeypatch):
    model, folder = run_with_snapshots
    (folder / "quick").mkdir()
    for name in ("pretrain_32", "pretrain_32.pth"):
        (folder / name).rename(folder / "quick" / name)
    note = f"{folder / 'quick' / 'pretrain_32.pth'}, trained on the sample for 9 s (9 updates)"
    assert [age.updates for age in loss_parts.models_by_age(model, note)] == [0, 1, 3, 5, 9]


def test_the_slider_of_ages_shows_text_and_bars_and_escapes(pair):
    model, tokenizer = pair
    ages = [loss_parts.Age(0, MiniMindLM(model.config).eval()), loss_parts.Age(1234, model, best=True)]
    box = bars.ages_widget(ages, tokenizer, "天空是")
    assert [name for name, _ in named(box, "updates").options] == ["0", "1,234 (best)"]
    page, slider = next(part for part in parts(box) if isinstance(part, widgets.HTML)), named(box, "updates")
    newest = page.value
    assert "after 1,234 updates, the best of its run" in newest and "天空是" in newest
    slider.value = 0
    assert page.value != newest and "after 0 updates ·" in page.value
    slider.value = 1
    assert page.value == newest
    named(box, "Prompt").value = NASTY
    assert "<img" not in page.value and "&lt;img" in page.value
    named(box, "Prompt").value = "\ud800"
    assert "no text that can be encoded" in page.value


# --- writing a text -----------------------------------------------------------------------------------------------


def test_write_gives_the_text_that_generate_gives(pair):
    model, tokenizer = pair
    settings = {"max_new_tokens": 20, "temperature": 0.8, "seed": 3}
    steps = list(writer_07.write(model, tokenizer, PROMPTS[0], **settings))
    ids = list(generate(model, encode_prompt(tokenizer, PROMPTS[0]), stream=True, **settings))
    assert steps[0].tokens == 0 and steps[0].state == "writing"
    assert steps[-1].tokens == len(ids)
    assert steps[-1].state == ("ended" if ids[-1] == 2 else "full")
    assert steps[-1].text == tokenizer.decode(ids)
    assert all(b.text.startswith(a.text) for a, b in pairwise(steps))


def test_write_says_that_the_model_ended_the_text(pair):
    model, tokenizer = pair
    model = MiniMindLM(model.config).eval()
    with torch.no_grad():
        model.output.weight.zero_()
        model.output.weight[2] = 1.0  # every final vector with a positive sum scores </s> highest, else it's a tie at 0
        model.norm.weight.fill_(1.0)
    steps = list(writer_07.write(model, tokenizer, "", max_new_tokens=5, temperature=0.0))
    assert steps[-1].state in ("ended", "full")
    if steps[-1].state == "ended":
        assert "</s>" not in steps[-1].text


def test_an_error_is_a_state(pair):
    model, tokenizer = pair
    *_, last = writer_07.write(model, tokenizer, "天空", temperature=-1.0)
    assert last.state == "failed" and "temperature=-1.0" in last.error and "Error" not in last.error
    *_, last = writer_07.write(None, tokenizer, "天空")
    assert last.state == "failed" and last.error.startswith("AttributeError")
    assert "That did not work" in writing.progress_html(last)


def test_stop_takes_no_further_token(pair):
    model, tokenizer = pair
    stop = threading.Event()
    steps = writer_07.write(model, tokenizer, "天空", stop, max_new_tokens=50, eos_token_id=None)
    for _ in range(4):
        before = next(steps)
    stop.set()
    (last,) = steps
    assert last.state == "stopped" and last.tokens == before.tokens == 3 and last.text == before.text


class Slow:
    """A model's computing takes its time, and how many threads are in it at once is counted."""

    inside = most = calls = 0

    @classmethod
    def made(cls, compute):
        def slowly(*args, **kwargs):
            cls.inside += 1
            cls.most = max(cls.most, cls.inside)
            cls.calls += 1
            time.sleep(0.02)
            try:
                return compute(*args, **kwargs)
            finally:
                cls.inside -= 1

        return slowly


@pytest.fixture
def slow(pair, monkeypatch):
    """The model and the tokenizer, where every forward and every cached step is slow."""
    Slow.inside = Slow.most = Slow.calls = 0
    monkeypatch.setattr(MiniMindLM, "forward", Slow.made(MiniMindLM.forward))
    monkeypatch.setattr(generation.Decoder, "step", Slow.made(generation.Decoder.step))
    return pair


def until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def test_the_writer_stops_at_once_and_says_so(slow):
    seen = []
    writer = writer_07.Writer(*slow, seen.append)
    writer.start("天空", max_new_tokens=500, eos_token_id=None)
    until(lambda: seen and seen[-1].tokens >= 3)
    writer.stop()
    assert writer.wait(5)
    assert seen[-1].state == "stopped" and seen[-1].tokens < 100
    number = len(seen)
    time.sleep(0.1)
    assert len(seen) == number and not writer.running


def test_a_second_start_replaces_the_first_and_they_never_compute_together(slow):
    seen = []
    writer = writer_07.Writer(*slow, seen.append)
    writer.start("天空", max_new_tokens=500, eos_token_id=None)
    until(lambda: seen and seen[-1].tokens >= 2)
    for _ in range(3):
        writer.start("大海", max_new_tokens=6, eos_token_id=None)
    assert writer.wait(10)
    assert Slow.most == 1
    first_new = next(i for i, step in enumerate(seen) if step.prompt == "大海")
    assert all(step.prompt == "大海" for step in seen[first_new:])
    assert [step.state for step in seen if step.state != "writing"] == ["full"] and seen[-1].tokens == 6


def test_a_cleared_text_shows_nothing_more(slow):
    seen = []
    writer = writer_07.Writer(*slow, seen.append)
    writer.start("天空", max_new_tokens=500, eos_token_id=None)
    until(lambda: seen and seen[-1].tokens >= 2)
    writer.forget()
    number = len(seen)
    assert writer.wait(5)
    assert len(seen) == number


def test_a_text_is_written_by_the_model_it_was_begun_with_and_one_that_gave_way_is_not_computed(slow, monkeypatch):
    seen, computed = [], []
    monkeypatch.setattr(writer_07, "encode_prompt", lambda *args: computed.append(args[1]) or encode_prompt(*args))
    writer = writer_07.Writer(*slow, seen.append)
    writer.start("天空", max_new_tokens=500, eos_token_id=None)
    until(lambda: seen and seen[-1].tokens >= 2)
    with writer.lock:
        writer.start("大海", max_new_tokens=500, eos_token_id=None)
        writer.start("山", max_new_tokens=3, eos_token_id=None)
        writer.model = None
    assert writer.wait(10)
    assert seen[-1].prompt == "山" and seen[-1].state == "full", seen[-1].error
    assert computed == ["天空", "山"] and not any(step.prompt == "大海" for step in seen)


def test_after_a_text_the_lock_is_free_and_others_may_work(pair):
    free = []

    def look():
        free.append(writer.lock.acquire(timeout=2))
        if free[-1]:
            writer.lock.release()

    def after():
        other = threading.Thread(target=look)
        other.start()
        other.join()

    writer = writer_07.Writer(*pair, lambda progress: None, after)
    writer.start("天空", max_new_tokens=2)
    assert writer.wait(10) and free == [True]


def test_text_is_escaped_everywhere():
    for state in ("writing", "ended", "full", "stopped", "failed"):
        html = writing.progress_html(writer_07.Progress(NASTY, NASTY, (5, 6, 7), 1.0, state, NASTY))
        assert "<img" not in html and html.count("&lt;img") == 3 and html.count("</div>") in (2, 3)
    assert "Press Continue" in writing.progress_html(None)
    html = plots.bars_html([NASTY, "\n"], [0.5, 0.2], [0.0, 0.9], NASTY)
    assert "<img" not in html and "dropped" in html and "⏎" in html
    assert "<img" not in plots.tokens_by_loss({NASTY: ([NASTY], [1.0])}, 5.0).data


def test_status_says_how_it_ended_and_how_fast():
    line = writing.status_line(writer_07.Progress("a", "b", (5,) * 30, 2.0, "stopped"))
    assert line.startswith("stopped") and "30 tokens in 2.0 s, 15 a second" in line
    assert writing.status_line(writer_07.Progress("a")) == "writing …"


def parts(widget):
    found = [widget]
    for child in getattr(widget, "children", ()):
        found += parts(child)
    return found


def named(box, description):
    return next(part for part in parts(box) if getattr(part, "description", None) == description)


def coloured(pair):
    """A widget with Probabilities on, in which Continue was pressed."""
    box = writing.ContinuationBox(*pair, ["天空"], {})
    named(box.panel, "new tokens").value, box.colours.value = 3, True
    box.go.click()
    return box


def failing(words):
    """A function that fails with these words, whatever it is given."""

    def fail(*args):
        raise RuntimeError(words)

    return fail


def pages(box):
    return [part for part in parts(box) if isinstance(part, widgets.HTML)]


def page_of(box):
    """The page of a continuation widget that has written nothing yet."""
    return next(part for part in pages(box) if "Press Continue" in part.value)


def test_the_widget_writes_stops_and_clears(slow):
    box = writing.continuation_widget(*slow)
    page = page_of(box)
    prompt, halt = named(box, "Prompt"), named(box, "Stop")
    assert halt.disabled
    for text in PROMPTS:
        named(box, text).click()
        assert prompt.value == text
    prompt.value, named(box, "new tokens").value = "<b>天空", 400
    named(box, "temperature").value = 2.0
    named(box, "Continue").click()
    until(lambda: " tokens in " in page.value)
    assert not halt.disabled and "&lt;b&gt;天空" in page.value and "<b>天空" not in page.value
    halt.click()
    until(lambda: "stopped ·" in page.value)
    until(lambda: halt.disabled)
    calls = Slow.calls
    time.sleep(0.1)
    assert Slow.calls == calls
    named(box, "Clear").click()
    assert "Press Continue" in page.value
    prompt._handle_custom_msg({"event": "submit"}, [])  # Enter in the prompt
    until(lambda: " tokens in " in page.value)
    named(box, "Clear").click()
    until(lambda: not Slow.inside)
    assert "Press Continue" in page.value and halt.disabled


def test_probabilities_are_those_of_the_model_before_any_setting(pair):
    model, tokenizer = pair
    *_, last = writer_07.write(model, tokenizer, "天空", max_new_tokens=6, temperature=1.7, eos_token_id=None)
    tokens = probabilities.judged(model, tokenizer, last)
    assert len(tokens) == 6
    ids = torch.cat([encode_prompt(tokenizer, "天空")[0], torch.tensor(last.ids)])
    wanted = model(ids[None]).logits[0].detach().softmax(-1)
    for place, token in enumerate(tokens):
        row = wanted[len(ids) - 6 - 1 + place]
        assert token.probability == pytest.approx(float(row[last.ids[place]]), rel=1e-4)
        shares = [share for _, share in token.others]
        assert shares == sorted(shares, reverse=True) and shares[0] == pytest.approx(float(row.max()), rel=1e-4)
    assert probabilities.judged(model, tokenizer, writer_07.Progress("天空")) == []


def test_coloured_text_and_its_table_are_escaped_and_say_the_numbers():
    tokens = [
        probabilities.Judged(NASTY, 0.7, ((NASTY, 0.7), ("\n", 0.1))),
        probabilities.Judged("山", 0.004, ((" x", 0.5),)),
    ]
    html = probabilities.coloured_html(tokens, chosen=1)
    assert "<img" not in html and "70.0%" in html and "⏎ 10.0%" in html and html.count("outline:") == 1
    assert "underline dotted" in html.split("山")[0].rsplit("<span", 1)[1], "not by colour alone"
    for place, token in enumerate(tokens):
        page = probabilities.alternatives_html(token, place)
        assert "<img" not in page and page.count("written") == 1
    assert "under 1%" in probabilities.legend_html()


def test_the_widget_colours_on_demand_and_shows_what_else_there_was(pair):
    model, tokenizer = pair
    box = writing.continuation_widget(model, tokenizer, files={})
    page, colours, place = page_of(box), named(box, "Probabilities"), named(box, "token")
    named(box, "new tokens").value, named(box, "temperature").value = 7, 1.5
    colours.value = True
    assert place.layout.display == "none", "there is no text yet"
    named(box, "Continue").click()
    others = parts(box)[-2]
    until(lambda: "Token 1" in others.value)
    assert "outline:" in page.value
    assert place.max in (7, page.value.count("title=")) and place.layout.display is None
    place.value = 2
    assert "Token 2" in others.value and page.value.count("outline:") == 1
    colours.value = False
    assert "title=" not in page.value and others.value == "" and place.layout.display == "none"


def test_earlier_texts_are_kept_until_cleared(pair):
    model, tokenizer = pair
    box = writing.continuation_widget(model, tokenizer, ["<b>天空"], files={})
    page, history = page_of(box), parts(box)[-1]
    named(box, "new tokens").value = 3
    for number in range(writing.KEPT + 3):
        named(box, "seed").value = number
        named(box, "Continue").click()
        until(lambda: " tokens in " in page.value and "writing" not in page.value)
        assert history.value.count("tokens in") == min(number, writing.KEPT)
    assert "seed 0 " not in history.value and f"seed {number - 1} " in history.value and "<b>天空" not in history.value
    named(box, "Clear").click()
    assert history.value == "" and "Press Continue" in page.value


def test_a_model_can_be_chosen_and_one_that_is_broken_is_said(bench, pair):
    bench.trainer("out", max_steps=2).fit()
    files = {file.label(): file.path for file in model_choice.files_in(bench.folder / "out")}
    (label,) = [name for name, path in files.items() if path.name == "pretrain_16.pth"]
    assert re.fullmatch(r"pretrain_16 · 2 updates · held-out loss \d\.\d\d · 0\.\d MB · [\d.]+ s old", label)
    assert any("best" in name or "step-" in name for name in files), "snapshots too"
    broken = bench.folder / "broken.pth"
    broken.write_bytes(b"nothing")
    box = writing.continuation_widget(*pair, files={label: bench.folder / "out" / "pretrain_16.pth", "broken": broken})
    page, choice = page_of(box), named(box, "Model")
    assert choice.label == "the notebook's model" and list(choice._options_labels[1:]) == [label, "broken"]
    choice.label = label
    named(box, "new tokens").value = 4
    named(box, "Continue").click()
    until(lambda: " tokens in " in page.value and "writing" not in page.value)
    choice.label = "broken"
    assert any("broken.pth" in part.value for part in pages(box))
    assert choice.index == 1, "the model before stays, and the field says so"
    assert " tokens in " in page.value, "and so does its text"
    named(box, "Continue").click()
    assert "pretrain_16" in parts(box)[-1].value, "which model wrote an earlier text"
    assert not any("broken.pth" in part.value for part in pages(box))


# --- one text gives way to another -------------------------------------------------------------------------------


def begun(box, page, prompt):
    """Press Continue for a long text, and wait until some of it is there."""
    named(box, "Prompt").value, named(box, "new tokens").value = prompt, 400
    named(box, "Continue").click()
    until(lambda: " tokens in " in page.value)


def kept_tokens(history):
    """How many tokens the one text in the history has, which was stopped."""
    assert history.value.count(" tokens in ") == 1 and "writing" not in history.value, history.value
    return int(re.search(r"stopped · (\d+) tokens in", history.value)[1])


def test_continue_while_a_text_is_written_stops_and_keeps_it_and_writes_the_next_to_its_end(slow):
    model, tokenizer = slow
    box = writing.continuation_widget(model, tokenizer, ["天空"], files={})
    page, history = page_of(box), parts(box)[-1]
    begun(box, page, "天空")
    until(lambda: re.search(r"writing … · \d+ tokens", page.value))
    seen = []
    page.observe(lambda change: seen.append(change.new), "value")
    named(box, "Prompt").value, named(box, "new tokens").value = "大海", 8
    named(box, "Continue").click()
    kept = kept_tokens(history)
    named(box, "Continue").click()  # once more, before the second has a token
    assert kept_tokens(history) == kept, "kept once"
    until(lambda: "all new tokens used" in page.value or "ended the text itself" in page.value)
    settings = {"temperature": 0.7, "top_p": 0.9, "seed": 42}
    whole = continue_text(model, tokenizer, "大海", max_new_tokens=8, **settings)
    assert f"大海</span>{escape(whole)}<div" in page.value
    started = len([value for value in seen if "大海" not in value])
    assert all("大海" in value for value in seen[started:]), "nothing of the first once the second is there"
    first = "".join(continue_text(model, tokenizer, "天空", max_new_tokens=kept, **settings))
    shown = re.search(r"天空</span>(.*?)<div", history.value)[1]
    assert escape(first).startswith(shown) and kept_tokens(history) == kept and Slow.most == 1
    assert named(box, "Stop").disabled


def test_another_model_while_a_text_is_written_stops_and_keeps_it(slow, tmp_path):
    model, tokenizer = slow
    save_weights(model, tmp_path / "other.pth", {"step": 1}, tokenizer)
    box = writing.continuation_widget(model, tokenizer, files={"other": tmp_path / "other.pth"})
    page, history = page_of(box), parts(box)[-1]
    begun(box, page, "天空")
    named(box, "Model").index = 1
    assert kept_tokens(history) > 0 and "Press Continue" in page.value and named(box, "Stop").disabled
    until(lambda: not Slow.inside)
    assert "Press Continue" in page.value


def test_a_model_that_cannot_be_loaded_does_not_disturb_the_text_and_its_error_stays_in_sight(slow, tmp_path):
    box = writing.continuation_widget(*slow, files={"gone": tmp_path / "gone.pth"})
    page, history, choice = page_of(box), parts(box)[-1], named(box, "Model")
    begun(box, page, "天空")
    choice.index = 1
    assert choice.index == 0 and history.value == "" and not named(box, "Stop").disabled
    before = page.value
    until(lambda: page.value != before)
    named(box, "Stop").click()
    until(lambda: "stopped ·" in page.value)
    (message,) = [part for part in pages(box) if "gone.pth is not there" in part.value]
    assert message.layout.display is None
    named(box, "Clear").click()
    assert message.value == "" and message.layout.display == "none"


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("meanwhile", ["Probabilities", "Clear", "Continue"])
def test_colours_that_nobody_wants_any_more_are_not_painted(pair, monkeypatch, meanwhile, fails):
    entered, go_on = threading.Event(), threading.Event()

    def judged(*args):
        entered.set()
        assert go_on.wait(20)
        if fails:
            raise RuntimeError("judged in vain")
        return probabilities.judged(*args)

    monkeypatch.setattr(writing, "judged", judged)
    box = coloured(pair)
    assert entered.wait(10)
    thread, started = box.writer._thread, time.monotonic()
    if meanwhile == "Probabilities":
        box.colours.value = False
    else:
        named(box.panel, meanwhile).click()
    assert time.monotonic() - started < 10, "a click does not wait for colours"
    monkeypatch.setattr(writing, "judged", lambda *args: [])
    go_on.set()
    thread.join(10)
    assert box.writer.wait(10)
    assert "title=" not in box.page.value and box.place.layout.display == "none"
    assert "vain" not in box.legend.value and box.others.value == ""


def test_colours_wanted_twice_are_computed_one_after_the_other(pair, monkeypatch):
    """`judged` puts the model into eval mode and back, which two threads at once would get wrong."""
    entered, inside, most = threading.Event(), [], []

    def judged(*args):
        entered.set()
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.1)
        inside.pop()
        return probabilities.judged(*args)

    monkeypatch.setattr(writing, "judged", judged)
    box = coloured(pair)
    assert entered.wait(10)
    box.colours.value = False
    box.colours.value = True
    assert box.writer.wait(10)
    assert most == [1, 1] and "title=" in box.page.value and "Token 1" in box.others.value


def test_colours_that_cannot_be_made_are_an_error_that_goes_with_its_text(pair, monkeypatch):
    monkeypatch.setattr(writing, "judged", failing("no <memory>"))
    box = coloured(pair)
    until(lambda: "no &lt;memory&gt;" in box.legend.value)
    assert box.writer.wait(10) and "all new tokens used" in box.page.value
    box.go.click()
    assert "memory" not in box.legend.value or not box.writer.running
    box.colours.value = False
    assert box.writer.wait(10) and box.legend.value == ""


def test_an_error_while_painting_is_shown_where_the_text_would_be(pair, monkeypatch):
    monkeypatch.setattr(writing, "coloured_html", failing("no <paint>"))
    box = coloured(pair)
    until(lambda: "RuntimeError: no &lt;paint&gt;" in box.page.value)
    box.colours.value = False
    assert box.writer.wait(10) and "all new tokens used" in box.page.value


def test_a_probability_that_is_no_number_has_a_colour_too():
    assert "nan%" in probabilities.coloured_html([probabilities.Judged("山", math.nan, (("山", math.nan),))])


def test_the_legend_says_whose_probabilities_they_are():
    legend = probabilities.legend_html()
    assert "probability of each token" in legend
    assert "the model's own before temperature, top-k, top-p and penalty" in legend


# --- the chooser --------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    """A clock that the chooser reads ages from, and the tests put forward."""
    clock = SimpleNamespace(now=time.time())
    monkeypatch.setattr(model_choice, "time", SimpleNamespace(time=lambda: clock.now))
    return clock


def first_norm(box):
    """A number that says which weights speak, see `saved`."""
    return float(box.writer.model.norm.weight[0].detach())


def saved(model, tokenizer, path, step, facts=None):
    """A weights file as after `step` updates, with weights of its own."""
    other = MiniMindLM(model.config).eval()
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        other.norm.weight.fill_(1 + step / 1000)
    save_weights(other, path, {"step": step, "held_out_loss": 9.5 - step / 1000, **(facts or {})}, tokenizer)
    return path


@pytest.fixture
def out(pair, tmp_path, monkeypatch):
    """An out folder with one run, 0.3 hours old."""
    monkeypatch.setenv("MINIMIND_OUT", str(tmp_path))
    path = saved(*pair, tmp_path / "pretrain_32.pth", 10)
    os.utime(path, (time.time() - 1080,) * 2)
    return tmp_path


def test_labels_grow_older_with_each_use_and_new_models_come_last(pair, out, clock):
    model, tokenizer = pair
    box = writing.ContinuationBox(load_model(out / "pretrain_32.pth"), tokenizer, ["天空"])
    choice, file = box.models.dropdown, r"pretrain_32 · 10 updates · held-out loss 9\.49 · 0\.\d MB · "
    labels = choice._options_labels
    assert re.fullmatch(f"the notebook's model: {file}18.0 min old", labels[0])
    assert re.fullmatch(f"{file}18.0 min old", labels[1])
    clock.now += 7200
    saved(model, tokenizer, out / "pretrain_32" / "snapshots" / "best.pth", 7)
    saved(model, tokenizer, out / "pretrain_16.pth", 3)
    assert choice._options_labels == labels, "nobody has asked"
    uses = [
        box.begin,
        box.clear,
        lambda: setattr(choice, "index", 2),
        lambda: setattr(choice, "index", 0),
    ]
    for number, use in enumerate(uses):
        clock.now += 3600
        use()
        hours = 3.3 + number
        found = choice._options_labels
        assert all(f" · {hours:.1f} h old" in label for label in found[:2]), found
        assert len(found) == 4 and found[2].startswith(("pretrain_16 · 3", "pretrain_32, best · 7 updates"))
    assert box.writer.model is box.models.own[0]


def test_the_chosen_model_stays_chosen_whatever_happens_in_out(pair, out):
    model, tokenizer = pair
    box = writing.ContinuationBox(model, tokenizer, ["天空"])
    choice, weights = box.models.dropdown, out / "pretrain_32.pth"
    assert choice.label == "the notebook's model", "no file has these weights"
    choice.index = 1
    speaking = box.writer.model
    assert first_norm(box) == pytest.approx(1.01)
    saved(model, tokenizer, out / "pretrain_96.pth", 2)  # a newer run, which would be first in a new list
    saved(model, tokenizer, weights, 500)
    box.begin()
    assert choice.index == 1 and box.writer.model is speaking
    assert choice.label.startswith("pretrain_32 · 10 updates") and choice.label.endswith("its file has changed since")
    box.clear()
    weights.unlink()
    box.clear()
    assert choice.index == 1 and box.writer.model is speaking
    assert choice.label.startswith("pretrain_32 · 10 updates") and choice.label.endswith(" old · no longer there")
    saved(model, tokenizer, weights, 600)
    choice.index = 2
    assert choice._options_labels[1].startswith("pretrain_32 · 600 updates") and choice.label.endswith(" old")
    choice.index = 1
    assert choice.label.startswith("pretrain_32 · 600 updates") and choice.label.endswith(" old")
    assert first_norm(box) == pytest.approx(1.6), "chosen again, it is read again"


def test_a_file_that_has_vanished_is_said_and_keeps_its_place(pair, out):
    model, tokenizer = pair
    saved(model, tokenizer, out / "pretrain_16.pth", 3)
    box = writing.ContinuationBox(model, tokenizer, ["天空"])
    choice = box.models.dropdown
    assert [label.split(" · ")[0] for label in choice._options_labels[1:]] == ["pretrain_16", "pretrain_32"]
    (out / "pretrain_16.pth").unlink()
    choice.index = 1
    assert choice.index == 0 and "pretrain_16.pth is not there" in box.message.value
    assert choice._options_labels[1].endswith("no longer there") and "pretrain_32" in choice._options_labels[2]
    choice.index = 2
    assert box.message.value == "" and first_norm(box) == pytest.approx(1.01)


def test_a_browser_is_told_what_is_chosen_and_of_nothing_in_between(pair, out, clock):
    """What it has chosen itself is not sent back; what was refused is; new options come without another choice."""
    model, tokenizer = pair
    (out / "broken.pth").write_bytes(b"nothing")
    box = writing.ContinuationBox(model, tokenizer, ["天空"])
    box.models.entries.append(model_choice.ModelFile("broken", out / "broken.pth"))
    box.models.refresh()
    choice, messages = box.models.dropdown, []
    choice._send = lambda message, buffers=None: messages.append(message)
    for sent, wanted in ((1, 1), (2, 1), (0, 0), (1, 1)):
        clock.now += 3600
        messages.clear()
        choice.set_state({"index": sent})
        browser = {"index": sent}
        for message in messages:
            assert message["method"] in ("update", "echo_update")
            browser |= message["state"]
        assert browser["index"] == choice.index == box.models.chosen == wanted, (sent, messages)
        assert "_options_labels" in browser
        assert [message["state"].get("index") for message in messages].count(0) <= (wanted == 0)
    messages.clear()
    clock.now += 3600
    box.clear()
    assert len(messages) == 1 and messages[0]["state"].get("index") in (None, 1)
    box.clear()
    assert len(messages) == 1, "nothing new, so nothing is sent"


def test_a_file_that_is_rewritten_while_it_is_read_is_read_again(pair, out, monkeypatch):
    model, tokenizer = pair
    box = writing.ContinuationBox(model, tokenizer, ["天空"])
    real, reads = model_choice.load_run, []

    def load_run(path, device):
        read = load_model(path, device=device)
        if not reads:
            saved(model, tokenizer, path, 11)
        reads.append(read)
        return read, *real(path, device)[1:]

    monkeypatch.setattr(model_choice, "load_run", load_run)
    box.models.dropdown.index = 1
    assert box.models.dropdown.label.startswith("pretrain_32 · 11 updates") and len(reads) == 2
    assert first_norm(box) == pytest.approx(1.011)


def test_the_notebooks_model_is_known_by_its_weights_also_where_it_is_the_quick_one(pair, out):
    model, tokenizer = pair
    assert model_choice.origin(model, model_choice.files_in(out)) is None
    other = ModelConfig(dim=16, n_layers=1, n_heads=2, n_kv_heads=1, vocab_size=300, max_seq_len=64)
    save_weights(MiniMindLM(other), out / "pretrain_16.pth", {"step": 4}, tokenizer)
    damaged = saved(model, tokenizer, out / "pretrain_64.pth", 5)
    damaged.write_bytes(damaged.read_bytes()[:1000])
    save_weights(model, out / "quick" / "pretrain_32.pth", {"step": 8, "loss": 4.25}, tokenizer)
    box = writing.ContinuationBox(model, tokenizer, ["天空"])
    label = box.models.dropdown.label
    assert re.fullmatch(
        r"the notebook's model: pretrain_32 · 8 updates · loss 4\.25 · 0\.\d MB · [\d.]+ s old", label
    ), label
    assert len(box.models.entries) == 4, "the quick model is offered as the notebook's only"


def test_odd_facts_and_folders_that_may_not_be_read_break_no_chooser(pair, out, monkeypatch):
    model, tokenizer = pair
    saved(model, tokenizer, out / "pretrain_16.pth", 1, {"step": None, "held_out_loss": None})
    box = writing.ContinuationBox(model, tokenizer, ["天空"])
    labels = box.models.dropdown._options_labels
    assert any(label.startswith("pretrain_16 · 0 updates · 0") for label in labels)

    def refuse(*_):
        raise PermissionError("moved aside")

    monkeypatch.setattr(model_choice, "all_runs", refuse)
    box.begin()
    assert box.writer.wait(10) and " tokens in " in box.page.value
    assert len(box.models.dropdown._options_labels) == 3
    assert writing.ContinuationBox(model, tokenizer, []).models.dropdown.label == "the notebook's model"


def test_the_sliders_allow_only_what_generate_allows(pair):
    model, tokenizer = pair
    for name, slider in writing.setting_sliders().items():
        for value in (slider.min, slider.max):
            generate(model, encode_prompt(tokenizer, "天"), **{"max_new_tokens": 1, name: value})


# --- bars ---------------------------------------------------------------------------------------------------------


def test_distribution_is_what_sampling_draws_from(pair):
    model, tokenizer = pair
    logits, seen = bars.next_logits(model, tokenizer, "天空是")
    ids = encode_prompt(tokenizer, "天空是")
    assert torch.equal(logits, model(ids).logits[0, -1]) and set(ids[0].tolist()) == set(seen.nonzero()[:, 0].tolist())
    settings = {"temperature": 0.7, "top_k": 9, "top_p": 0.8, "repetition_penalty": 1.3}
    wanted = next_token_logits(logits[None], seen[None], **settings).softmax(-1)[0]
    assert torch.equal(bars.distribution(logits, seen, **settings), wanted)
    html = bars.sampling_html(tokenizer, logits, seen, **settings)
    assert f"{int((wanted > 0).sum())} of 300 tokens" in html and "dropped" in html


def test_undecided_prompt_prefers_an_open_question(pair):
    model, tokenizer = pair
    prompts = ["天空是", "大海", "天空是天空是天空是"]
    chosen = bars.undecided_prompt(model, tokenizer, prompts)
    assert chosen in prompts
    assert bars.undecided_prompt(model, tokenizer, prompts[::-1]) == chosen


def test_bits():
    assert bars.bits(torch.full((8,), 1 / 8)) == pytest.approx(3)
    assert bars.bits(torch.tensor([1.0, 0.0])) == 0


def test_the_bars_move_and_errors_show(pair):
    model, tokenizer = pair
    box = bars.sampling_widget(model, tokenizer, "天空是")
    page = next(part for part in parts(box) if isinstance(part, widgets.HTML))
    seen = {page.value}
    for description, value in (
        ("temperature", 0.0),
        ("temperature", 1.5),
        ("top-k (0: off)", 3),
        ("top-p (1: off)", 0.5),
        ("repetition penalty", 2.0),
    ):
        named(box, description).value = value
        assert page.value not in seen, description
        seen.add(page.value)
    named(box, "Prompt").value = "大海"
    assert page.value not in seen
    named(box, "Prompt").value = "\ud800"  # half a surrogate pair: no tokenizer takes it
    assert "no text that can be encoded" in page.value


# --- pictures -----------------------------------------------------------------------------------------------------


def test_scale_and_repeated_share():
    assert plots.scale_for([0.09], [0.2]) == 0.25 and plots.scale_for([0.7]) == 1.0 and plots.scale_for() == 0.01
    assert plots.repeated_share([1, 2, 3]) == 0
    assert plots.repeated_share(list(range(20))) == 0
    assert plots.repeated_share([7] * 13) == pytest.approx(0.9)


def test_loss_by_position_averages_in_doubling_bins():
    positions = np.repeat([1, 2, 3, 4, 5, 8, 9], 20)
    centres, means = loss_parts.loss_by_position(positions, positions.astype(float), least=20)
    assert means.tolist() == [1, 2, 3.5, 6.5, 9] and centres[0] == pytest.approx(1) and 3 < centres[2] < 4
    merged = loss_parts.loss_by_position(positions, positions.astype(float), least=21)[1]
    assert merged.tolist() == [1.5, 3.5, pytest.approx(22 / 3)], "small bins join the next, the last the one before"
    assert loss_parts.loss_by_position(positions, positions.astype(float), least=999)[1].tolist() == [positions.mean()]


def test_curves_by_place_are_drawn_from_zero_beside_what_a_guess_costs():
    places = {"row": np.arange(300), "segment": np.arange(300) % 7}
    for losses, guess in ((np.full(300, 4.0), 7.0), (np.full(300, 9.0), 7.0)):
        (axes,) = loss_parts.plot_by_place(places, losses, guess).axes
        row, segment, dashed = axes.lines
        assert set(row.get_ydata()) == set(segment.get_ydata()) == {losses[0]} and set(dashed.get_ydata()) == {guess}
        assert axes.get_ylim()[0] == 0 and axes.get_ylim()[1] > max(guess, losses[0])
        assert "row" in row.get_label() and "segment" in segment.get_label()


def test_settings_share_one_scale_and_say_what_moved_most():
    panels = plots.plot_settings(["世", "界"], [0.4, 0.3], {"a": [0.9, 0.1], "b": [0.41, 0.01]}).axes
    assert len({axes.get_xlim() for axes in panels}) == 1 and panels[0].get_xlim()[1] > 0.9
    assert [axes.get_title(loc) for axes in panels for loc in ("left",)] == [
        "a\n世: 0.400 → 0.900",
        "b\n界: 0.300 → 0.010",
    ]


def test_the_cost_of_a_token_is_drawn_without_an_empty_half():
    (axes,) = plots.plot_step_times({"a": list(np.linspace(0.001, 0.006, 60)), "b": [0.003] + [0.001] * 59}).axes
    assert 6 < axes.get_ylim()[1] < 9


@pytest.mark.filterwarnings("error")
def test_pictures_are_drawn_without_a_warning_and_closed():
    from matplotlib import pyplot as plt

    from minimind_core.plots.style import use_course_style

    use_course_style()
    plots_before = plt.get_fignums()
    labels, before = ["世界", "，", "⟨e8⟩⟨80⟩", "\n"], [0.4, 0.3, 0.2, 0.05]
    ramp = np.linspace(6, 4, 30)
    kinds = loss_parts.by_group([*loss_parts.KINDS] * 5, ramp, np.arange(30) % 6)
    for figure in (
        loss_parts.plot_parts(kinds, loss_parts.by_group(["first token", "later"] * 15, ramp, np.ones(30))),
        loss_parts.plot_parts({loss_parts.MARKER: loss_parts.Part(1, 2.0, math.nan)}, {}),
        loss_parts.plot_ages([0, 42, 84000], [8.0, 4.0, 5.0], [8.0, 3.0, 0.1], 4.5),
        loss_parts.plot_ages([0, 1], [8.0, 4.0], [8.0, 3.0]),
        plots.plot_next_tokens(labels, before, "title", truth=1),
        plots.plot_settings(labels, before, {"a": [0.9, 0.1, 0, 0], "b": before}),
        plots.plot_repetition({"a": [1, 2, 1, 2, 1, 2], "b": list(range(6))}),
        plots.plot_step_times({"a": [0.01] * 20, "b": list(np.linspace(0.01, 0.1, 20))}),
        plots.plot_held_out({"a": 8.0, "b": 5.0, "c": 4.0}),
        loss_parts.plot_by_place({"row": np.arange(30), "segment": np.arange(30) % 7}, ramp, 5.0),
    ):
        figure.savefig("/dev/null", format="png")
    assert plt.get_fignums() == plots_before
