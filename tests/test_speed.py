"""What makes a run quick changes nothing else: attention by blocks, three ways through experts, compiling, pieces of an
update, batches made ahead. The switches of a GPU are tried on the CPU, where the same code runs.
"""

from __future__ import annotations

import threading

import pytest
import torch
from conftest import tiny_config
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses import FakeTensorMode
from torch.nn import functional as F

from minimind_core import (
    MiniMindLM,
    MoEFeedForward,
    Trainer,
    blockwise,
    causal_attention,
    compiling,
    fitting,
    read_metrics,
)
from minimind_core.compiling import compiled, wants_compiling
from minimind_core.fitting import fitted
from minimind_core.prefetch import AHEAD, ahead

# --- attention on a CPU -------------------------------------------------------------------------------------------


def heads(batch: int, count: int, tokens: int, width: int) -> Tensor:
    """Random (B, heads, T, Dh), laid out as the model's are: token by token."""
    return torch.randn(batch, tokens, count, width).transpose(1, 2).requires_grad_()


@pytest.mark.parametrize(
    ("batch", "queries", "keys", "tokens", "width"),
    [(2, 8, 2, 95, 16), (1, 4, 4, 32, 8), (3, 4, 1, 33, 6), (2, 2, 2, 64, 4), (1, 8, 2, 255, 16), (8, 8, 4, 130, 4)],
)
def test_attention_by_blocks_has_torchs_values_and_gradients(batch, queries, keys, tokens, width):
    inputs = heads(batch, queries, tokens, width), heads(batch, keys, tokens, width), heads(batch, keys, tokens, width)
    wanted = F.scaled_dot_product_attention(*inputs, is_causal=True, enable_gqa=True)
    found = blockwise.BlockwiseAttention.apply(*inputs)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    into = torch.randn_like(wanted)
    for one, other in zip(
        torch.autograd.grad(found, inputs, into), torch.autograd.grad(wanted, inputs, into), strict=True
    ):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_a_blocks_scores_fit_the_cache_where_they_can():
    assert blockwise.block_size(heads=16, tokens=511) == 64
    assert blockwise.block_size(heads=8, tokens=300) == 128, "no more than this"
    assert blockwise.block_size(heads=256, tokens=511) == 32, "no less than this"


def test_attention_by_blocks_is_used_in_training_on_a_cpu_and_nowhere_else(monkeypatch):
    used = []
    really = blockwise.BlockwiseAttention.apply
    monkeypatch.setattr(blockwise.BlockwiseAttention, "apply", lambda *args: used.append(1) or really(*args))

    def uses(tokens=40, dropout=0.0, dtype=torch.float32, span=None) -> bool:
        used.clear()
        queries, others = heads(1, 4, tokens, 8).to(dtype), heads(1, 2, span or tokens, 8).to(dtype)
        causal_attention(queries, others, others, dropout)
        return bool(used)

    assert uses() and uses(tokens=blockwise.BLOCKS[0])
    assert not uses(dropout=0.1) and not uses(dtype=torch.bfloat16) and not uses(tokens=40, span=50)
    assert not uses(tokens=blockwise.BLOCKS[0] - 1) and not uses(tokens=blockwise.LONGEST + 1)
    with torch.no_grad():
        used.clear()
        model = MiniMindLM(tiny_config(max_seq_len=64))
        model(torch.randint(50, (1, 64)))
        assert not used
    model(torch.randint(50, (1, 64)))
    assert len(used) == 2  # layers


# --- experts --------------------------------------------------------------------------------------------------------

WAYS = ("by_expert", "grouped", "all_on_all")
needs_grouped = pytest.mark.skipif(not hasattr(F, "grouped_mm"), reason="this torch has no grouped_mm")


def experts(**changes) -> MoEFeedForward:
    return MoEFeedForward(tiny_config(use_moe=True, dim=16, **changes)).train()


