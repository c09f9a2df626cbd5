"""Continuing a text: each setting against a slow version of itself, ends and padding, seeds, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minimind_core import (
    ConfigError,
    InputError,
    MiniMindLM,
    ModelConfig,
    continue_text,
    encode_prompt,
    generate,
    next_token_logits,
    stream,
)
from minimind_core.generation import keep_top_k, keep_top_p, penalize

PROMPT = torch.tensor([[1, 7, 9, 4]])

logit_rows = st.lists(
    st.lists(st.floats(-8, 8, width=32), min_size=6, max_size=6, unique=True), min_size=1, max_size=3
).map(torch.tensor)


# --- what is done to the scores -----------------------------------------------------------------------------------


@given(logits=logit_rows, k=st.integers(1, 8))
def test_top_k_keeps_the_k_best_of_each_row(logits, k):
    found = keep_top_k(logits, k)
    for row, kept in zip(logits.tolist(), found.tolist(), strict=True):
        best = set(sorted(row, reverse=True)[:k])
        assert kept == [x if x in best else -math.inf for x in row]


@given(logits=logit_rows, p=st.floats(0.01, 1.0))
def test_top_p_keeps_the_fewest_best_that_reach_p(logits, p):
    found = keep_top_p(logits, p)
    for row, kept in zip(logits, found, strict=True):
        probabilities = row.double().softmax(-1).tolist()
        order = sorted(range(6), key=lambda i: -row[i].item())  # not by probability, which may be the same
        sums = [sum(probabilities[i] for i in order[:n]) for n in range(7)]
        if any(abs(total - p) < 1e-5 for total in sums):
            continue  # too near to a border for float32 to decide
        count = next((n for n in range(1, 7) if sums[n] >= p), 6)
        assert {i for i in range(6) if kept[i] > -math.inf} == set(order[:count])
        assert all(kept[i] == row[i] for i in order[:count])


@given(logits=logit_rows, penalty=st.floats(0.2, 5), seen=st.sets(st.integers(0, 5)))
def test_the_penalty_makes_what_was_seen_less_likely_whatever_the_sign(logits, penalty, seen):
    mask = torch.tensor([[i in seen for i in range(6)]] * len(logits))
    found = penalize(logits, mask, penalty)
    for row, new in zip(logits.tolist(), found.tolist(), strict=True):
        wanted = [(x / penalty if x > 0 else x * penalty) if i in seen else x for i, x in enumerate(row)]
        assert new == pytest.approx(wanted, rel=1e-5, abs=1e-6)
        if penalty > 1:
            assert all(new[i] <= row[i] for i in range(6))


def test_settings_apply_in_the_order_penalty_temperature_top_k_top_p():
    logits = torch.tensor([[4.0, 3.9, 1.0, -1.0, -2.0]])
    seen = torch.tensor([[True, False, False, True, False]])
    found = next_token_logits(logits, seen, temperature=0.5, top_p=0.9, top_k=3, repetition_penalty=2.0)
    # Penalty: 2, 3.9, 1, -2, -2; temperature: 4, 7.8, 2, -4, -4; top-k: the first three; top-p: 0.975 reaches 0.9.
    assert found.tolist() == [pytest.approx([-math.inf, 7.8, -math.inf, -math.inf, -math.inf])]
    loose = next_token_logits(logits, seen, temperature=0.5, top_p=0.99, top_k=3, repetition_penalty=2.0)
    assert loose.tolist() == [pytest.approx([4.0, 7.8, -math.inf, -math.inf, -math.inf])]


def test_temperature_zero_leaves_only_the_best_token():
    logits = torch.tensor([[1.0, 3.0, 2.0], [0.5, 0.5, -1.0]])
    found = next_token_logits(logits, torch.zeros(2, 3, dtype=torch.bool), temperature=0)
    assert (found > -math.inf).sum(-1).tolist() == [1, 1] and found[0].argmax() == 1


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_without_other_settings_scores_are_logits_over_temperature(temperature):
    logits = torch.randn(2, 9)
    found = next_token_logits(logits, torch.zeros(2, 9, dtype=torch.bool), temperature)
    torch.testing.assert_close(found, logits / temperature)


# --- generate -----------------------------------------------------------------------------------------------------


def slow_greedy(model: MiniMindLM, ids: torch.Tensor, steps: int) -> torch.Tensor:
    """The likeliest token, again and again, without a cache."""
    with torch.no_grad():
        for _ in range(steps):
            ids = torch.cat([ids, model(ids).logits[:, -1].argmax(-1, keepdim=True)], dim=1)
    return ids


@pytest.mark.parametrize("use_moe", [False, True])
def test_temperature_zero_is_the_likeliest_token_each_time_for_every_row(use_moe, tiny_model):
    model, prompts = tiny_model(use_moe=use_moe), torch.randint(50, (3, 5))
    found = generate(model, prompts, max_new_tokens=40, temperature=0, eos_token_id=None)
    assert found.tolist() == slow_greedy(model, prompts, 40).tolist()  # 45 tokens pass max_seq_len 32


def test_the_length_counts_new_tokens_alone(tiny_model):
    for new in (0, 1, 17):
        found = generate(tiny_model(), PROMPT, max_new_tokens=new, eos_token_id=None)
        assert found.shape == (1, 4 + new) and found.dtype == torch.int64
        assert found[:, :4].tolist() == PROMPT.tolist()


def test_a_penalty_keeps_greedy_text_from_repeating(tiny_model):
    free = generate(tiny_model(), PROMPT, max_new_tokens=30, temperature=0, eos_token_id=None)
    held = generate(tiny_model(), PROMPT, max_new_tokens=30, temperature=0, eos_token_id=None, repetition_penalty=50.0)
    assert len(set(held[0].tolist())) > len(set(free[0].tolist()))


def with_fixed_next(next_of: dict[int, int]) -> MiniMindLM:
    """A model that always says `next_of[last id]` after an id (else the id itself)."""
    config = ModelConfig(dim=8, n_layers=1, n_heads=1, n_kv_heads=1, vocab_size=8, hidden_dim=8, max_seq_len=16)
    model = MiniMindLM(config)
    table = torch.eye(8)

    class Table(torch.nn.Module):
        def forward(self, x):
            last = x.argmax(-1)
            wanted = torch.tensor([next_of.get(int(i), int(i)) for i in last.flatten()]).view_as(last)
            return torch.nn.functional.one_hot(wanted, 8).float() * 9

    with torch.no_grad():
        for parameter in model.layers.parameters():
            parameter.zero_()  # blocks add nothing: the stream stays the embedding
        model.tok_embeddings.weight.copy_(table)
    model.output = Table()
    return model.eval()


def test_rows_that_end_early_are_padded_with_zeros_until_the_last_one_ends():
    model = with_fixed_next({3: 4, 4: 5, 5: 2, 6: 2})
    found = generate(model, torch.tensor([[3], [6], [4]]), max_new_tokens=10, temperature=0)
    assert found.tolist() == [[3, 4, 5, 2], [6, 2, 0, 0], [4, 5, 2, 0]]


def test_an_end_token_of_none_never_stops_early():
    model = with_fixed_next({6: 2})
    found = generate(model, torch.tensor([[6]]), max_new_tokens=4, temperature=0, eos_token_id=None)
    assert found.tolist() == [[6, 2, 2, 2, 2]]


def test_another_end_token_may_be_named():
    model = with_fixed_next({3: 4, 4: 5, 5: 6})
    assert generate(model, torch.tensor([[3]]), temperature=0, eos_token_id=5).tolist() == [[3, 4, 5]]


def test_an_end_token_in_the_prompt_ends_nothing():
    model = with_fixed_next({2: 4, 4: 4})
    found = generate(model, torch.tensor([[2, 2]]), max_new_tokens=2, temperature=0)
    assert found.tolist() == [[2, 2, 4, 4]]


def test_a_stream_gives_the_same_tokens_with_the_end_included():
    model = with_fixed_next({3: 4, 4: 5, 5: 2})
    tokens = generate(model, torch.tensor([[3]]), temperature=0, stream=True)
    assert list(tokens) == [4, 5, 2]


@pytest.mark.parametrize(
    "settings", [{}, {"temperature": 0}, {"top_k": 5, "temperature": 1.3}, {"top_p": 0.5, "seed": 7}]
)
def test_streaming_gives_what_generating_gives(settings, tiny_model):
    model = tiny_model()
    whole = generate(model, PROMPT, max_new_tokens=20, **settings)[0, 4:].tolist()
    pieces = list(generate(model, PROMPT, max_new_tokens=20, stream=True, **settings))
    assert pieces == whole and all(type(piece) is int for piece in pieces)


def test_the_same_seed_gives_the_same_tokens_and_another_seed_others(tiny_model):
    model = tiny_model()
    draw = [generate(model, PROMPT, max_new_tokens=30, temperature=1.5, top_p=1, seed=s).tolist() for s in (1, 1, 2)]
    assert draw[0] == draw[1] != draw[2]


def test_drawing_leaves_the_global_random_state_alone(tiny_model):
    model = tiny_model()
    before = torch.get_rng_state()
    generate(model, PROMPT, max_new_tokens=5, seed=None)
    assert torch.equal(torch.get_rng_state(), before)


def test_without_a_seed_each_draw_is_another(tiny_model):
    model = tiny_model()
    draws = {str(generate(model, PROMPT, 30, temperature=2.0, top_p=1, seed=None).tolist()) for _ in range(4)}
    assert len(draws) > 1


def test_top_k_of_one_is_greedy_at_any_temperature(tiny_model):
    model = tiny_model()
    greedy = generate(model, PROMPT, 12, temperature=0, eos_token_id=None)
    assert torch.equal(generate(model, PROMPT, 12, temperature=3.0, top_k=1, eos_token_id=None), greedy)


def test_tokens_are_drawn_as_often_as_their_probabilities_say(tiny_model):
    model = tiny_model()
    with torch.no_grad():
        wanted = (model(PROMPT).logits[0, -1] / 0.7).softmax(-1)
    drawn = torch.tensor(
        [next(generate(model, PROMPT, 1, temperature=0.7, top_p=1.0, seed=s, stream=True)) for s in range(600)]
    )
    counts = drawn.bincount(minlength=50) / 600
    assert (counts - wanted).abs().max() < 5 * math.sqrt(wanted.max() / 600)


@pytest.mark.parametrize("training", [True, False])
def test_the_models_mode_is_put_back(training, tiny_model):
    model = tiny_model(dropout=0.5).train(training)
    one = generate(model, PROMPT, 8, temperature=0)
    assert model.training is training and torch.equal(one, generate(model, PROMPT, 8, temperature=0))
    tokens = generate(model, PROMPT, 8, stream=True)
    next(tokens)
    tokens.close()
    assert model.training is training


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("temperature", value) for value in (-0.1, math.nan, math.inf, 101, "1", None, True)],
        *[("top_p", value) for value in (0, -1, 1.01, math.nan, "1", None)],
        *[("top_k", value) for value in (-1, 2.5, "3", True)],
        *[("repetition_penalty", value) for value in (0, -1, math.nan, 101, "1", None)],
        *[("max_new_tokens", value) for value in (-1, 2.5, "3", None, True)],
    ],
)
def test_settings_out_of_range_are_refused_naming_setting_and_value(name, value, tiny_model):
    with pytest.raises(ConfigError) as caught:
        generate(tiny_model(), PROMPT, **{name: value})
    assert f"{name}={value!r}" in str(caught.value)


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        (torch.tensor([[50]]), "outside the vocabulary of 50"),
        (torch.tensor([[-1]]), "outside the vocabulary"),
        (torch.tensor([1, 2]), r"\(2,\)"),
        (torch.zeros(1, 0, dtype=torch.int64), r"\(1, 0\)"),
        ([[1, 2]], "list"),
    ],
)
def test_ids_that_the_model_does_not_know_are_refused(ids, said, tiny_model):
    with pytest.raises(InputError, match=said):
        generate(tiny_model(), ids)


def test_settings_are_checked_before_the_first_token_is_asked_for(tiny_model):
    with pytest.raises(InputError, match="batch of 2"):
        generate(tiny_model(), PROMPT.repeat(2, 1), stream=True)
    with pytest.raises(ConfigError):
        generate(tiny_model(), PROMPT, temperature=-1, stream=True)


# --- text ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", ["山是", "<s>山是"])
def test_a_prompt_begins_with_one_opening_marker(tiny_tokenizer, prompt):
    ids = encode_prompt(tiny_tokenizer, prompt)
    assert ids.shape[0] == 1 and ids[0].tolist() == [1, *tiny_tokenizer.encode("山是").ids]


def test_an_empty_prompt_is_the_opening_marker_alone(tiny_tokenizer):
    assert encode_prompt(tiny_tokenizer, "").tolist() == [[1]]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_streamed_text_joins_to_the_whole_and_shows_no_half_characters(seed, tiny_model, tiny_tokenizer):
    size = tiny_tokenizer.get_vocab_size()
    model = tiny_model(vocab_size=size + 30)  # a model may have more rows than its tokenizer has tokens
    settings = {"max_new_tokens": 60, "temperature": 1.5, "top_p": 1.0, "seed": seed}
    pieces = list(stream(model, tiny_tokenizer, "山是", **settings))
    assert all(pieces) and "".join(pieces) == continue_text(model, tiny_tokenizer, "山是", **settings)
    assert "</s>" not in "".join(pieces)


def test_text_is_the_decode_of_the_generated_ids(tiny_model, tiny_tokenizer):
    model = tiny_model(vocab_size=tiny_tokenizer.get_vocab_size())
    ids = generate(model, encode_prompt(tiny_tokenizer, "山是"), 40, temperature=0, eos_token_id=None)
    new = ids[0, encode_prompt(tiny_tokenizer, "山是").shape[1] :].tolist()
    text = continue_text(model, tiny_tokenizer, "山是", max_new_tokens=40, temperature=0, eos_token_id=None)
    if not {0, 1, 2} & set(new):
        assert text == tiny_tokenizer.decode(new)
    assert text
