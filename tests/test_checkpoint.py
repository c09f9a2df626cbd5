"""Weights on disk: what was saved comes back, and nothing damaged, foreign or malicious is taken for it."""

from __future__ import annotations

import json
import os
import pickle
import warnings
from pathlib import Path

import pytest
import torch
from conftest import tiny_config

from minimind_core import CheckpointError, MiniMindLM, checkpoint, files, load_model, load_run, save_weights
from minimind_core.checkpoint import read_facts
from minimind_core.files import atomic_write
from minimind_core.run_state import read_newest_state, write_state

IDS = torch.tensor([[1, 7, 9, 4], [3, 3, 8, 0]])


def logits(model: MiniMindLM) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IDS).logits


@pytest.fixture
def saved(tmp_path, tiny_model, tiny_tokenizer) -> tuple[MiniMindLM, Path]:
    """A small model and the file that it was saved to, tokenizer and all."""
    model = tiny_model(seed=4)
    save_weights(model, tmp_path / "pretrain_16.pth", {"step": 7, "loss": 2.5}, tiny_tokenizer)
    return model, tmp_path / "pretrain_16.pth"


@pytest.fixture
def bare(tmp_path, tiny_model):
    """`bare(state)` writes a weights file without a folder beside it, as MiniMind does."""

    def write(state=None, **changes) -> Path:
        path = tmp_path / "bare.pth"
        torch.save(tiny_model(**changes).state_dict() if state is None else state, path)
        return path

    return write


# --- there and back -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("use_moe", [False, True])
def test_a_loaded_model_says_exactly_what_the_saved_one_said(tmp_path, tiny_model, use_moe):
    model = tiny_model(use_moe=use_moe).train()
    save_weights(model, tmp_path / "deep" / "er" / "pretrain_16.pth")
    found = load_model(tmp_path / "deep" / "er" / "pretrain_16.pth")
    assert not found.training and found.config == model.config
    assert torch.equal(logits(found), logits(model))
    assert found.tok_embeddings.weight is found.output.weight


def test_the_file_is_a_plain_state_dict_with_miniminds_names(saved):
    model, path = saved
    state = torch.load(path, weights_only=True)
    assert type(state) is dict or type(state).__name__ == "OrderedDict"
    assert set(state) == set(model.state_dict())
    assert all(value.dtype == torch.float32 and value.device.type == "cpu" for value in state.values())
    assert state["tok_embeddings.weight"].data_ptr() == state["output.weight"].data_ptr()
    MiniMindLM(model.config).load_state_dict(state, strict=True)


def test_weights_of_another_format_are_saved_in_float32(tmp_path, tiny_model):
    save_weights(tiny_model().bfloat16(), tmp_path / "w.pth")
    assert all(value.dtype == torch.float32 for value in torch.load(tmp_path / "w.pth").values())


def test_configuration_facts_sum_and_tokenizer_lie_beside_the_weights(saved, tiny_tokenizer):
    model, path = saved
    facts = json.loads((path.with_suffix("") / "config.json").read_text(encoding="utf-8"))
    assert facts["model"] == model.config.to_dict() and (facts["step"], facts["loss"]) == (7, 2.5)
    assert facts["weights_sha256"] == checkpoint.file_sha256(path)
    again, tokenizer, kept = load_run(path)
    assert kept == facts and tokenizer.to_str() == tiny_tokenizer.to_str()
    assert torch.equal(logits(again), logits(model))


def test_saving_leaves_no_unfinished_files(saved):
    _, path = saved
    assert {p.name for p in path.parent.iterdir()} == {"pretrain_16.pth", "pretrain_16"}
    assert {p.name for p in path.with_suffix("").iterdir()} == {"config.json", "tokenizer.json"}


@pytest.mark.filterwarnings("ignore:.*script_method.*:DeprecationWarning")  # torch.compile's own import
def test_a_wrapped_model_is_saved_under_plain_names(tmp_path, tiny_model):
    model = tiny_model()
    compiled = torch.compile(model)
    for wrapped in (compiled, torch.nn.DataParallel(model), torch.nn.DataParallel(compiled)):
        save_weights(wrapped, tmp_path / "w.pth")
        assert set(torch.load(tmp_path / "w.pth")) == set(model.state_dict())
        assert torch.equal(logits(load_model(tmp_path / "w.pth")), logits(model))


