"""Configurations: what is refused and how it is said, the rules between fields, recipes and profiles."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from pathlib import Path

import pytest

from minimind_core import PROFILES, RECIPES, SCHEDULES, ConfigError, ModelConfig, TrainConfig, profile_for, with_changes


def each(*names: str, values: list) -> list[tuple[str, object]]:
    return [(name, value) for name in names for value in values]


WRONG_MODEL = [
    *each("dim", "n_layers", "n_heads", "multiple_of", values=[0, -1, 2.0, "8", True, None]),
    *each("n_kv_heads", values=[0, -1, 2.0, "8", True]),
    *each("num_experts_per_tok", "n_routed_experts", values=[0, -3, 2.5, "2", False, None]),
    *each("vocab_size", values=[3, 0, -1, 6400.0, "6400", None]),
    *each("max_seq_len", values=[1, 0, 512.0, "512", None]),
    *each("hidden_dim", values=[0, -64, 1408.0, "1408", True]),
    *each("norm_eps", values=[0, -1e-5, 2, math.nan, math.inf, "1e-5", None, True]),
    *each("rope_theta", values=[1, 0, -1e6, math.nan, math.inf, "1e6", None]),
    *each("dropout", values=[-0.1, 1, 1.5, math.nan, "0", None, False]),
    *each("aux_loss_alpha", values=[-0.1, math.inf, math.nan, "0.1", None]),
    *each("use_moe", "seq_aux", "norm_topk_prob", values=[0, 1, "False", None]),
    *each("n_shared_experts", values=[2, -1, 3, "1", 0.5, [1]]),
]

WRONG_TRAIN = [
    *each("batch_size", "accumulation_steps", "log_interval", values=[0, -1, 1.0, "8", None, True]),
    *each("epochs", "save_interval", "max_steps", "eval_interval", values=[0, -1, 1.5, "1", True]),
    *each("num_workers", values=[-1, 0.5, None]),
    *each("warmup_iters", values=[-1, 0.5, "0"]),
    *each("seed", values=[-1, 2**63, 1.5, "1337", None]),
    *each("learning_rate", values=[0, -1e-4, 11, math.nan, math.inf, "5e-4", None]),
    *each("grad_clip", values=[0, -1, math.nan, math.inf, "1", None]),
    *each("recipe", values=["slow", "", None, 1]),
    *each("dtype", values=["fp16", "float64", None, 16]),
    *each("device", values=["gpu", "cuda:x", "tpu", None, 0]),
    *each("compile", values=["yes", True, None, ""]),
    *each("use_wandb", "resume", values=[0, 1, "False", None]),
    *each("out_dir", "data_path", "valid_path", "tokenizer", "wandb_project", values=[5, True]),
]


@pytest.mark.parametrize(("name", "value"), WRONG_MODEL, ids=[f"{n}={v!r}" for n, v in WRONG_MODEL])
def test_an_impossible_model_field_is_refused_naming_field_and_value(name, value):
    with pytest.raises(ConfigError) as caught:
        ModelConfig(**{name: value})
    said = str(caught.value)
    assert name in said and (repr(value) in said or str(value) in said)
    assert any(word in said for word in ("allowed", "needed", "at most")), said


@pytest.mark.parametrize(("name", "value"), WRONG_TRAIN, ids=[f"{n}={v!r}" for n, v in WRONG_TRAIN])
def test_an_impossible_run_field_is_refused_naming_field_and_value(name, value):
    with pytest.raises(ConfigError) as caught:
        TrainConfig(**{name: value})
    said = str(caught.value)
    assert name in said and (repr(value) in said or str(value) in said)
    assert any(word in said for word in ("allowed", "needed")), said


def test_every_field_is_tried_with_something_impossible():
    assert {name for name, _ in WRONG_MODEL} == {field.name for field in dataclasses.fields(ModelConfig)}
    assert {name for name, _ in WRONG_TRAIN} == {field.name for field in dataclasses.fields(TrainConfig)}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"n_heads": 7}, ["dim=512", "n_heads=7", "1, 2, 4, 8"]),
        ({"n_heads": 512, "n_kv_heads": 512}, ["heads of 1", "even"]),
        ({"dim": 13, "n_heads": 1, "n_kv_heads": 1}, ["heads of 13", "even"]),
        ({"dim": 12, "n_heads": 4, "n_kv_heads": 4}, ["heads of 3", "even"]),
        ({"n_kv_heads": 3}, ["n_heads=8", "n_kv_heads=3", "1, 2, 4, 8"]),
        ({"n_kv_heads": 16}, ["n_kv_heads=16", "1, 2, 4, 8"]),
        ({"num_experts_per_tok": 5, "use_moe": True}, ["num_experts_per_tok=5", "n_routed_experts=4"]),
    ],
)
def test_fields_that_do_not_go_together_are_refused_with_what_would(changes, said):
    with pytest.raises(ConfigError) as caught:
        ModelConfig(**changes)
    for words in said:
        assert words in str(caught.value)


@pytest.mark.parametrize(("given", "kept"), [(None, 0), (0, 0), (False, 0), (1, 1), (True, 1)])
def test_none_or_one_shared_expert_may_be_said_in_five_ways(given, kept):
    config = ModelConfig(use_moe=True, n_shared_experts=given)
    assert config.n_shared_experts == kept and type(config.n_shared_experts) is int
    assert config == ModelConfig(use_moe=True, n_shared_experts=kept)


@pytest.mark.parametrize(
    ("dim", "multiple_of", "wanted"),
    [(512, 64, 1408), (128, 64, 384), (768, 64, 2048), (96, 64, 256), (100, 1, 266), (16, 8, 48)],
)
def test_feed_forward_width_is_eight_thirds_of_dim_rounded_up(dim, multiple_of, wanted):
    assert ModelConfig(dim=dim, n_heads=2, n_kv_heads=2, multiple_of=multiple_of).ffn_dim == wanted
    exact = int(2 / 3 * 4 * dim)
    assert wanted % multiple_of == 0 and 0 <= wanted - exact < multiple_of


def test_a_given_hidden_dim_is_taken_as_it_is():
    assert ModelConfig(hidden_dim=77).ffn_dim == 77


def test_as_many_key_value_heads_as_query_heads_when_none_are_given():
    assert ModelConfig(n_kv_heads=None).n_kv_heads == 8


def test_the_defaults_are_miniminds():
    config = ModelConfig()
    assert (config.dim, config.n_layers, config.n_heads, config.n_kv_heads, config.vocab_size) == (512, 8, 8, 2, 6400)
    assert (config.max_seq_len, config.norm_eps, config.rope_theta, config.dropout) == (512, 1e-5, 1e6, 0.0)
    assert (config.use_moe, config.num_experts_per_tok, config.n_routed_experts) == (False, 2, 4)
    assert (config.aux_loss_alpha, config.seq_aux, config.norm_topk_prob, config.head_dim) == (0.1, True, True, 64)
    train = TrainConfig()
    assert (train.batch_size, train.accumulation_steps, train.learning_rate, train.grad_clip) == (32, 8, 5e-4, 1.0)
    assert (train.log_interval, train.recipe, train.dtype, train.seed) == (100, "fast", "auto", 1337)


@pytest.mark.parametrize("config", [ModelConfig(use_moe=True, dim=64), TrainConfig(recipe="seed", epochs=3)])
def test_a_configuration_survives_its_dictionary(config):
    assert type(config).from_dict(config.to_dict()) == config


@pytest.mark.parametrize("kind", [ModelConfig, TrainConfig])
def test_unknown_fields_are_refused_with_those_there_are(kind):
    with pytest.raises(ConfigError, match=r"no field depth, width.*(dim|epochs)"):
        kind.from_dict({"width": 1, "depth": 2})
    with pytest.raises(ConfigError, match="table"):
        kind.from_dict([1, 2])


def test_a_configuration_cannot_be_changed_into_nonsense_later():
    config = ModelConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.n_heads = 7
    with pytest.raises(ConfigError):
        with_changes(config, n_heads=7)
    with pytest.raises(ConfigError, match="no field heads"):
        with_changes(config, heads=4)
    assert with_changes(config, n_heads=4).n_heads == 4 and config.n_heads == 8


def test_paths_may_be_given_as_paths_and_are_kept_as_text():
    train = TrainConfig(out_dir=Path("out"), data_path=Path("a.jsonl"), valid_path=Path("b.jsonl"), tokenizer=Path("t"))
    assert train == TrainConfig(out_dir="out", data_path="a.jsonl", valid_path="b.jsonl", tokenizer="t")
    assert {type(value) for value in train.to_dict().values()} <= {str, int, float, bool, type(None)}


def test_every_field_explains_itself():
    for kind in (ModelConfig, TrainConfig):
        for field in dataclasses.fields(kind):
            assert len(field.metadata["help"]) > 10, field.name
    for field in dataclasses.fields(RECIPES["seed"]):
        assert len(field.metadata["help"]) > 10, field.name


def test_the_seed_recipe_is_what_minimind_does():
    seed = RECIPES["seed"]
    assert (seed.rows, seed.shuffle, seed.optimizer, seed.schedule) == ("padded", False, "adamw", "seed")
    assert (seed.warmup, seed.weight_decay, seed.lr_scale, seed.cuda_dtype) == (0.0, 0.01, 1.0, "float16")
    assert (seed.momentum, seed.beta2) == (0.9, 0.999)  # AdamW's own defaults
    assert not seed.window_loss


def test_recipes_name_schedules_and_formats_that_exist():
    assert set(RECIPES) == {"seed", "fast"}
    for recipe in RECIPES.values():
        assert recipe.schedule in SCHEDULES
        assert recipe.cuda_dtype in ("float16", "bfloat16", "float32")
        assert recipe.rows in ("padded", "packed") and recipe.optimizer in ("adamw", "muon")
        assert 0 <= recipe.warmup < 1 and 0 < recipe.momentum < 1 and 0 < recipe.beta2 < 1


def test_the_full_runs_weights_forget_neither_at_once_nor_never():
    fast, updates = RECIPES["fast"], 3_200  # 415M tokens in updates of 256 packed rows of 511
    memory = 1 / (TrainConfig().learning_rate * fast.lr_scale * fast.weight_decay)  # in updates, at the peak rate
    assert 0.1 < memory / updates < 0.5


def test_each_device_has_a_profile():
    assert profile_for("cuda") is profile_for("cuda:1") is PROFILES["gpu"]
    assert profile_for("cpu") is profile_for("mps") is PROFILES["laptop"]
    for name, profile in PROFILES.items():
        assert profile.name == name and profile.sample_epochs >= 1
    assert PROFILES["gpu"].model == ModelConfig()


def test_configurations_are_checked_without_waiting_for_torch():
    code = "import minimind_core.config, minimind_core.corpus, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent).returncode == 0
