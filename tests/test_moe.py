"""Experts: what the gate chooses, how it weighs and balances, and that sorting tokens by expert changes nothing."""

from __future__ import annotations

import pytest
import torch
from conftest import tiny_config

from minimind_core import MiniMindLM, MoEFeedForward, MoEGate


def gate_with(scores: torch.Tensor, **changes) -> tuple[MoEGate, torch.Tensor]:
    """A gate and an input (B, T, E) for which the softmax scores are exactly `scores` (B, T, E)."""
    experts = scores.shape[-1]
    gate = MoEGate(tiny_config(dim=experts, n_heads=1, n_kv_heads=1, use_moe=True, n_routed_experts=experts, **changes))
    with torch.no_grad():
        gate.weight.copy_(torch.eye(experts))
    return gate, scores.log()


SCORES = torch.tensor(
    [
        [[0.5, 0.3, 0.15, 0.05], [0.1, 0.2, 0.3, 0.4], [0.25, 0.45, 0.1, 0.2]],
        [[0.6, 0.2, 0.1, 0.1], [0.4, 0.35, 0.05, 0.2], [0.7, 0.1, 0.15, 0.05]],
    ]
)
CHOSEN = [[[0, 1], [2, 3], [0, 1]], [[0, 1], [0, 1], [0, 2]]]  # the two best of each token


def test_the_gate_takes_the_best_experts_and_divides_their_scores_by_the_sum():
    gate, x = gate_with(SCORES)
    indices, weights, _ = gate(x)
    for token, (found, weight) in enumerate(zip(indices.tolist(), weights, strict=True)):
        row, column = divmod(token, 3)
        assert sorted(found) == CHOSEN[row][column]
        chosen = SCORES[row, column][found]
        torch.testing.assert_close(weight, chosen / chosen.sum())


def test_without_normalisation_weights_are_the_scores_themselves():
    gate, x = gate_with(SCORES, norm_topk_prob=False)
    indices, weights, _ = gate(x)
    torch.testing.assert_close(weights, SCORES.flatten(0, 1).gather(1, indices))


def test_a_single_expert_keeps_its_score_as_weight():
    gate, x = gate_with(SCORES, num_experts_per_tok=1)
    indices, weights, _ = gate(x)
    assert indices.flatten().tolist() == [0, 3, 1, 0, 0, 0]
    torch.testing.assert_close(weights.flatten(), SCORES.flatten(0, 1).max(-1).values)


def test_the_balancing_loss_row_by_row_is_the_one_worked_by_hand():
    gate, x = gate_with(SCORES, aux_loss_alpha=0.5)
    gate.train()
    # First row: 2, 2, 1, 1 of 6 assignments; second row: 3, 2, 1, 0 of 6.
    shares = torch.tensor([[2, 2, 1, 1], [3, 2, 1, 0]]) / 6
    wanted = 0.5 * (shares * 4 * SCORES.mean(dim=1)).sum(dim=1).mean()
    torch.testing.assert_close(gate(x)[2], wanted)


def test_the_balancing_loss_over_the_whole_batch_is_the_one_worked_by_hand():
    gate, x = gate_with(SCORES, aux_loss_alpha=0.5, seq_aux=False)
    gate.train()
    shares = torch.tensor([5, 4, 2, 1]) / 12
    wanted = 0.5 * (shares * 4 * SCORES.flatten(0, 1).mean(dim=0)).sum()
    torch.testing.assert_close(gate(x)[2], wanted)


@pytest.mark.parametrize("seq_aux", [True, False])
def test_evenly_spread_scores_cost_alpha_a_layer(seq_aux):
    config = tiny_config(use_moe=True, n_layers=3, aux_loss_alpha=0.1, seq_aux=seq_aux)
    model = MiniMindLM(config).train()
    with torch.no_grad():
        for layer in model.layers:
            layer.feed_forward.gate.weight.zero_()
    assert model(torch.randint(50, (2, 9))).aux_loss.item() == pytest.approx(0.3, abs=1e-6)


def test_the_balancing_loss_pulls_at_the_gate():
    gate, x = gate_with(SCORES)
    gate.train()(x)[2].backward()
    assert gate.weight.grad.abs().max() > 0


@pytest.mark.parametrize(("training", "alpha"), [(False, 0.1), (True, 0.0)])
def test_no_balancing_loss_outside_training_or_without_a_weight(training, alpha):
    gate, x = gate_with(SCORES, aux_loss_alpha=alpha)
    aux_loss = gate.train(training)(x)[2]
    assert isinstance(aux_loss, torch.Tensor) and aux_loss.shape == () and aux_loss == 0


def slow_mixture(part: MoEFeedForward, x: torch.Tensor) -> torch.Tensor:
    """What a MoEFeedForward should give, one token at a time."""
    indices, weights, _ = part.gate(x)
    rows = []
    for token, chosen, weight in zip(x.flatten(0, 1), indices.tolist(), weights, strict=True):
        mixed = sum(w * part.experts[e](token) for e, w in zip(chosen, weight, strict=True))
        if hasattr(part, "shared_experts"):
            mixed = mixed + part.shared_experts(token)
        rows.append(mixed)
    return torch.stack(rows).view_as(x)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "changes",
    [{}, {"n_shared_experts": 0}, {"num_experts_per_tok": 1}, {"num_experts_per_tok": 4}, {"n_routed_experts": 7}],
)
def test_the_mixture_equals_one_computed_token_by_token(changes, training):
    part = MoEFeedForward(tiny_config(use_moe=True, **changes)).train(training)
    x = torch.randn(3, 5, 16)
    torch.testing.assert_close(part(x)[0], slow_mixture(part, x), atol=1e-6, rtol=1e-5)


def test_an_idle_experts_gradient_is_zero_rather_than_missing():
    part = MoEFeedForward(tiny_config(use_moe=True, n_routed_experts=4, num_experts_per_tok=1)).train()
    with torch.no_grad():
        part.gate.weight.copy_(torch.tensor([1.0, -1, -1, -1])[:, None].expand(4, 16))
    mixed, aux_loss = part(torch.rand(2, 3, 16) + 0.1)
    (mixed.sum() + aux_loss).backward()
    for number, expert in enumerate(part.experts):
        for parameter in expert.parameters():
            assert parameter.grad is not None
            assert bool(parameter.grad.any()) == (number == 0)


def test_experts_compute_in_the_inputs_format():
    part = MoEFeedForward(tiny_config(use_moe=True)).train()
    large = part(torch.full((1, 2, 16), 3e4))[0]  # squares of this pass float16's 65,504
    assert large.dtype == torch.float32 and torch.isfinite(large).all() and large.abs().max() > 65_504
    narrow = part.to(torch.bfloat16)(torch.randn(1, 2, 16, dtype=torch.bfloat16))[0]
    assert narrow.dtype == torch.bfloat16


def test_experts_work_under_autocast():
    part = MoEFeedForward(tiny_config(use_moe=True)).train()
    x = torch.randn(2, 3, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed, aux_loss = part(x)
    torch.testing.assert_close(mixed.float(), part(x)[0], atol=0.05, rtol=0.1)
    assert aux_loss.dtype == torch.float32