# --- nothing is taken for what it is not --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes", [{"n_heads": 8}, {"rope_theta": 1e4}, {"norm_eps": 1e-6}, {"max_seq_len": 64}], ids=str
)
def test_another_configuration_is_refused_even_where_every_shape_fits(saved, changes):
    model, path = saved
    with pytest.raises(CheckpointError) as caught:
        load_model(path, tiny_config(**{**model.config.to_dict(), **changes}))
    name, value = next(iter(changes.items()))
    assert f"{name} is {getattr(model.config, name)} there, {value} was given" in str(caught.value)


def test_experts_per_token_are_checked_though_no_shape_shows_them(tmp_path, tiny_model):
    save_weights(tiny_model(use_moe=True), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="num_experts_per_tok is 2 there, 1 was given"):
        load_model(tmp_path / "w.pth", tiny_config(use_moe=True, num_experts_per_tok=1))


def test_the_right_configuration_may_be_given_as_well(saved):
    model, path = saved
    assert torch.equal(logits(load_model(path, tiny_config())), logits(model))


def test_a_replaced_weights_file_is_noticed_though_it_fits(saved, tiny_model):
    _, path = saved
    torch.save(tiny_model(seed=5).state_dict(), path)
    with pytest.raises(CheckpointError, match="replaced or damaged"):
        load_model(path)


def test_a_single_changed_bit_is_noticed(saved):
    _, path = saved
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError):
        load_model(path)


@pytest.mark.parametrize("times", [1, 2])
def test_a_save_interrupted_between_its_two_files_leaves_a_pair_that_loads(saved, tiny_model, monkeypatch, times):
    model, path = saved
    really = os.replace

    def interrupted(source, target):
        if Path(target).suffix == ".pth":
            raise KeyboardInterrupt
        really(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    for seed in range(times):
        with pytest.raises(KeyboardInterrupt):
            save_weights(tiny_model(seed=10 + seed), path)
    assert torch.equal(logits(load_model(path)), logits(model))


@pytest.mark.parametrize("times", [1, 2])
def test_a_disk_too_full_for_weights_leaves_a_pair_that_loads(saved, tiny_model, monkeypatch, times):
    model, path = saved

    def full(name, mode="r", **more):
        if ".pth" in str(name) and "w" in mode:
            raise OSError(28, "No space left on device")
        return open(name, mode, **more)

    monkeypatch.setattr(files, "open", full, raising=False)
    for seed in range(times):
        with pytest.raises(OSError, match="No space"):
            save_weights(tiny_model(seed=10 + seed), path)
    assert torch.equal(logits(load_model(path)), logits(model))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "cannot be read"),
        ("[]", "no table named model"),
        ('{"step": 1}', "no table named model"),
        ("", "cannot be"),
    ],
)
def test_a_broken_configuration_file_is_named(saved, content, said):
    _, path = saved
    (path.with_suffix("") / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(CheckpointError, match=rf"config\.json.*{said}"):
        load_model(path)


def test_a_configuration_from_a_newer_version_is_refused_with_its_reason(saved):
    _, path = saved
    file = path.with_suffix("") / "config.json"
    facts = json.loads(file.read_text(encoding="utf-8"))
    facts["model"]["heads_of_the_future"] = 3
    file.write_text(json.dumps(facts), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"config\.json: .*heads_of_the_future"):
        load_model(path)


# --- bare files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("use_moe", [False, True])
def test_a_bare_file_loads_with_a_configuration_and_a_warning_of_what_cannot_be_checked(bare, tiny_model, use_moe):
    path = bare(use_moe=use_moe)
    with pytest.warns(UserWarning, match=r"n_heads=4.*rope_theta=1e\+06.*rotary layout.*cannot be checked") as caught:
        found = load_model(path, tiny_config(use_moe=use_moe))
    assert torch.equal(logits(found), logits(tiny_model(use_moe=use_moe)))
    assert ("experts per token" in str(caught[0].message)) == use_moe
    assert caught[0].filename == __file__


def test_our_own_files_load_without_a_warning(saved):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_model(saved[1])


def test_a_bare_file_without_a_configuration_is_answered_by_what_its_shapes_say(bare):
    with pytest.raises(CheckpointError) as caught:
        load_model(bare(use_moe=True))
    for words in ("vocab_size=50", "dim=16", "n_layers=2", "use_moe=True", "n_routed_experts=4", "number of heads"):
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dim": 32}, ["dim=16", "dim=32"]),
        ({"n_layers": 3}, ["n_layers=2", "n_layers=3"]),
        ({"vocab_size": 60}, ["vocab_size=50", "vocab_size=60"]),
        ({"use_moe": True}, ["use_moe=False", "use_moe=True"]),
        ({"n_kv_heads": 4}, ["wk.weight is (8, 16), should be (16, 16)"]),
        ({"hidden_dim": 24}, ["feed_forward.w1.weight is (48, 16), should be (24, 16)"]),
    ],
    ids=["dim", "layers", "vocabulary", "experts", "key/value heads", "feed-forward"],
)
def test_a_bare_file_that_does_not_fit_is_refused_with_both_sides(bare, changes, said):
    with pytest.raises(CheckpointError) as caught:
        load_model(bare(), tiny_config(**changes))
    for words in said:
        assert words in str(caught.value)


