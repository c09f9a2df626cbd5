"""The baseline that the benchmarks compare with is what it claims to be, and the benchmarks run."""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time

import pytest
import torch
from conftest import tiny_config

from minimind_core import PretrainDataset, get_lr
from minimind_core.paths import PROJECT, SAMPLE, SAMPLE_VALID
from minimind_core.plots import recipes as recipe_plots

sys.path.insert(0, str(PROJECT / "benchmarks"))

import left
import measure
import minimind_way
import recipes
import report
import sooner
import speed


@pytest.fixture
def baseline(golden):
    """MiniMind's way with the reference's initial weights."""
    model = minimind_way.Model(golden.config)
    model.load_state_dict(golden.model().state_dict())
    return model


def test_the_baselines_logits_are_the_references(golden, baseline):
    with torch.no_grad():
        logits, _, _ = baseline.eval()(golden.tensors["input_ids"])
    torch.testing.assert_close(logits, golden.tensors["eval_logits"], atol=1e-5, rtol=0)


def test_the_baselines_training_run_is_the_references(golden, baseline):
    figures, tensors = golden.figures["train"], golden.tensors
    optimizer, losses = torch.optim.AdamW(baseline.parameters(), lr=figures["lr"]), []
    for step, (rows, mask) in enumerate(zip(tensors["train_batches"], tensors["train_masks"], strict=True)):
        for group in optimizer.param_groups:
            group["lr"] = get_lr(step, 12, figures["lr"])
        ce, aux_loss = minimind_way.loss_of(baseline.train(), rows[:, :-1], rows[:, 1:], mask)
        ((ce + aux_loss) / figures["accumulation_steps"]).backward()
        losses.append((ce + aux_loss).item())
        if (step + 1) % figures["accumulation_steps"] == 0:
            torch.nn.utils.clip_grad_norm_(baseline.parameters(), figures["grad_clip"])
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    first = figures["accumulation_steps"]  # before any update; AdamW then carries rounding on, and CPUs differ
    assert losses[:first] == pytest.approx(figures["losses"][:first], abs=2e-6)
    assert losses == pytest.approx(figures["losses"], abs=3e-5)
    with torch.no_grad():
        logits, _, _ = baseline.eval()(tensors["input_ids"])
    torch.testing.assert_close(logits, tensors["logits_after_training"], atol=1e-3, rtol=0)


def test_the_baselines_greedy_tokens_are_the_references(golden, baseline):
    prompt = golden.tensors["input_ids"][:1, :6]
    found = minimind_way.generate(baseline.eval(), prompt, 20, temperature=1e-6, top_p=1.0, penalty=1.0)
    assert found[:, 6:].tolist() == golden.tensors["greedy_ids"].tolist()


def test_the_baselines_rows_are_minimind_s(corpus, tiny_tokenizer):
    path = corpus(["<s>一号山是什么颜色？</s> <s>红色</s>", "没有标记的一行", "<s>" + "长" * 90 + "</s>"])
    ours = PretrainDataset(path, tiny_tokenizer, max_length=40, as_minimind=True)
    theirs = minimind_way.Rows(path, tiny_tokenizer, max_length=40)
    assert len(ours) == len(theirs) == 3
    for number in range(3):
        for one, other in zip(ours[number], theirs[number], strict=True):
            assert torch.equal(one, other)


# --- the benchmarks themselves, on models that compute in a moment ---------------------------------------------------


@pytest.fixture
def asked(tmp_path) -> argparse.Namespace:
    return argparse.Namespace(corpus=str(SAMPLE), tokenizer=None, rounds=1)


