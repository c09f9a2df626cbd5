"""Command lines: a flag for every field, flags that do what they say, errors on one line, a run from end to end."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
import types

import pytest
import torch
from conftest import Bench, tiny_texts, write_rows

from minimind_core import (
    PROMPTS,
    CheckpointError,
    MiniMindLM,
    ModelConfig,
    TrainConfig,
    Trainer,
    estimate,
    list_runs,
    load_run,
    read_metrics,
    save_tokenizer,
    save_weights,
    start_run,
    wait_for,
)
from minimind_core import eval_model as evaluating
from minimind_core import preflight as looking
from minimind_core import train_pretrain as training
from minimind_core.checkpoint import read_facts
from minimind_core.cli import friendly, parse_flags
from minimind_core.paths import PROJECT
from minimind_core.preflight import spoken_time
from minimind_core.run_lock import run_lock
from minimind_core.run_status import log_file

SEEDS_FLAGS = """
    out_dir epochs batch_size learning_rate device dtype use_wandb wandb_project num_workers accumulation_steps
    grad_clip warmup_iters log_interval save_interval dim n_layers max_seq_len use_moe data_path
"""
OWN_FLAGS = "recipe resume valid_path tokenizer max_steps seed"


def parsed(*flags: str) -> dict:
    return parse_flags(list(flags), "prog", "words")


def tiny_flags(bench: Bench, out: str, **changes: object) -> list[str]:
    """The flags of a tiny run as they are typed."""
    flags: dict[str, object] = {
        "data_path": bench.corpus,
        "valid_path": bench.valid,
        "tokenizer": bench.tokenizer,
        "out_dir": bench.folder / out,
        "dim": 16,
        "n_layers": 1,
        "n_heads": 4,
        "vocab_size": 400,
        "max_seq_len": 32,
        "batch_size": 4,
        "accumulation_steps": 2,
        "log_interval": 2,
        "device": "cpu",
    }
    return [word for name, value in (flags | changes).items() for word in (f"--{name}", str(value))]


@pytest.fixture(scope="session")
def trained(tmp_path_factory, tiny_tokenizer) -> Bench:
    """A bench with a run of the seed recipe in out/, trained from the command line in this process."""
    folder = tmp_path_factory.mktemp("cli")
    bench = Bench(
        folder,
        write_rows(folder / "corpus.jsonl", tiny_texts(26)),
        write_rows(folder / "valid.jsonl", tiny_texts(5, start=100)),
        save_tokenizer(tiny_tokenizer, folder / "tokenizer"),
    )
    assert training.main([*tiny_flags(bench, "out"), "--recipe", "seed"]) == 0
    return bench


# --- flags --------------------------------------------------------------------------------------------------------


def test_help_shows_a_flag_for_every_field_of_both_configurations(capsys):
    with pytest.raises(SystemExit) as ended:
        training.main(["--help"])
    shown = capsys.readouterr().out
    flags = set(re.findall(r"--(\w+)", shown))
    assert ended.value.code == 0
    for config in (TrainConfig, ModelConfig):
        assert {field.name for field in dataclasses.fields(config)} <= flags
    assert set(f"{SEEDS_FLAGS} {OWN_FLAGS}".split()) <= flags
    assert "[0.0005]" in shown and "[MiniMind-Pretrain]" in shown


def test_help_does_not_wait_for_torch():
    code = (
        "import sys, contextlib\n"
        "from minimind_core import train_pretrain, eval_model\n"
        "for main in (train_pretrain.main, eval_model.main):\n"
        "    with contextlib.suppress(SystemExit): main(['--help'])\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--learning_rate" in done.stdout and "--model_mode" in done.stdout


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ([], None),
        (["--use_moe"], True),
        (["--use_moe", "True"], True),
        (["--use_moe", "true"], True),
        (["--use_moe", "1"], True),
        (["--use_moe", "False"], False),
        (["--use_moe", "false"], False),
        (["--use_moe=False"], False),
        (["--use_moe", "0"], False),
        (["--use_moe", "--dim", "64"], True),
    ],
    ids=str,
)
def test_a_yes_or_no_flag_does_what_it_says(typed, meant):
    assert parsed(*typed).get("use_moe") is meant


def test_every_flag_keeps_the_type_of_its_field():
    given = parsed(
        "--epochs", "2", "--learning_rate", "1e-3", "--device", "cpu", "--resume", "--n_kv_heads", "4",
        "--norm_topk_prob", "False", "--hidden_dim", "96", "--max_steps", "7", "--rope_theta", "10000",
    )  # fmt: skip
    assert given == {
        "epochs": 2, "learning_rate": 1e-3, "device": "cpu", "resume": True, "n_kv_heads": 4, "norm_topk_prob": False,
        "hidden_dim": 96, "max_steps": 7, "rope_theta": 1e4,
    }  # fmt: skip


def test_flags_that_are_not_given_are_left_to_the_plan():
    assert parsed() == {}


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["--use_moe", "maybe"], "neither True nor False"),
        (["--dim", "wide"], "'wide' is not a whole number"),
        (["--batch_size", "2.5"], "'2.5' is not a whole number"),
        (["--batchsize", "2"], "unrecognized arguments"),
        (["--batch", "2"], "unrecognized arguments"),
        (["--learning_rate", "fast"], "--learning_rate"),
    ],
    ids=str,
)
def test_a_flag_that_makes_no_sense_is_refused(capsys, typed, said):
    with pytest.raises(SystemExit) as ended:
        training.main(typed)
    assert ended.value.code == 2 and said in capsys.readouterr().err


# --- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data_path": "nowhere.jsonl"}, "nowhere.jsonl is not there"),
        ({"data_path": "."}, "is a folder"),
        ({"valid_path": "nowhere.jsonl"}, "nowhere.jsonl is not there"),
        ({"tokenizer": "nowhere"}, "nowhere is not there"),
        ({"n_heads": 3}, "n_heads=3"),
        ({"dim": 0}, "dim=0: allowed is 1 or more"),
        ({"dtype": "float8"}, "allowed are auto, float32, bfloat16, float16"),
        ({"recipe": "slow"}, "allowed are seed, fast"),
        ({"device": "cuda:77"}, "cuda:77"),
        ({"device": "toaster"}, "toaster"),
        ({"vocab_size": 300}, "vocab_size=300"),
        ({"learning_rate": -1}, "learning_rate=-1.0"),
    ],
    ids=lambda value: str(value),
)
def test_an_error_is_one_sentence_and_exit_code_two(bench, capsys, changes, said):
    assert training.main(tiny_flags(bench, "out", **changes)) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ") and said in printed.err
    assert "Traceback" not in printed.err and printed.err.count("\n") == 1
    assert not (bench.folder / "out").exists()


def test_a_broken_corpus_is_named_with_its_line(bench, capsys):
    with open(bench.corpus, "a", encoding="utf-8") as file:
        file.write('{"text": "cut')
    assert training.main(tiny_flags(bench, "out")) == 2
    assert "corpus.jsonl, line 27: not a JSON object" in capsys.readouterr().err


def test_a_run_that_another_process_trains_is_refused(bench, capsys):
    with run_lock(bench.folder / "out" / "pretrain_16"):
        assert training.main(tiny_flags(bench, "out")) == 2
    assert "another process" in capsys.readouterr().err


def test_only_errors_that_a_person_can_mend_are_shortened(capsys):
    def failing(error):
        @friendly
        def main(argv=None):
            raise error

        return main

    assert failing(CheckpointError("mend this"))([]) == 2
    assert capsys.readouterr().err == "error: mend this\n"
    assert failing(KeyboardInterrupt())([]) == 130
    with pytest.raises(ZeroDivisionError):
        failing(ZeroDivisionError())([])


# --- training -----------------------------------------------------------------------------------------------------


def test_a_run_says_what_it_chose_what_it_needs_and_where_the_weights_are(bench, capsys):
    assert training.main([*tiny_flags(bench, "out"), "--recipe", "seed", "--epochs", "2"]) == 0
    printed = capsys.readouterr().out
    for words in (
        "Device: CPU",
        "Numbers: float32",
        "corpus.jsonl, as asked",
        "tokens in 7 micro-steps of 4 rows; 2 epochs, 8 updates, seed recipe",
        "M parameters; about",
        "GiB of memory",
        "MB on disk",
        "Done: 8 updates",
        "Held out: loss",
        "bits per byte",
        "Weights: ",
    ):
        assert words in printed
    assert len(re.findall(r"^Epoch:\[\d/2\]\(\d/7\) loss:\S+ lr:\S+ epoch_Time:\d+\.\dmin:$", printed, re.M)) >= 8
    assert printed.index("GiB of memory") < printed.index("Epoch:[1/2](0/7)")


def test_what_the_command_line_trains_is_what_a_trainer_trains(trained):
    torch.manual_seed(99)
    flags = {"recipe": "seed", "learning_rate": None, "n_kv_heads": None, "log_interval": 2}
    result = trained.trainer("same", **flags).fit()
    one, two = (torch.load(path / "pretrain_16.pth") for path in (trained.folder / "out", result.weights.parent))
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_resume_is_a_flag_and_a_complete_run_says_so(trained, capsys):
    assert training.main([*tiny_flags(trained, "out"), "--recipe", "seed", "--resume"]) == 0
    assert "is complete: 4 updates" in capsys.readouterr().out


def test_resuming_as_another_run_is_an_error_of_one_sentence(trained, capsys):
    assert training.main([*tiny_flags(trained, "out", batch_size=2), "--recipe", "seed", "--resume"]) == 2
    assert "cannot be resumed with another batch_size" in capsys.readouterr().err


def test_experts_from_the_command_line_have_a_file_of_their_own(bench):
    assert training.main([*tiny_flags(bench, "out", max_steps=1), "--use_moe", "True"]) == 0
    assert training.main([*tiny_flags(bench, "out", max_steps=1), "--use_moe", "False"]) == 0
    kinds = {run.weights.name: run.facts["model"]["use_moe"] for run in list_runs(bench.folder / "out")}
    assert kinds == {"pretrain_16_moe.pth": True, "pretrain_16.pth": False}


def test_a_low_precision_that_the_cpu_lacks_runs_as_float32_with_a_word(bench, capsys, monkeypatch):
    monkeypatch.setattr("minimind_core.precision.cpu_has", lambda name: False)
    assert training.main(tiny_flags(bench, "out", max_steps=1, dtype="bfloat16")) == 0
    assert "this CPU has no fast bfloat16: float32 is used" in capsys.readouterr().out
    assert read_facts(bench.folder / "out" / "pretrain_16.pth")["dtype"] == "float32"


def test_an_estimate_leaves_the_run_after_it_unchanged(bench):
    plan = bench.plan("out", recipe="seed")
    before = torch.get_rng_state()
    needs = estimate(plan, steps=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert needs.measured_steps == 2 and needs.seconds > 0 and needs.memory_bytes > 0 and needs.free_disk_bytes > 0
    assert needs.parameters == sum(p.numel() for p in Trainer(plan, bar=False).model.parameters())
    assert not plan.weights.parent.exists()


@pytest.mark.parametrize(
    ("seconds", "spoken"), [(3, "3 s"), (80, "80 s"), (200, "3.3 min"), (7200, "2.0 h"), (172_800, "2.0 days")]
)
def test_times_are_spoken_in_a_fitting_unit(seconds, spoken):
    assert spoken_time(seconds) == spoken


def test_preflight_reports_the_machine_and_the_run(bench, capsys):
    assert looking.main(tiny_flags(bench, "out")) == 0
    printed = capsys.readouterr().out
    for words in (
        f"torch: {torch.__version__}",
        "device: ",
        "memory: ",
        "disk for out",
        "M parameters",
        "GiB of memory",
    ):
        assert words in printed


# --- continuing ---------------------------------------------------------------------------------------------------


def seeds_words(bench: Bench, **changes: object) -> list[str]:
    flags: dict[str, object] = {"model_mode": 0, "dim": 16, "n_layers": 1, "out_dir": bench.folder / "out", "load": 0}
    return [word for name, value in (flags | changes).items() for word in (f"--{name}", str(value))]


def test_the_seeds_words_continue_the_seven_prompts(trained, capsys):
    assert evaluating.main([*seeds_words(trained), "--max_new_tokens", "8"]) == 0
    printed = capsys.readouterr().out
    assert [printed.count(f"👶 {prompt}") for prompt in PROMPTS] == [1] * 7
    assert "0.01M parameters" in printed and "seed 42" in printed


def test_the_same_seed_says_the_same_and_another_something_else(trained, capsys):
    said = []
    for seed in (1, 1, 2):
        assert evaluating.main([*seeds_words(trained, seed=seed, temperature=1.5), "--prompt", "山"]) == 0
        said.append(capsys.readouterr().out.split("👶")[1])
    assert said[0] == said[1] != said[2]


def test_given_prompts_are_continued_by_the_model_and_its_tokenizer(trained, capsys):
    words = seeds_words(trained, temperature=0, max_new_tokens=12)
    assert evaluating.main([*words, "--prompt", "1号山", "--prompt", "水"]) == 0
    printed = capsys.readouterr().out
    from minimind_core import continue_text

    model, tokenizer, _ = load_run(trained.folder / "out" / "pretrain_16.pth")
    for prompt in ("1号山", "水"):
        whole = continue_text(model, tokenizer, prompt, temperature=0, max_new_tokens=12)
        assert f"👶 {prompt}{whole}\n" in printed


def test_without_a_width_the_newest_model_is_taken(trained, capsys):
    assert evaluating.main(["--out_dir", str(trained.folder / "out"), "--prompt", "山", "--max_new_tokens", "1"]) == 0
    assert "pretrain_16.pth" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dim": 512}, ["pretrain_512.pth is not there", "pretrain_16.pth", "dim 16 × 1 layers"]),
        ({"use_moe": True}, ["pretrain_16_moe.pth is not there", "pretrain_16.pth"]),
        ({"n_layers": 8}, ["n_layers=1, not 8"]),
        ({"model_mode": 1}, ["--model_mode 1", "allowed is 0"]),
        ({"load": 1}, ["--load 1"]),
        ({"weights": "nowhere.pth"}, ["nowhere.pth is not there"]),
        ({"temperature": -1}, ["temperature=-1.0"]),
        ({"device": "cuda:77"}, ["cuda:77"]),
    ],
    ids=str,
)
def test_what_is_not_there_is_answered_by_what_is(trained, capsys, changes, said):
    assert evaluating.main(seeds_words(trained, **changes)) == 2
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    for words in said:
        assert words in printed


def test_with_no_model_at_all_the_way_to_one_is_named(tmp_path, capsys):
    for words in ([], ["--dim", "512"]):
        assert evaluating.main(["--out_dir", str(tmp_path), *words]) == 2
        assert "has no model yet: `python -m minimind_core.train_pretrain` makes one" in capsys.readouterr().err


def test_weights_without_a_configuration_are_an_error_of_one_sentence(tmp_path, capsys, tiny_model):
    torch.save(tiny_model().state_dict(), tmp_path / "pretrain_16.pth")
    assert evaluating.main(["--out_dir", str(tmp_path), "--dim", "16"]) == 2
    assert "no config.json beside it" in capsys.readouterr().err


def test_weights_without_their_tokenizer_are_an_error_of_one_sentence(tmp_path, capsys, tiny_model):
    save_weights(tiny_model(), tmp_path / "pretrain_16.pth")
    assert evaluating.main(["--out_dir", str(tmp_path), "--dim", "16"]) == 2
    assert "tokenizer.json is not there" in capsys.readouterr().err


def at_a_terminal(monkeypatch, *answers: str) -> None:
    """Let standard input be a terminal at which these answers are typed, and then Ctrl-D."""
    typed = iter(answers)

    def answer(question: str = "") -> str:
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", answer)


def test_at_a_terminal_prompts_can_be_typed_until_an_empty_one(trained, capsys, monkeypatch):
    at_a_terminal(monkeypatch, "1", "山是", "水是", "")
    assert evaluating.main(seeds_words(trained, max_new_tokens=2)) == 0
    printed = capsys.readouterr().out
    assert "山是" in printed and "水是" in printed and PROMPTS[0] not in printed


def test_at_a_terminal_the_seven_prompts_can_be_chosen(trained, capsys, monkeypatch):
    at_a_terminal(monkeypatch, "0")
    assert evaluating.main(seeds_words(trained, max_new_tokens=2)) == 0
    assert PROMPTS[6] in capsys.readouterr().out


@pytest.mark.parametrize("answers", [(), ("1",), ("1", "山是")], ids=["at once", "after choosing", "after a prompt"])
def test_the_end_of_input_ends_the_questions_quietly(trained, monkeypatch, answers):
    at_a_terminal(monkeypatch, *answers)
    assert evaluating.main(seeds_words(trained, max_new_tokens=2)) in (0, 130)


# --- in processes of their own ------------------------------------------------------------------------------------


def test_a_run_in_its_own_process_can_be_watched_and_its_model_continued(bench, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    plan = bench.plan("out", recipe="seed", epochs=2)
    start_run(plan)
    assert wait_for(plan.weights, every=0.1).state == "complete"
    said = log_file(plan.weights).read_text(encoding="utf-8")
    assert "Epoch:[2/2](6/7)" in said and "Weights: " in said and "Warning" not in said
    run = list_runs(bench.folder / "out")[0]
    assert run.facts["complete"] and not run.is_alive()
    assert [row["step"] for row in read_metrics(run.folder / "metrics.jsonl") if "lr" in row] == list(range(1, 9))
    done = subprocess.run(
        [sys.executable, "-m", "minimind_core.eval_model", *seeds_words(bench, max_new_tokens=4)],
        cwd=PROJECT, stdin=subprocess.DEVNULL, capture_output=True, timeout=900,
    )  # fmt: skip
    printed = done.stdout.decode("utf-8")
    assert done.returncode == 0 and done.stderr == b""
    assert all(prompt in printed for prompt in PROMPTS) and "[0]" not in printed


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="processes are tied together by gloo, which is tried on Linux")
def test_two_processes_train_what_one_with_twice_the_batch_trains(bench, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    words = [*tiny_flags(bench, "two", batch_size=2), "--recipe", "seed", "--epochs", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m",
         "minimind_core.train_pretrain", *words],
        cwd=PROJECT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("Done: 8 updates") == 1
    alone = [*tiny_flags(bench, "one", batch_size=4), "--recipe", "seed", "--epochs", "2"]
    assert training.main(alone) == 0
    two, one = (torch.load(bench.folder / name / "pretrain_16.pth") for name in ("two", "one"))
    for key in one:
        torch.testing.assert_close(two[key], one[key], atol=1e-4, rtol=1e-3)
    losses = [
        [row["loss"] for row in read_metrics(bench.folder / name / "pretrain_16" / "metrics.jsonl") if "lr" in row]
        for name in ("two", "one")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("command", [training.main, looking.main], ids=["train_pretrain", "preflight"])
def test_a_run_that_no_memory_can_hold_is_refused_before_it_is_tried(bench, capsys, monkeypatch, command):
    little = types.SimpleNamespace(available=1 << 20, total=1 << 20)
    monkeypatch.setattr(looking.psutil, "virtual_memory", lambda: little)
    assert command(tiny_flags(bench, "out")) == 2
    assert re.search(r"error: --batch_size 4, .* need about \d+ GiB; this machine has 0", capsys.readouterr().err)


def test_an_estimate_takes_no_more_rows_than_the_corpus_has(bench, monkeypatch):
    plan, shapes = bench.plan("out", recipe="seed", batch_size=1000), []
    really = MiniMindLM.forward
    monkeypatch.setattr(MiniMindLM, "forward", lambda self, ids: (shapes.append(ids.shape[0]), really(self, ids))[1])
    looking.estimate(plan, steps=1)
    assert set(shapes) == {26}