@needs_grouped
@pytest.mark.parametrize("changes", [{}, {"num_experts_per_tok": 1}, {"n_routed_experts": 16}, {"n_shared_experts": 0}])
def test_all_ways_through_the_experts_give_the_same_mixture_and_gradients(changes):
    layer, x, results = experts(**changes), torch.randn(3, 5, 16), {}
    into = torch.randn(3, 5, 16)
    for name in WAYS:
        layer.way = lambda tokens, name=name: getattr(layer, name)
        layer.zero_grad()
        here = x.clone().requires_grad_()
        mixed, aux_loss = layer(here)
        ((mixed * into).sum() + aux_loss).backward()
        gradients = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in layer.named_parameters()}
        results[name] = {"mixed": mixed.detach(), "x": here.grad, **{n: g.clone() for n, g in gradients.items()}}
    for name in WAYS[1:]:
        for part, value in results["by_expert"].items():
            torch.testing.assert_close(results[name][part], value, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_a_single_token_passes_the_experts_as_one_of_many_does(k):
    layer, x = experts(num_experts_per_tok=k).eval(), torch.randn(1, 6, 16)
    with torch.no_grad():
        together = layer(x)[0]
        assert layer.way(x[0, :1]) == layer.by_token and layer.way(x[0]) == layer.by_expert
        for place in range(6):
            torch.testing.assert_close(layer(x[:, place : place + 1])[0][0, 0], together[0, place])


@needs_grouped
@pytest.mark.parametrize("name", WAYS)
def test_on_a_gpu_nothing_waits_for_the_host(name):
    """Tensors without content: any question about a value, which on a GPU would wait for it, raises."""
    layer = experts().bfloat16()
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        x = fake.from_tensor(torch.randn(2, 8, 16, dtype=torch.bfloat16))
        indices, weights, aux_loss = layer.gate(x)
        if name == "by_expert":  # it asks: that is why a GPU takes another way
            with pytest.raises(Exception, match=r"(?i)data.dependent|tolist|aten"):
                layer.by_expert(x.flatten(0, 1), indices, weights)
            return
        assert getattr(layer, name)(x.flatten(0, 1), indices, weights).shape == (16, 16)
        assert aux_loss.shape == ()


def test_a_gpu_takes_the_grouped_kernel_or_all_experts(monkeypatch):
    layer = experts()

    class OnGpu:
        device, dtype = torch.device("cuda"), torch.bfloat16

        def __len__(self):
            return 4

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (8, 9))
    assert layer.way(OnGpu()) == (layer.grouped if hasattr(F, "grouped_mm") else layer.all_on_all)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (7, 5))
    assert layer.way(OnGpu()) == layer.all_on_all
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setattr(OnGpu, "dtype", torch.float32)
    assert layer.way(OnGpu()) == layer.all_on_all
    monkeypatch.setattr(OnGpu, "dtype", torch.bfloat16)
    dropping = experts(dropout=0.1)
    assert dropping.way(OnGpu()) == dropping.all_on_all


# --- compiling ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "recipe", "device", "wanted"),
    [
        ("auto", "fast", "cuda", True),
        ("auto", "seed", "cuda", False),
        ("auto", "fast", "cpu", False),
        ("auto", "fast", "mps", False),
        ("on", "seed", "cpu", True),
        ("off", "fast", "cuda", False),
    ],
)
def test_the_model_is_compiled_on_a_gpu_in_the_fast_recipe_or_when_asked_for(bench, asked, recipe, device, wanted):
    plan = bench.plan("out", compile=asked, recipe=recipe)
    object.__setattr__(plan, "device", torch.device(device))
    assert wants_compiling(plan) is wanted


def compiled_run(bench, monkeypatch, out: str, backend, **flags) -> tuple[Trainer, list[str]]:
    monkeypatch.setattr(compiling.compiled, "__defaults__", (backend,))
    said: list[str] = []
    trainer = bench.trainer(out, said, max_steps=6, eval_interval=2, **flags)
    trainer.fit()
    return trainer, said


@pytest.mark.parametrize("use_moe", [False, True])
def test_a_compiled_run_is_the_plain_run_in_one_graph_without_recompiling(bench, monkeypatch, use_moe):
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    plain, _ = compiled_run(bench, monkeypatch, "plain", "inductor", use_moe=use_moe)
    quick, said = compiled_run(bench, monkeypatch, "quick", counter, use_moe=use_moe, compile="on")
    assert any(line.startswith("Compiled the model in") for line in said)
    assert quick.forward is not quick.model
    assert counter.frame_count == 1, "one graph: no breaks, and none made anew after looks at the held-out rows"
    assert quick.last_loss == pytest.approx(plain.last_loss, abs=1e-4)
    assert quick.last_held_out.loss == pytest.approx(plain.last_held_out.loss, abs=1e-4)
    weights = torch.load(quick.plan.weights, weights_only=True)
    assert weights.keys() == torch.load(plain.plan.weights, weights_only=True).keys()


def test_compiling_leaves_weights_gradients_and_random_numbers_alone(bench):
    plan = bench.plan("out", compile="on", dropout=0.1)
    torch.manual_seed(3)
    model = MiniMindLM(plan.model).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    compiled(model, plan, lambda text: None, backend="eager")
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_compiler_that_is_missing_costs_a_word_and_not_the_run(bench, monkeypatch):
    def broken(graph, inputs):
        raise RuntimeError("no C compiler found\n  in /usr/bin")

    torch._dynamo.reset()
    trainer, said = compiled_run(bench, monkeypatch, "out", broken, compile="on")
    assert trainer.forward is trainer.model and trainer.step == trainer.plan.updates
    word = next(line for line in said if "Compiling failed" in line)
    assert "no C compiler found" in word and "--compile off" in word and "\n" not in word
    assert len([line for line in said if "Compiling failed" in line]) == 1