@pytest.mark.parametrize("use_moe", [False, True])
def test_both_sides_of_a_step_are_timed_from_the_same_weights(asked, monkeypatch, use_moe):
    tiny = {"dim": 16, "n_layers": 1, "n_heads": 2, "n_kv_heads": 1, "vocab_size": 400, "max_seq_len": 64}
    monkeypatch.setattr(speed, "CASES", {"laptop": tiny | {"use_moe": use_moe}})
    monkeypatch.setattr(speed, "ROWS", 4)
    monkeypatch.setattr(speed, "fresh", lambda script, arguments: 1000)
    theirs, model = speed.their_update(asked, "laptop", torch.device("cpu"))
    ours, our_model = speed.our_update(asked, "laptop", model.state_dict())
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in our_model.state_dict().items())
    for turn in (theirs, theirs, ours):
        tokens, seconds = turn()
        assert tokens == 4 * 63, "rows of the sample are full at this length"
        assert 0 < seconds < 10
    assert any(not torch.equal(value, model.state_dict()[name]) for name, value in our_model.state_dict().items())
    facts = speed.compare_steps(asked, "laptop")
    assert facts["ratio"] == pytest.approx(facts["our_tokens_per_s"] / facts["their_tokens_per_s"])
    assert facts["real_share_of_their_rows"] == 1.0 and facts["memory_bytes"] == [1000, 1000]


def test_a_run_steps_once_after_eight_micro_batches(monkeypatch):
    clock = itertools.count(step=5.0)  # a micro-batch and a step take five seconds together
    monkeypatch.setattr(speed, "now", lambda: next(clock))
    theirs, ours = (lambda: (100, 1.0)), (lambda: (100, 3.0))  # one second of them, or three, is the optimizer's
    found = speed.alternate(theirs, ours, rounds=2, micro_batches=8)
    assert found == [(pytest.approx(800 / 33), pytest.approx(800 / 19))] * 2
    assert speed.alternate(theirs, ours, rounds=1) == [(20, 20)]


def test_new_tokens_are_timed_beside_the_bare_products(asked, monkeypatch):
    monkeypatch.setattr(speed, "NEW_TOKENS", 5)
    monkeypatch.setattr(speed, "ModelConfig", tiny_config)
    for use_moe in (False, True):
        facts = speed.compare_generation(asked, use_moe)
        assert 0 < facts["our_tokens_per_s"] < facts["bare_products_tokens_per_s"]


def test_time_to_a_loss_is_taken_of_training_alone(tmp_path):
    asked = argparse.Namespace(
        train=str(SAMPLE), valid=str(SAMPLE_VALID), rate=3e-3, fast_rate=1e-3, fewer=2.0, tokens=4000, dim=16, layers=1,
        vocab=400, length=64, rows=4,
    )  # fmt: skip
    seconds, loss, tokens = sooner.their_run(asked, sooner.plan_of(asked, str(tmp_path), 1, recipe="seed"))
    assert 0 < seconds < 60 and 2 < loss < 7 and tokens == pytest.approx(4000, rel=0.1)
    seconds, loss, tokens = sooner.our_run(asked, str(tmp_path), 1)
    assert 0 < seconds < 60 and 2 < loss < 7 and tokens == pytest.approx(2000, rel=0.1)


def test_what_is_left_is_sorted_by_kind(tmp_path, monkeypatch):
    monkeypatch.setattr(left, "ModelConfig", lambda use_moe: tiny_config(use_moe=use_moe, dim=32, max_seq_len=64))
    monkeypatch.setattr(left, "square_product", lambda dtype: (lambda: time.sleep(0.01), 10**8))
    monkeypatch.setattr(sys, "argv", ["left.py", "--rounds", "1", "--json", str(tmp_path / "left.json")])
    assert left.main() == 0
    facts = json.loads((tmp_path / "left.json").read_text())["dense"]
    assert sum(facts["shares"].values()) == pytest.approx(1, abs=1e-3)
    assert facts["shares"]["matrix products"] > 0 and facts["shares"]["attention"] > 0
    assert facts["best_flops_per_s"] == pytest.approx(1e10, rel=0.3)
    assert facts["seconds"] > 0 and facts["share_of_best_rate"] > facts["share_of_best_rate_causal"] > 0


def test_peak_memory_is_that_of_a_process_and_grows_with_what_it_holds(tmp_path):
    script = tmp_path / "holds.py"
    script.write_text(
        f"import sys; sys.path[:0] = [{str(PROJECT)!r}, {str(PROJECT / 'benchmarks')!r}]\n"
        "import measure, torch\n"
        "before = measure.peak_memory(torch.device('cpu'))\n"
        "held = torch.ones(int(sys.argv[1]))\n"
        "print(measure.peak_memory(torch.device('cpu')) - before)\n",
        encoding="utf-8",
    )
    assert measure.fresh(str(script), ["50000000"]) == pytest.approx(200e6, rel=0.1)