def test_experts_that_differ_in_number_are_named(bare):
    with pytest.raises(CheckpointError, match=r"n_shared_experts=0.*n_shared_experts=1"):
        load_model(bare(use_moe=True, n_shared_experts=0), tiny_config(use_moe=True))
    with pytest.raises(CheckpointError, match=r"n_routed_experts=3.*n_routed_experts=4"):
        load_model(bare(use_moe=True, n_routed_experts=3), tiny_config(use_moe=True))


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod.", "_orig_mod.module."])
def test_names_left_by_wrappers_are_recognised(bare, tiny_model, prefix):
    path = bare({prefix + key: value for key, value in tiny_model().state_dict().items()})
    with pytest.warns(UserWarning, match="bare"):
        assert torch.equal(logits(load_model(path, tiny_config())), logits(tiny_model()))


def test_half_precision_weights_are_widened(bare, tiny_model):
    path = bare({key: value.half() for key, value in tiny_model().state_dict().items()})
    with pytest.warns(UserWarning, match="bare"):
        found = load_model(path, tiny_config())
    assert {p.dtype for p in found.parameters()} == {torch.float32}


def test_the_rotary_table_that_older_minimind_files_carry_is_passed_over(bare, tiny_model):
    path = bare({**tiny_model().state_dict(), "pos_cis": torch.ones(4, 2, dtype=torch.complex64)})
    with pytest.warns(UserWarning, match="bare"):
        load_model(path, tiny_config())


def test_weights_of_miniminds_later_layout_are_recognised(bare):
    later = {
        "model.embed_tokens.weight": torch.ones(50, 16),
        "model.layers.0.self_attn.q_proj.weight": torch.ones(16, 16),
        "model.norm.weight": torch.ones(16),
        "lm_head.weight": torch.ones(50, 16),
    }
    with pytest.raises(CheckpointError, match=r"after 2025-04-26.*rotary layout"):
        load_model(bare(later), tiny_config())


def test_an_embedding_that_differs_from_the_output_layer_is_refused(bare, tiny_model):
    state = {key: value.clone() for key, value in tiny_model().state_dict().items()}
    state["tok_embeddings.weight"] += 1  # this model ties the two: one of them would be lost without a word
    with pytest.raises(CheckpointError, match="tok_embeddings"):
        load_model(bare(state), tiny_config())


# --- damaged, foreign, malicious ----------------------------------------------------------------------------------