# --- pieces of an update on a CPU -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "chosen"),
    [
        ({"batch_size": 8, "accumulation_steps": 2}, (2, 8)),
        ({"batch_size": 6, "accumulation_steps": 1}, (3, 2)),
        ({"batch_size": 1, "accumulation_steps": 4}, (1, 4)),
        ({"batch_size": 8, "accumulation_steps": 2, "recipe": "seed"}, (8, 2)),
        ({"batch_size": 8, "accumulation_steps": 2, "use_moe": True}, (2, 8)),
        ({"batch_size": 8, "accumulation_steps": 2, "use_moe": True, "seq_aux": False}, (8, 2)),
    ],
)
def test_a_cpu_gets_pieces_that_its_memory_is_quick_with(bench, monkeypatch, flags, chosen):
    monkeypatch.setattr(fitting, "QUICK_BYTES", 4 * 400 * 31 * 3)  # three rows' logits
    plan = fitted(bench.plan("out", **flags))
    assert (plan.train.batch_size, plan.train.accumulation_steps) == chosen
    assert any("smaller pieces" in note for note in plan.notes) is (chosen[0] != flags["batch_size"])


def test_an_update_in_pieces_is_the_update_in_one(bench, monkeypatch):
    whole = bench.trainer("whole", batch_size=4, accumulation_steps=1, max_steps=3)
    whole.fit()
    monkeypatch.setattr(fitting, "QUICK_BYTES", 4 * 400 * 31)
    said: list[str] = []
    pieces = bench.trainer("pieces", said, batch_size=4, accumulation_steps=1, max_steps=3)
    assert (pieces.plan.train.batch_size, pieces.accumulation_steps) == (1, 4)
    pieces.fit()
    assert any("1 rows × 4 instead of 4 × 1" in line for line in said)
    assert (pieces.step, pieces.tokens) == (whole.step, whole.tokens)
    lines = (read_metrics(trainer.folder / "metrics.jsonl") for trainer in (whole, pieces))
    first, same = (next(line for line in run if "ce" in line) for run in lines)
    for name in ("ce", "grad_norm", "tokens"):
        assert same[name] == pytest.approx(first[name], rel=1e-5)


def test_minimind_s_size_on_a_laptop_is_cut_and_the_laptop_profile_is_not(bench):
    big = fitted(bench.plan("out", dim=64, vocab_size=6400, max_seq_len=512, batch_size=32, accumulation_steps=8))
    assert (big.train.batch_size, big.train.accumulation_steps) == (2, 128)
    small = bench.plan("out2", vocab_size=2400, max_seq_len=256, batch_size=8, accumulation_steps=1)
    assert fitted(small).train.batch_size == 8


# --- batches ahead of their time ------------------------------------------------------------------------------------


def test_batches_come_in_order_prepared_in_a_thread_a_few_ahead():
    made, threads = [], set()

    def batches():
        for number in range(20):
            made.append(number)
            yield number

    def prepare(number):
        threads.add(threading.current_thread().name)
        return number * 10

    found = []
    for value in ahead(batches(), prepare):
        found.append(value)
        assert len(made) <= len(found) + AHEAD + 1
    assert found == [10 * n for n in range(20)] and threads == {"prefetch"}


def test_what_goes_wrong_in_the_thread_is_raised_in_its_place():
    def batches():
        yield 1
        raise ValueError("row 7 is broken")

    found = []
    with pytest.raises(ValueError, match="row 7 is broken"):
        for value in ahead(batches(), lambda batch: batch):
            found.append(value)
    assert found == [1]


def test_closing_ends_the_thread_though_batches_are_left():
    def forever():
        while True:
            yield 0

    before = threading.active_count()
    iterator = ahead(forever(), lambda batch: batch)
    next(iterator)
    assert threading.active_count() == before + 1
    iterator.close()
    assert threading.active_count() == before


@pytest.mark.parametrize("recipe", ["seed", "fast"])
def test_a_run_with_batches_made_ahead_is_the_same_run(bench, recipe):
    runs = []
    for name, prefetches in (("plain", False), ("ahead", True)):
        trainer = bench.trainer(name, recipe=recipe, epochs=2)
        trainer.prefetches = prefetches
        trainer.fit()
        runs.append(trainer.model.state_dict())
    assert all(torch.equal(value, runs[1][name]) for name, value in runs[0].items())


# --- waiting for the device -----------------------------------------------------------------------------------------


def test_an_update_asks_the_device_for_its_numbers_once(bench, monkeypatch):
    trainer = bench.trainer("out", batch_size=1, accumulation_steps=1, log_interval=1000, use_moe=True)
    trainer._eval_every = 1000
    monkeypatch.setattr(trainer.model, "_check", lambda *args: None)  # looks at ids on a CPU only
    for module in trainer.model.modules():  # and a GPU takes this way
        if isinstance(module, MoEFeedForward):
            monkeypatch.setattr(module, "way", lambda tokens, module=module: module.all_on_all)
    asked: list[int] = []

    def counting(really):
        def ask(tensor, *args):
            asked[-1:] = [asked[-1] + 1] if asked else []
            return really(tensor, *args)

        return ask

    trainer.on_update = lambda row: asked.append(0)
    for name in ("tolist", "item", "__float__", "__int__", "__bool__", "cpu", "numpy"):
        monkeypatch.setattr(Tensor, name, counting(getattr(Tensor, name)))
    monkeypatch.setattr(trainer.saver, "after_update", lambda *args: None)
    trainer.fit()
    assert len(asked) >= 8 and asked[:-1] == [1] * (len(asked) - 1)
