"""The model: the reference's numbers, its parameters and names, the cache, and what it refuses."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from conftest import tiny_config
from hypothesis import given
from hypothesis import strategies as st

from minimind_core import (
    FeedForward,
    InputError,
    MiniMindLM,
    ModelConfig,
    RMSNorm,
    active_parameter_count,
    apply_rotary,
    causal_attention,
    generate,
    masked_cross_entropy,
    parameter_count,
    rotary_angles,
)
from minimind_core.model import check_ids, weight_shapes

LENGTH = 7
CUTS = [[i + 1 for i in range(LENGTH - 1) if bits >> i & 1] for bits in range(2 ** (LENGTH - 1))]
MODES = {"with gradients": torch.enable_grad, "no_grad": torch.no_grad, "inference_mode": torch.inference_mode}


def ids(batch: int = 2, length: int = LENGTH, vocab: int = 50, seed: int = 1) -> torch.Tensor:
    return torch.randint(vocab, (batch, length), generator=torch.Generator().manual_seed(seed))


def in_pieces(model: MiniMindLM, tokens: torch.Tensor, cuts: list[int]) -> torch.Tensor:
    """Logits of a cached forward over `tokens`, cut before the given positions."""
    cache, found = None, []
    for start, end in pairwise([0, *cuts, tokens.shape[1]]):
        output = model(tokens[:, start:end], past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        found.append(output.logits)
    return torch.cat(found, dim=1)


# --- the reference's figures --------------------------------------------------------------------------------------


def test_logits_are_the_references(golden):
    with torch.no_grad():
        output = golden.model().eval()(golden.tensors["input_ids"])
    torch.testing.assert_close(output.logits, golden.tensors["eval_logits"], atol=1e-4, rtol=0)
    assert output.aux_loss == 0


def test_greedy_continuation_is_the_references_id_by_id(golden):
    prompt = golden.tensors["input_ids"][:1, :6]
    found = generate(golden.model(), prompt, max_new_tokens=20, temperature=0, eos_token_id=None)
    assert found[:, 6:].tolist() == golden.tensors["greedy_ids"].tolist()


def test_training_losses_are_the_references(golden):
    tensors, figures = golden.tensors, golden.figures
    output = golden.model().train()(tensors["input_ids"])
    ce = masked_cross_entropy(output.logits, tensors["targets"], tensors["loss_mask"])
    # The reference rounds its experts' output to float16 while training.
    tolerance = 2e-2 if golden.config.use_moe else 1e-4
    assert ce.item() == pytest.approx(figures["train_ce"], abs=tolerance)
    assert output.aux_loss.item() == pytest.approx(figures["train_aux_loss"], abs=1e-4)


# --- parameters ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "total", "active"),
    [
        ({}, 25_829_888, 25_829_888),
        ({"use_moe": True}, 95_052_288, 60_449_280),
        ({"use_moe": True, "dim": 640}, 145_030_000, None),
        ({"dim": 768, "n_layers": 16}, 104_031_000, None),
    ],
    ids=["dense", "experts", "experts 640 wide", "dense 768 wide"],
)
def test_parameters_are_as_many_as_minimind_has(changes, total, active):
    with torch.device("meta"):
        model = MiniMindLM(ModelConfig(**changes))
    rounding = 0 if active else 500  # the wider models are known in thousands
    assert abs(parameter_count(model) - total) <= rounding
    if active:
        assert active_parameter_count(model) == active


@pytest.mark.parametrize("use_moe", [False, True])
def test_state_dict_has_exactly_miniminds_names(use_moe, tiny_model):
    wanted = {"tok_embeddings.weight", "norm.weight", "output.weight"}
    for n in range(2):
        layer = f"layers.{n}"
        wanted |= {f"{layer}.attention.{name}.weight" for name in ("wq", "wk", "wv", "wo")}
        wanted |= {f"{layer}.attention_norm.weight", f"{layer}.ffn_norm.weight"}
        inner = [f"{layer}.feed_forward"]
        if use_moe:
            wanted.add(f"{layer}.feed_forward.gate.weight")
            inner = [f"{layer}.feed_forward.experts.{e}" for e in range(4)] + [f"{layer}.feed_forward.shared_experts"]
        wanted |= {f"{part}.{name}.weight" for part in inner for name in ("w1", "w2", "w3")}
    assert set(tiny_model(use_moe=use_moe).state_dict()) == wanted


def test_without_a_shared_expert_its_names_are_gone(tiny_model):
    assert not any("shared" in key for key in tiny_model(use_moe=True, n_shared_experts=0).state_dict())


def test_embedding_and_output_are_one_tensor(tiny_model):
    model = tiny_model()
    assert model.tok_embeddings.weight is model.output.weight
    state = model.state_dict()
    assert state["tok_embeddings.weight"].data_ptr() == state["output.weight"].data_ptr()


@pytest.mark.parametrize("use_moe", [False, True])
def test_first_loss_lies_a_little_above_the_logarithm_of_the_vocabulary(use_moe):
    config = ModelConfig(n_layers=4, use_moe=use_moe, hidden_dim=256 if use_moe else None)
    model = MiniMindLM(config)
    tokens = ids(2, 97, config.vocab_size)
    with torch.no_grad():
        logits = model(tokens[:, :-1]).logits
    loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).item()
    assert 0.05 < loss - math.log(6400) < 0.35


def test_initial_values_are_those_of_a_linear_layer(tiny_model):
    model = tiny_model(dim=64, use_moe=True)
    bound = 1 / math.sqrt(64)
    for weight in (model.output.weight, model.layers[0].attention.wq.weight, model.layers[0].feed_forward.gate.weight):
        assert 0.9 * bound < weight.abs().max() <= bound
        assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
    assert (model.norm.weight == 1).all()


# --- the cache ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("use_moe", [False, True], ids=["dense", "experts"])
def test_cached_forward_equals_the_uncached_one_for_every_way_of_cutting(use_moe, mode, tiny_model):
    model, tokens = tiny_model(use_moe=use_moe), ids()
    with MODES[mode]():
        whole = model(tokens).logits
        for cuts in CUTS:
            torch.testing.assert_close(in_pieces(model, tokens, cuts), whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("cuts", [[3], [1, 2], [2, 5], [1, 2, 3, 4, 5, 6]])
def test_gradients_through_a_cached_forward_are_the_uncached_ones(cuts, tiny_model):
    model, tokens = tiny_model(use_moe=True), ids()
    model(tokens).logits.square().sum().backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    in_pieces(model, tokens, cuts).square().sum().backward()
    found = {name: p.grad for name, p in model.named_parameters()}
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_an_older_cache_stays_valid_so_that_a_continuation_can_branch(tiny_model):
    model, tokens = tiny_model(), ids(1, 12)
    other = (tokens + 7) % 50
    with torch.no_grad():
        root = model(tokens[:, :5], use_cache=True).past_key_values
        trunk = model(tokens[:, 5:6], past_key_values=root, use_cache=True).past_key_values
        for branch in (tokens, other, tokens, other):
            text = torch.cat([tokens[:, :5], branch[:, 5:9]], dim=1)
            cache = root
            for position in range(5, 9):
                output = model(branch[:, position : position + 1], past_key_values=cache, use_cache=True)
                cache = output.past_key_values
            torch.testing.assert_close(output.logits[:, -1], model(text).logits[:, -1], atol=1e-5, rtol=1e-5)
        again = model(tokens[:, 6:], past_key_values=trunk).logits
        torch.testing.assert_close(again, model(tokens).logits[:, 6:], atol=1e-5, rtol=1e-5)


def test_two_branches_from_one_cache_do_not_write_over_each_other(tiny_model):
    model, one = tiny_model(), ids(1, 9)
    other = torch.cat([one[:, :5], (one[:, 5:] + 7) % 50], dim=1)

    def step(cache, text, position):
        return model(text[:, position : position + 1], past_key_values=cache, use_cache=True)

    with torch.no_grad():
        root = model(one[:, :4], use_cache=True).past_key_values
        root = step(root, one, 4).past_key_values  # from here on there is room behind it to write into
        first = step(root, one, 5).past_key_values
        second = step(root, other, 5).past_key_values
        for text, cache in ((one, first), (other, second)):
            for position in range(6, 9):
                output = step(cache, text, position)
                cache = output.past_key_values
            torch.testing.assert_close(output.logits[:, -1], model(text).logits[:, -1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("first", MODES)
@pytest.mark.parametrize("then", MODES)
def test_a_cache_made_in_one_gradient_mode_serves_in_another(first, then, tiny_model):
    model, tokens = tiny_model(), ids()
    whole = model(tokens).logits.detach()
    with MODES[first]():
        cache = model(tokens[:, :2], use_cache=True).past_key_values
        cache = model(tokens[:, 2:4], past_key_values=cache, use_cache=True).past_key_values
    with MODES[then]():
        middle = model(tokens[:, 4:5], past_key_values=cache, use_cache=True)
        last = model(tokens[:, 5:], past_key_values=middle.past_key_values, use_cache=True)
        found = torch.cat([middle.logits, last.logits], dim=1)
        torch.testing.assert_close(found, whole[:, 4:], atol=1e-5, rtol=1e-5)
    if then == "with gradients":
        found.sum().backward()


def test_no_cache_is_returned_unless_asked_for(tiny_model):
    model, tokens = tiny_model(), ids()
    assert model(tokens).past_key_values is None
    cache = model(tokens[:, :3], use_cache=True).past_key_values
    assert model(tokens[:, 3:], past_key_values=cache).past_key_values is None


# --- positions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cuts", [[], [8], [5, 9, 17], list(range(1, 21))])
def test_positions_may_pass_max_seq_len(cuts, tiny_model):
    short, long = tiny_model(max_seq_len=8), tiny_model(max_seq_len=64)
    tokens = ids(2, 21)
    with torch.no_grad():
        torch.testing.assert_close(in_pieces(short, tokens, cuts), long(tokens).logits, atol=1e-5, rtol=1e-5)


def test_a_long_text_in_inference_mode_leaves_the_model_fit_for_training(tiny_model):
    model = tiny_model(max_seq_len=8)
    with torch.inference_mode():
        model(ids(1, 20))
    model.train()(ids(1, 6)).logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_a_later_token_changes_nothing_before_it(tiny_model):
    model, tokens = tiny_model(use_moe=True), ids()
    changed = tokens.clone()
    changed[:, 4] = (changed[:, 4] + 1) % 50
    with torch.no_grad():
        before, after = model(tokens).logits, model(changed).logits
    torch.testing.assert_close(before[:, :4], after[:, :4], atol=1e-6, rtol=0)
    assert not torch.allclose(before[:, 4:], after[:, 4:], atol=1e-3)


def test_rows_of_a_batch_do_not_see_each_other(tiny_model):
    model, tokens = tiny_model(use_moe=True), ids(3)
    with torch.no_grad():
        alone = torch.cat([model(row[None]).logits for row in tokens])
        torch.testing.assert_close(model(tokens).logits, alone, atol=1e-5, rtol=1e-5)


def test_rotary_embedding_turns_neighbouring_pairs_as_complex_numbers_do():
    x = torch.randn(2, 5, 3, 8)
    angles = torch.outer(torch.arange(5.0), 1.0 / 1e6 ** (torch.arange(0, 8, 2) / 8))
    turn = torch.polar(torch.ones_like(angles), angles)[None, :, None, :]
    wanted = torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * turn).flatten(-2)
    torch.testing.assert_close(apply_rotary(x, *rotary_angles(8, 5, 1e6)), wanted, atol=1e-6, rtol=1e-6)


# --- parts --------------------------------------------------------------------------------------------------------


def test_rms_norm_divides_by_the_root_mean_square():
    norm = RMSNorm(4, 1e-5)
    x = torch.tensor([[1.0, -2.0, 3.0, -4.0]])
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0, 0.5, 1.0]))
        found = norm(x)
    torch.testing.assert_close(found, x / math.sqrt(7.5 + 1e-5) * torch.tensor([1.0, 2.0, 0.5, 1.0]))
    assert torch.isfinite(RMSNorm(4, 1e-5)(torch.full((1, 4), 1e4, dtype=torch.float16))).all()


@pytest.mark.parametrize(("tokens", "span"), [(5, 5), (1, 5), (3, 5), (1, 1)])
def test_attention_is_softmax_over_the_past_with_heads_in_groups(tokens, span):
    queries, keys, values = torch.randn(2, 4, tokens, 6), torch.randn(2, 2, span, 6), torch.randn(2, 2, span, 6)
    wide_keys, wide_values = keys.repeat_interleave(2, 1), values.repeat_interleave(2, 1)
    scores = queries @ wide_keys.mT / math.sqrt(6)
    for t in range(tokens):
        scores[:, :, t, span - tokens + t + 1 :] = -torch.inf
    wanted = scores.softmax(-1) @ wide_values
    torch.testing.assert_close(causal_attention(queries, keys, values), wanted, atol=1e-5, rtol=1e-5)


def test_feed_forward_is_swiglu():
    part = FeedForward(tiny_config())
    x = torch.randn(3, 16)
    gate = x @ part.w1.weight.T
    wanted = (gate * gate.sigmoid() * (x @ part.w3.weight.T)) @ part.w2.weight.T
    torch.testing.assert_close(part(x), wanted)


def test_dropout_is_at_work_in_training_only(tiny_model):
    model, tokens = tiny_model(dropout=0.5), ids()
    assert torch.equal(model(tokens).logits, model(tokens).logits)
    model.train()
    assert not torch.equal(model(tokens).logits, model(tokens).logits)


# --- outputs and refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("use_moe", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_the_auxiliary_loss_is_always_a_scalar_tensor(use_moe, training, tiny_model):
    aux_loss = tiny_model(use_moe=use_moe).train(training)(ids()).aux_loss
    assert isinstance(aux_loss, torch.Tensor) and aux_loss.shape == ()
    assert (aux_loss.item() > 0) == (use_moe and training)


def test_each_forward_gives_an_output_of_its_own(tiny_model):
    model = tiny_model()
    first = model(ids(seed=1))
    kept = first.logits.clone()
    second = model(ids(seed=2))
    assert first is not second and torch.equal(first.logits, kept)


def test_ids_may_be_int32(tiny_model):
    model, tokens = tiny_model(), ids()
    assert torch.equal(model(tokens.int()).logits, model(tokens).logits)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (torch.tensor([[1, 50]]), ["50", "0 to 49", "tokenizer"]),
        (torch.tensor([[-1, 2]]), ["-1", "0 to 49"]),
        (torch.tensor([[1.0, 2.0]]), ["float32", "int64"]),
        (torch.tensor([[True, False]]), ["bool", "int64"]),
        (torch.tensor([1, 2]), ["(2,)", "ids[None]"]),
        (torch.zeros(1, 0, dtype=torch.int64), ["(1, 0)"]),
        (torch.zeros(0, 3, dtype=torch.int64), ["(0, 3)"]),
        (torch.zeros(1, 2, 3, dtype=torch.int64), ["(1, 2, 3)"]),
        ([[1, 2]], ["list", "tensor"]),
    ],
    ids=["past the end", "negative", "floats", "booleans", "no batch", "no length", "empty batch", "3-D", "a list"],
)
def test_input_that_the_model_cannot_work_on_is_refused_with_a_reason(given, said, tiny_model):
    with pytest.raises(InputError) as caught:
        tiny_model()(given)
    for word in said:
        assert word in str(caught.value)


def test_an_id_outside_the_vocabulary_is_refused_in_a_cached_step_too(tiny_model):
    model = tiny_model()
    cache = model(ids(), use_cache=True).past_key_values
    with pytest.raises(InputError, match="outside the vocabulary of 50"):
        model(torch.tensor([[3], [50]]), past_key_values=cache)


def test_a_cache_of_another_batch_or_model_is_refused(tiny_model):
    model = tiny_model()
    cache = model(ids(2), use_cache=True).past_key_values
    with pytest.raises(InputError, match="batch 2"):
        model(ids(3), past_key_values=cache)
    with pytest.raises(InputError, match="1 layers"):
        model(ids(2), past_key_values=cache[:1])
    with pytest.raises(InputError, match="0 layers"):
        model(ids(2), past_key_values=())


def test_check_ids_accepts_the_whole_vocabulary():
    check_ids(torch.arange(50)[None], 50)
    with pytest.raises(InputError, match="vocabulary of 49"):
        check_ids(torch.arange(50)[None], 49)


# --- shapes without a model ---------------------------------------------------------------------------------------


@given(
    heads=st.sampled_from([(4, 1), (4, 2), (4, 4), (2, 1)]),
    dim=st.sampled_from([16, 32]),
    n_layers=st.integers(1, 3),
    experts=st.one_of(st.none(), st.tuples(st.integers(2, 4), st.booleans())),
    hidden_dim=st.one_of(st.none(), st.integers(1, 40)),
)
def test_shapes_reckoned_from_a_configuration_are_those_of_the_model(heads, dim, n_layers, experts, hidden_dim):
    more = {"use_moe": True, "n_routed_experts": experts[0], "n_shared_experts": experts[1]} if experts else {}
    config = tiny_config(
        dim=dim, n_heads=heads[0], n_kv_heads=heads[1], n_layers=n_layers, hidden_dim=hidden_dim, **more
    )
    state = MiniMindLM(config).state_dict()
    assert weight_shapes(config) == {name: tuple(value.shape) for name, value in state.items()}
