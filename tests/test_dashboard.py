"""The dashboard reads a run's files, whoever started it; its buttons start, stop and resume; nothing hides an error."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import ipywidgets as widgets
import pytest
from test_runs import LONG, row, until, write_metrics

from minimind_core import runs
from minimind_core.errors import CheckpointError
from minimind_core.run_status import STATES, RunStatus, log_file, status_of
from minimind_core.runs import kill_run, wait_for
from minimind_core.widgets import dashboard as board
from minimind_core.widgets import run_cards
from minimind_core.widgets.dashboard import dashboard

NASTY = '<img src=x onerror="alert(1)">'


@pytest.fixture
def shown(monkeypatch):
    """Dashboards that are closed after the test."""
    made = []
    really = board.Dashboard.watch

    def watch(self):
        made.append(self)
        really(self)

    monkeypatch.setattr(board.Dashboard, "watch", watch)
    yield made
    for one in made:
        one.close()
    board.Dashboard._open.clear()


def status(state="running", **more):
    rows = [row(1), {"step": 1, "held_out_loss": 5.0, "sample": [NASTY, NASTY]}, row(2), row(3)]
    return RunStatus(Path("out/pretrain_8.pth"), state, **({"updates": 10, "rows": rows} | more))


def test_the_numbers_are_those_of_the_files():
    found = status().numbers(price_per_hour=3600.0)
    assert found["update"] == "3 of 10" and found["loss"] == "2.667" and found["held-out loss"] == "5.000 (update 1)"
    assert found["cross-entropy + auxiliary"] == "2.333 + 0.333" and found["tokens/s"] == "200"
    assert (
        found["left"] == "14 s"
        and found["cost so far, of training alone"] == "6.00"
        and found["cost in the end"] == "about 20.00"
    )
    assert "left" not in status("stopped").numbers() and RunStatus("x", "none").numbers() == {}


@pytest.mark.parametrize("state", STATES)
def test_a_state_is_said_in_words_and_untrusted_text_is_escaped(state):
    html = run_cards.state_html(status(state, why=NASTY))
    assert STATES[state] in html and "<img" not in html and "30.0%" in html
    assert "<img" not in run_cards.samples_html(status().samples()) and run_cards.samples_html([]) == ""


@pytest.mark.parametrize("colour", sorted(set(run_cards.COLOURS.values())))
def test_white_letters_on_the_colour_of_a_state_are_readable(colour):
    """A contrast of 4.5, as the browser test asks of all text."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    light = sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    assert 1.05 / (light + 0.05) >= 4.5 and set(run_cards.COLOURS) == set(STATES)


@pytest.mark.parametrize(
    ("state", "has_plan", "wanted"),
    [
        ("none", True, ("Start", True, False, False)),
        ("none", False, ("Start", False, False, False)),
        ("starting", True, ("Resume", False, True, False)),
        ("running", False, ("Resume", False, True, False)),
        ("stopped", True, ("Resume", True, False, False)),
        ("dead", False, ("Resume", False, False, False)),
        ("complete", True, ("Complete", False, False, False)),
    ],
)
def test_buttons_offer_what_can_be_done(state, has_plan, wanted):
    assert board.what_can_be_done(status(state), has_plan) == wanted


@pytest.mark.parametrize("state", ["stopped", "dead", "complete", "running"])
def test_where_another_run_lies_the_plans_own_can_be_started_anew(state):
    started = {"flags": {"dim": 8}, "updates": 9}
    text, may_go, _, anew = board.what_can_be_done(status(state, started=started), True, ours=False)
    assert anew == (state != "running") and may_go == (state in ("stopped", "dead"))
    assert text == ("Complete" if state == "complete" else "Resume")
    assert board.what_can_be_done(status(state), True, ours=False)[1] is False, "its flags are not known"


