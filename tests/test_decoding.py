"""The short way of one more token gives what the model's own forward gives."""

from __future__ import annotations

import pytest
import torch

from minimind_core import MiniMindLM, generate
from minimind_core.decoding import ROOM, Decoder, cut

KINDS = [
    {},
    {"n_kv_heads": 4},
    {"n_kv_heads": 1},
    {"use_moe": True},
    {"use_moe": True, "n_shared_experts": 0, "num_experts_per_tok": 1},
    {"use_moe": True, "num_experts_per_tok": 3, "norm_topk_prob": False},
    {"norm_eps": 0.1},
]


def names(kind: dict) -> str:
    return ",".join(f"{key}={value}" for key, value in kind.items()) or "dense"


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    """So many threads; the suite's own number afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("kind", KINDS, ids=names)
def test_each_step_has_the_scores_of_the_models_own_forward(tiny_model, kind, rows, threads):
    model = tiny_model(**kind)
    with torch.no_grad():
        for parameter in model.parameters():  # norms have weights of 1 otherwise, which hides a forgotten one
            parameter.mul_(1 + 0.5 * torch.rand_like(parameter))
        ids = torch.randint(50, (rows, 50))
        decoder = Decoder(model, model(ids[:, :5], use_cache=True).past_key_values)
        wanted = model(ids).logits
        for place in range(5, 50):  # past max_seq_len (32)
            torch.testing.assert_close(decoder.step(ids[:, place]), wanted[:, place], atol=2e-5, rtol=1e-5)


def test_the_buffers_grow_past_their_room(tiny_model):
    model = tiny_model()
    ids = torch.randint(50, (1, ROOM + 40))
    with torch.no_grad():
        decoder = Decoder(model, model(ids[:, :1], use_cache=True).past_key_values)
        for place in range(1, ids.shape[1]):
            found = decoder.step(ids[:, place])
        torch.testing.assert_close(found, model(ids).logits[:, -1], atol=2e-5, rtol=1e-5)
    assert decoder.length == ids.shape[1]


def test_the_models_caches_stay_as_they_are(tiny_model):
    model, ids = tiny_model(), torch.randint(50, (1, 6))
    with torch.no_grad():
        caches = model(ids, use_cache=True).past_key_values
        before = [cache.window()[0].clone() for cache in caches]
        Decoder(model, caches).step(ids[:, 0])
        assert [cache.length for cache in caches] == [6, 6]
        assert all(torch.equal(cache.window()[0], keys) for cache, keys in zip(caches, before, strict=True))


@pytest.mark.parametrize("kind", KINDS, ids=names)
def test_generating_is_the_models_forward_step_by_step(tiny_model, kind):
    model, ids = tiny_model(**kind), torch.randint(50, (2, 4))
    found = generate(model, ids, max_new_tokens=12, temperature=0, eos_token_id=None)
    for _ in range(12):
        with torch.no_grad():
            ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(found, ids)


def test_weights_that_change_between_two_texts_are_the_new_ones(tiny_model):
    model, ids = tiny_model(), torch.randint(50, (1, 4))
    generate(model, ids, max_new_tokens=3)
    other: MiniMindLM = tiny_model(seed=9)
    model.load_state_dict(other.state_dict())
    settings = {"max_new_tokens": 8, "temperature": 0, "eos_token_id": None}
    assert torch.equal(generate(model, ids, **settings), generate(other, ids, **settings))


@pytest.mark.parametrize(("rows", "available", "pieces"), [(1, 1, 1), (1, 2, 2), (1, 3, 2), (1, 6, 4), (3, 2, 1)])
def test_a_matrix_has_a_piece_for_every_thread_where_it_can_be_cut(tiny_model, monkeypatch, rows, available, pieces):
    model = tiny_model(vocab_size=68)
    monkeypatch.setattr(torch, "get_num_threads", lambda: available)
    cuts = cut(model, rows)
    assert {len(parts) for parts in cuts.values()} == {pieces}
    assert len(cuts) == sum(isinstance(module, torch.nn.Linear) for module in model.modules())
    weight = model.output.weight
    assert cuts[model.output].untyped_storage().data_ptr() == weight.untyped_storage().data_ptr(), "nothing is copied"
    joined = torch.cat([part.T for part in cuts[model.output]])
    assert torch.equal(joined, weight)
