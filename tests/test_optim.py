"""Optimizers: the seed's AdamW, Muon against a slow version of itself, and the pair that acts as one."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import nn

from minimind_core import RECIPES, ConfigError, Muon, build_optimizer, orthogonalize
from minimind_core.optim import OptimizerPair, split_parameters


def train_a_little(model, optimizer, steps: int, seed: int = 3) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        tokens = torch.randint(50, (2, 9), generator=generator)
        model(tokens).logits.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def test_the_seeds_optimizer_is_adamw_at_its_defaults_over_everything(tiny_model):
    model = tiny_model(use_moe=True)
    optimizer = build_optimizer(model, RECIPES["seed"], 5e-4)
    assert type(optimizer) is torch.optim.AdamW and len(optimizer.param_groups) == 1
    group = optimizer.param_groups[0]
    assert (group["lr"], group["betas"], group["eps"], group["weight_decay"]) == (5e-4, (0.9, 0.999), 1e-8, 0.01)
    assert [id(p) for p in group["params"]] == [id(p) for p in model.parameters()]


def test_the_fast_recipes_numbers_reach_both_of_its_optimizers(tiny_model):
    recipe = dataclasses.replace(RECIPES["fast"], momentum=0.8, beta2=0.9, weight_decay=0.3)
    muon, adamw = build_optimizer(tiny_model(), recipe, 2e-3).both
    assert type(muon) is Muon and type(adamw) is torch.optim.AdamW
    assert [(g["lr"], g["momentum"], g["weight_decay"]) for g in muon.param_groups] == [(2e-3, 0.8, 0.3)]
    assert {(g["lr"], g["betas"]) for g in adamw.param_groups} == {(2e-3, (0.8, 0.9))}
    assert sorted(g["weight_decay"] for g in adamw.param_groups) == [0.0, 0.3]


@pytest.mark.parametrize("use_moe", [False, True])
def test_muon_turns_the_hidden_matrices_and_nothing_else(use_moe, tiny_model):
    model = tiny_model(use_moe=use_moe)
    hidden, others = split_parameters(model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert {names[id(p)].split(".")[-2] for p in hidden} == {"wq", "wk", "wv", "wo", "w1", "w2", "w3"}
    rest = {names[id(p)] for p in others}
    assert any("norm" in name for name in rest) and rest & {"tok_embeddings.weight", "output.weight"}
    assert any(".gate." in name for name in rest) == use_moe
    assert sorted(map(id, hidden + others)) == sorted(map(id, model.parameters()))


def test_the_fast_recipe_updates_every_parameter_exactly_once(tiny_model):
    model = tiny_model(use_moe=True)
    optimizer = build_optimizer(model, RECIPES["fast"], 1e-3)
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(map(id, model.parameters()))
    before = copy.deepcopy(model.state_dict())
    train_a_little(model.train(), optimizer, 1)
    moved = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert moved == set(before)


def test_norms_are_not_decayed_by_the_fast_recipe(tiny_model):
    optimizer = build_optimizer(tiny_model(), RECIPES["fast"], 1e-3)
    for group in optimizer.param_groups:
        vectors = [p for p in group["params"] if p.dim() < 2]
        assert not vectors or (len(vectors) == len(group["params"]) and group["weight_decay"] == 0)


def test_an_unknown_optimizer_is_refused(tiny_model):
    with pytest.raises(ConfigError, match=r"sgd.*adamw, muon"):
        build_optimizer(tiny_model(), dataclasses.replace(RECIPES["seed"], optimizer="sgd"), 1e-3)


@pytest.mark.parametrize("shape", [(16, 16), (8, 32), (32, 8), (48, 16)])
def test_orthogonalizing_brings_every_direction_to_about_one_length(shape):
    matrix = torch.randn(3, *shape)
    found = orthogonalize(matrix)
    values = torch.linalg.svdvals(found)
    assert found.shape == matrix.shape and values.min() > 0.5 and values.max() < 1.3
    # It keeps the directions: U·S·Vᵀ becomes about U·Vᵀ.
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    assert ((found * (left @ right)).sum((1, 2)) / min(shape) > 0.7).all()


def test_matrices_turned_together_are_turned_as_alone():
    matrices = torch.randn(4, 8, 12)
    alone = torch.cat([orthogonalize(matrix[None]) for matrix in matrices])
    torch.testing.assert_close(orthogonalize(matrices), alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", [(2, 6, 10), (3, 10, 6), (2, 8, 8), (1, 6, 8)])
def test_an_iteration_is_the_polynomial_that_it_says(shape):
    matrices = torch.randn(*shape, dtype=torch.float64)
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    values = values / values.norm(dim=-1, keepdim=True)  # a matrix's norm is that of its singular values
    for _ in range(3):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    wanted = left @ torch.diag_embed(values) @ right
    torch.testing.assert_close(orthogonalize(matrices, steps=3).double(), wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("shape", [(48, 64), (48, 132)])  # both ways of doing it
def test_directions_of_almost_no_length_do_no_harm(shape):
    left, _, right = torch.linalg.svd(torch.randn(*shape, dtype=torch.float64), full_matrices=False)
    values = torch.logspace(0, -12, shape[0], dtype=torch.float64)
    found = orthogonalize((left @ torch.diag(values) @ right)[None].float())[0].double()
    values = values / values.norm()
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    assert (found - left @ torch.diag(values) @ right).abs().max() < 2e-4


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 8, 20)])
def test_a_gradient_of_zeros_stays_zero(shape):
    assert torch.equal(orthogonalize(torch.zeros(*shape)), torch.zeros(*shape))
    matrix = torch.randn(*shape)
    torch.testing.assert_close(orthogonalize(matrix, steps=0), matrix / matrix.norm())


def test_muon_does_what_its_formula_says():
    weights = [torch.randn(8, 12), torch.randn(12, 8), torch.randn(8, 12)]
    gradients = [[torch.randn_like(w) for w in weights] for _ in range(3)]
    parameters = [nn.Parameter(w.clone()) for w in weights]
    optimizer = Muon(parameters, lr=0.03, momentum=0.9, weight_decay=0.2)
    buffers = [torch.zeros_like(w) for w in weights]
    for step in gradients:
        for parameter, gradient in zip(parameters, step, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
        for n, gradient in enumerate(step):
            buffers[n] = 0.9 * buffers[n] + 0.1 * gradient
            ahead = 0.1 * gradient + 0.9 * buffers[n]
            turned = orthogonalize(ahead[None])[0]
            weights[n] = weights[n] * (1 - 0.03 * 0.2) - 0.03 * 0.2 * 12**0.5 * turned
    for parameter, wanted in zip(parameters, weights, strict=True):
        torch.testing.assert_close(parameter.detach(), wanted, atol=1e-5, rtol=1e-4)


def test_muon_leaves_parameters_without_a_gradient_alone():
    idle, busy = nn.Parameter(torch.ones(4, 4)), nn.Parameter(torch.ones(4, 4))
    optimizer = Muon([idle, busy], lr=0.1)
    busy.grad = torch.randn(4, 4)
    optimizer.step()
    assert torch.equal(idle, torch.ones(4, 4)) and not torch.equal(busy, torch.ones(4, 4))


def test_muon_refuses_what_is_no_matrix():
    with pytest.raises(ConfigError, match=r"\(3,\)"):
        Muon([nn.Parameter(torch.zeros(3))])


def test_the_pair_takes_one_learning_rate_for_both(tiny_model):
    model = tiny_model().train()
    optimizer = build_optimizer(model, RECIPES["fast"], 1e-3)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = copy.deepcopy(model.state_dict())
    train_a_little(model, optimizer, 2)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_the_pair_forgets_gradients_of_both(tiny_model):
    model = tiny_model().train()
    optimizer = build_optimizer(model, RECIPES["fast"], 1e-3)
    model(torch.ones(1, 3, dtype=torch.int64)).logits.sum().backward()
    optimizer.zero_grad()
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("recipe", RECIPES)
def test_an_optimizer_goes_on_from_its_saved_state_bit_by_bit(recipe, tiny_model):
    model = tiny_model().train()
    optimizer = build_optimizer(model, RECIPES[recipe], 1e-3)
    train_a_little(model, optimizer, 3)
    other = tiny_model(seed=9).train()
    other.load_state_dict(model.state_dict())
    heir = build_optimizer(other, RECIPES[recipe], 1e-3)
    heir.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert isinstance(heir, OptimizerPair) == (recipe == "fast")
    train_a_little(model, optimizer, 3, seed=4)
    train_a_little(other, heir, 3, seed=4)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)