def test_results_are_added_part_by_part(tmp_path):
    measure.write(tmp_path / "some.json", {"dense": 1, "moe": 2})
    measure.write(tmp_path / "some.json", {"moe": 3})
    assert json.loads((tmp_path / "some.json").read_text()) == {"dense": 1, "moe": 3}


def test_the_readme_shows_the_figures_that_were_measured():
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    assert report.in_readme(readme) == readme, "python benchmarks/report.py --readme"
    assert len(report.lines()) >= 5


def test_every_difference_between_the_recipes_stands_in_the_table_with_what_it_gains():
    lines = recipe_plots.ladder()
    assert lines[0]["name"] == "seed" and lines[-1]["name"].endswith("= fast")
    learned = {field for line in lines for field in line["changed"]}
    named = learned | set(recipe_plots.NOT_LEARNING)
    assert not learned & set(recipe_plots.NOT_LEARNING)
    seed, fast = (vars(recipe_plots.RECIPES[name]) for name in ("seed", "fast"))
    assert named == {field for field in seed if seed[field] != fast[field]}
    for field, (_, now) in ((f, v) for line in lines for f, v in line["changed"].items()):
        assert fast[field] == now, f"{field} was measured with another value: run benchmarks/recipes.py again"
    shown = recipe_plots.recipe_gains().data
    assert all(field in shown for field in named) and "+" in shown
    rates = [recipes.MINIMIND_RATE, *(line["rate"] for line in lines)]
    changes = [f"rate {old:g} → {new:g}" for old, new in itertools.pairwise(rates) if old != new]
    assert len(changes) == 2 and all(change in shown for change in changes)
    runs = json.loads(recipe_plots.RESULTS.read_text(encoding="utf-8"))["runs"]
    given = [run["curve"][-1][1] for run in runs if run["name"] == recipes.AS_GIVEN]
    tuned = lines[0]["losses"].values()
    assert f"{sum(given) / len(given) - sum(tuned) / len(tuned):+.3f} ±" in shown, "what the rate alone gains"


def test_the_readme_says_how_many_times_fewer_tokens_were_measured():
    runs = json.loads(recipe_plots.RESULTS.read_text(encoding="utf-8"))["runs"]
    goals, fast = (recipe_plots.ladder()[place]["losses"] for place in (0, -1))
    ratios = []
    for seed, goal in goals.items():
        fitted = [run["curve"][-1] for run in runs if run["name"] == recipes.FITTED and run["seed"] == seed]
        whole = [next(run["tokens"] for run in runs if run["name"] == "seed"), fast[seed]]
        ratios.append(whole[0] / recipes.crossing([*sorted(fitted), whole], goal))
    assert len(ratios) >= 3
    assert f"{sum(ratios) / len(ratios):.1f} times fewer tokens" in (PROJECT / "README.md").read_text(encoding="utf-8")


def test_each_line_tells_what_the_fast_recipe_misses_without_it():
    *_, before_muon, without_rate, fast = (line["losses"] for line in recipe_plots.ladder())
    runs = json.loads(recipe_plots.RESULTS.read_text(encoding="utf-8"))["runs"]
    missing = [before_muon, without_rate]
    for name in recipes.left_out():
        found = {run["seed"]: run["curve"][-1][1] for run in runs if run["name"] == name}
        assert found.keys() == fast.keys(), f"{name} was not run with every seed"
        missing.append(found)
    shown = recipe_plots.recipe_gains().data
    for losses in missing:
        assert f"{sum(losses[seed] - fast[seed] for seed in fast) / len(fast):+.3f}" in shown


def test_the_cost_of_sight_is_told_from_the_measured_runs():
    runs = json.loads(recipe_plots.RESULTS.read_text(encoding="utf-8"))["runs"]
    confined = {run["seed"]: run["curve"][-1][1] for run in runs if not run["sight"]}
    fast = {seed: loss for seed, loss in recipe_plots.ladder()[-1]["losses"].items() if seed in confined}
    assert len(fast) >= 3, "several seeds"
    mean = sum(fast[seed] - confined[seed] for seed in fast) / len(fast)
    assert f"{mean:+.3f} nats per token" in recipe_plots.sight_cost()