def test_a_run_is_started_watched_stopped_and_resumed_by_clicks(bench, shown, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    plan = bench.plan("out", **LONG)
    panel = dashboard(plan, price_per_hour=2.0, every=0.1)
    first = shown[0]
    assert "not started" in first.state.value and not first.go.disabled and first.halt.disabled
    first.go.click()
    until(lambda: first.status.step >= 3)
    until(lambda: bytes(first.picture.value).startswith(b"\x89PNG"))
    assert first.go.disabled and not first.halt.disabled
    first.go.click()  # as a second click before the page knew
    assert "being trained already" in first.message.value
    assert "update" in panel._repr_mimebundle_()["text/plain"] and "image/png" in panel._repr_mimebundle_()

    dashboard(plan, every=0.1)  # the page was opened again, or the cell was run again
    second = shown[1]
    assert second.status.step >= 3 and "opened later" in first.message.value and first._closed.is_set()
    second.halt.click()
    assert second.status.is_going is False or "Asked to stop" in second.message.value
    until(lambda: second.status.state == "stopped")
    reached = second.status.step
    until(lambda: second.message.value == "")  # it said "Asked to stop" until it had stopped
    assert second.go.description == "Resume" and second.halt.disabled

    third = board.Dashboard(plan.weights, None, 0.0, 0.1)  # a kernel that knows no plan
    third.watch()
    assert not third.go.disabled
    third.go.click()
    assert wait_for(plan.weights, every=0.1).state == "complete"
    until(lambda: third.status.state == "complete" and "Done: " in third.log.value)
    assert third.status.step == plan.updates > reached and third.go.disabled
    assert "世界上最高的山峰是" in third.samples.value


def test_curves_that_double_are_drawn_anew_at_once_and_later_ones_at_times(tmp_path, monkeypatch):
    """The first picture of a run has one point; nobody should look at it for half a minute."""
    weights, drawn = tmp_path / "pretrain_8.pth", []
    monkeypatch.setattr(board, "png", lambda figure: b"a picture")
    monkeypatch.setattr(board, "training_figure", lambda rows, **more: drawn.append(len(rows)))
    monkeypatch.setattr(board, "DRAW_AT_MOST", 1e-9)  # the next one in years
    one = board.Dashboard(weights, None, 0.0, 9.0)
    rows = [
        {"step": step, "loss": 8.0, "lr": 1e-3, "grad_norm": 1.0, "memory": 5, "time": step} for step in range(1, 40)
    ]
    for number in (1, 2, 3, 4, 7, 8, 30, 31):
        one._show(RunStatus(weights, "running", rows=rows[:number], updates=39))
    assert drawn == [1, 2, 4, 8, 30]
    one._show(RunStatus(weights, "complete", rows=rows, updates=39))
    assert drawn[-1] == 39, "the end is drawn in any case"


def test_another_runs_resume_goes_on_with_it_and_start_anew_moves_it_aside(bench, shown, monkeypatch):
    """The dashboard of a plan shows whatever lies there: Resume means that run, with the flags it was started with."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    other = bench.trainer("out", epochs=50, max_steps=6, seed=8)
    other.on_update = lambda row: other.stop() if row["step"] == 3 else None
    other.fit()
    plan = bench.plan("out", epochs=50, max_steps=4, seed=9)
    dashboard(plan, every=0.1)
    one = shown[0]
    assert "stopped" in one.state.value and not one.go.disabled and one.anew.layout.display is None
    one.go.click()
    assert wait_for(plan.weights, every=0.1).step == 6, "it went on with the run of seed 8"
    until(lambda: one.go.description == "Complete")
    assert one.go.disabled and one.anew.layout.display is None
    one.anew.click()
    assert wait_for(plan.weights, every=0.1).step == 4
    until(lambda: one.go.description == "Complete" and one.status.step == 4)
    assert one.anew.layout.display == "none", "now it is the plan's"
    until(lambda: len(one.others.options) == 1)
    assert one.others.options[0].startswith("pretrain_16, put aside"), "what was moved aside can stand beside it"


@pytest.mark.parametrize("ticked", [True, False])
def test_the_box_decides_whether_wandb_gets_the_numbers(bench, shown, monkeypatch, ticked):
    flags = []
    monkeypatch.setattr(runs, "_launch", lambda weights, given: flags.append(given))
    plan = bench.plan("out", use_wandb=not ticked)
    dashboard(plan, every=9.0)
    one = shown[0]
    assert one.wandb.value is not ticked, "as the plan says at first"
    one.wandb.value = ticked
    one.go.click()
    assert flags[0]["use_wandb"] is ticked

    bench.trainer("out", max_steps=1).fit()
    known = board.Dashboard(plan.weights, None, 0.0, 9.0)
    assert known.wandb.value is False
    known.wandb.value = ticked
    known.begin()
    assert flags[1]["use_wandb"] is ticked and flags[1]["resume"] is True


def test_a_run_that_was_killed_says_why_and_can_be_resumed(bench, shown, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    plan = bench.plan("out", **LONG)
    dashboard(plan, every=0.1)
    shown[0].go.click()
    until(lambda: shown[0].status.step >= 1)
    kill_run(plan.weights)
    until(lambda: shown[0].status.state == "dead")
    assert "SIGKILL" in shown[0].state.value and not shown[0].go.disabled


def test_a_run_of_another_program_is_shown_and_what_it_writes_is_escaped(tmp_path, shown):
    weights = tmp_path / "pretrain_8.pth"
    folder = write_metrics(weights, status().rows)
    (folder / "train.log").write_text(NASTY + "\nStopped after update 3 of 10\n", encoding="utf-8")
    one = board.Dashboard(weights, None, 0.0, 0.1)
    assert "stopped" in one.state.value and one.go.disabled, "its flags are not known"
    pages = [one.state, one.samples, one.log]
    assert all("<img" not in page.value for page in pages) and "&lt;img" in one.log.value + one.samples.value
    write_metrics(weights, [*status().rows, row(4)])
    one.look()
    assert one.status.step == 4 and one._drawn == (5, False)


def test_finished_runs_stand_side_by_side(bench, shown):
    for rate in (2e-3, 1e-3):
        bench.trainer("out", max_steps=2, learning_rate=rate).fit()
    one = board.Dashboard(bench.folder / "out" / "pretrain_16.pth", None, 0.0, 0.1)
    (other,) = one.others.options
    assert other.startswith("pretrain_16, put aside") and one.comparison.layout.display == "none"
    one.others.value = (other,)
    assert one.comparison.layout.display is None and bytes(one.comparison.value).startswith(b"\x89PNG")
    assert one.lowest.value.count("lowest held-out loss") == 2
    one._lists_again = 0.0
    one.look()
    assert one.others.value == (other,), "a new list keeps what was chosen"
    one.others.value = ()
    assert one.comparison.layout.display == "none"


def test_an_unknown_name_is_answered_by_a_list(bench, monkeypatch):
    monkeypatch.setenv("MINIMIND_OUT", str(bench.folder / "out"))
    bench.trainer("out", max_steps=1).fit()
    with pytest.raises(CheckpointError, match=r"no run named pretrain_99.*pretrain_16"):
        dashboard("pretrain_99")


def test_an_error_while_looking_is_shown_and_the_watch_goes_on(tmp_path, monkeypatch, shown):
    one = board.Dashboard(tmp_path / "pretrain_8.pth", None, 0.0, 0.05)

    def fails(weights):
        raise RuntimeError(NASTY)

    really, looks = status_of, []
    monkeypatch.setattr(board, "status_of", fails)
    one.watch()
    until(lambda: "RuntimeError" in one.message.value)
    assert "<img" not in one.message.value
    monkeypatch.setattr(board, "status_of", lambda weights: looks.append(1) or really(weights))
    until(lambda: len(looks) > 2)
    assert one.message.value == "", "one look that failed is forgotten with the next that did not"
    one.close()
    time.sleep(0.3)
    assert threading.active_count() < 50 and not log_file(tmp_path / "pretrain_8.pth").exists()
    assert isinstance(one.panel, widgets.VBox)