class Malicious:
    """Touches a file when it is unpickled."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self):
        return os.system, (f"touch {self.victim}",)


@pytest.mark.parametrize("container", ["torch.save", "pickle", "among tensors"])
def test_a_file_that_would_execute_code_is_not_read(tmp_path, container):
    path, victim = tmp_path / "w.pth", tmp_path / "executed"
    if container == "pickle":
        path.write_bytes(pickle.dumps(Malicious(victim), protocol=2))
    else:
        torch.save({"a": torch.ones(2), "b": Malicious(victim)} if "among" in container else Malicious(victim), path)
    with pytest.raises(CheckpointError, match="could execute code when read; it was not read"):
        load_model(path, tiny_config())
    assert not victim.exists()


def test_a_whole_pickled_model_is_not_read(tmp_path, tiny_model):
    torch.save(tiny_model(), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"w\.pth holds more than tensors"):
        load_model(tmp_path / "w.pth", tiny_config())


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_named_with_its_size(saved, share):
    _, path = saved
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CheckpointError, match=r"pretrain_16\.pth (is damaged|is no|holds more)"):
        load_model(path)


@pytest.mark.parametrize(
    "content", [b"", b"not a model", b"<html>404</html>", b"PK\x03\x04" + b"\0" * 60, b"\x80\x02."]
)
def test_a_file_that_is_no_torch_file_is_named(tmp_path, content):
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"w\.pth"):
        load_model(tmp_path / "w.pth", tiny_config())


@pytest.mark.parametrize("value", [{}, [torch.ones(2)], {"a": 1}, {"model": {"a": torch.ones(2)}}, torch.ones(3), None])
def test_a_torch_file_that_is_no_state_dict_is_named(bare, tmp_path, value):
    torch.save(value, tmp_path / "bare.pth")
    with pytest.raises(CheckpointError, match="not a state_dict"):
        load_model(tmp_path / "bare.pth", tiny_config())


def test_another_models_file_is_refused_with_what_is_missing_and_unknown(bare):
    with pytest.raises(CheckpointError, match=r"n_layers=0"):
        load_model(bare({"encoder.weight": torch.ones(2, 2)}), tiny_config())
    state = {"extra.weight": torch.ones(2)}
    model = MiniMindLM(tiny_config()).state_dict()
    del model["norm.weight"]
    with pytest.raises(CheckpointError, match=r"missing norm\.weight; unknown extra\.weight"):
        load_model(bare({**model, **state}), tiny_config())


def test_a_folder_is_refused_in_place_of_a_file(tmp_path, tiny_model):
    (tmp_path / "w.pth").mkdir()
    with pytest.raises(CheckpointError, match=r"w\.pth is a folder"):
        load_model(tmp_path / "w.pth", tiny_config())
    with pytest.raises(CheckpointError, match=r"w\.pth is a folder"):
        save_weights(tiny_model(), tmp_path / "w.pth")


def test_a_missing_file_is_answered_by_what_lies_there(saved):
    _, path = saved
    with pytest.raises(CheckpointError, match=r"pretrain_99\.pth is not there.*pretrain_16\.pth"):
        load_model(path.with_name("pretrain_99.pth"))
    with pytest.raises(CheckpointError, match=r"has no \.pth file"):
        load_model(path.with_suffix("") / "pretrain_99.pth")


# --- states to resume from ----------------------------------------------------------------------------------------


def test_the_newest_two_states_are_kept_and_the_newest_is_read(tmp_path):
    for step in (3, 20, 100):
        write_state(
            tmp_path, step, {"step": step, "tensor": torch.full((2,), step), "nested": {"list": [1, None, "a"]}}
        )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["state-00000020.pt", "state-00000100.pt"]
    state = read_newest_state(tmp_path)
    assert (
        state["step"] == 100 and state["tensor"].tolist() == [100, 100] and state["nested"] == {"list": [1, None, "a"]}
    )


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: b"", lambda data: data[:50] + b"x" + data[51:]]
)
def test_a_damaged_state_is_named_and_the_one_before_it_used(tmp_path, damage):
    for step in (1, 2):
        write_state(tmp_path, step, {"step": step})
    newest = tmp_path / "state-00000002.pt"
    newest.write_bytes(damage(newest.read_bytes()))
    said: list[str] = []
    assert read_newest_state(tmp_path, said.append)["step"] == 1
    assert len(said) == 1 and "state-00000002.pt is damaged" in said[0]


def test_without_a_state_there_is_nothing_to_resume(tmp_path):
    assert read_newest_state(tmp_path) is None
    assert read_newest_state(tmp_path / "no such folder") is None


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path, monkeypatch):
    path = tmp_path / "file"
    atomic_write(path, b"old")
    monkeypatch.setattr(os, "fsync", lambda number: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        atomic_write(path, b"new")
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["file"]


def test_there_are_no_facts_without_a_folder(tmp_path):
    assert read_facts(tmp_path / "pretrain_16.pth") is None
