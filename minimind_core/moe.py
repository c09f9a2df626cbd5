"""Mixture of experts: a gate that sends each token to a few feed-forwards, and the loss that keeps them all at work.

After MiniMind, which follows DeepSeekMoE (Dai et al. 2024, arXiv:2401.06066). Built by hand in notebook 03. Left out:
spreading experts over several GPUs.
"""

# B batch · T tokens · N = B·T tokens in all · D model width · E routed experts · k experts per token

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import ModelConfig
from .layers import FeedForward


def alone(value: Tensor) -> Tensor:
    """The sum over all processes where there is one; the trainer puts the real one into each gate."""
    return value


class MoEGate(nn.Module):
    """Scores every expert for every token and picks the k best; (B, T, D) → indices (N, k), weights (N, k), aux_loss.

    Weights are softmax scores, divided by their sum when `norm_topk_prob` and k > 1. `aux_loss` is a scalar, 0 outside
    training: alpha · Σ over experts of share · E · mean score, least when work is spread evenly (then it is alpha).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.top_k, self.n_experts = config.num_experts_per_tok, config.n_routed_experts
        self.alpha, self.seq_aux, self.norm_topk_prob = config.aux_loss_alpha, config.seq_aux, config.norm_topk_prob
        self.total: Callable[[Tensor], Tensor] = alone
        self.weight = nn.Parameter(torch.empty(self.n_experts, config.dim))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scores = F.linear(x, self.weight).softmax(dim=-1)  # (B, T, D) → (B, T, E)
        weights, indices = scores.topk(self.top_k, dim=-1, sorted=False)  # → (B, T, k)
        if self.norm_topk_prob and self.top_k > 1:
            weights = weights / (weights.sum(dim=-1, keepdim=True) + 1e-20)
        aux_loss = self._balance(scores, indices) if self.training and self.alpha > 0 else scores.new_zeros(())
        return indices.flatten(0, 1), weights.flatten(0, 1), aux_loss

    def _balance(self, scores: Tensor, indices: Tensor) -> Tensor:
        """alpha · Σ_e share_e · E · mean score_e, per row and averaged (`seq_aux`) or over the batch at once.

        scores (B, T, E), indices (B, T, k). Of several processes each gives the loss of its own rows; their mean,
        weighted by rows, is that of all. Over the batch, shares are taken of all processes' assignments.
        """
        if not self.seq_aux:
            scores, indices = scores.flatten(0, 1)[None], indices.flatten(0, 1)[None]  # one row of N tokens
        chosen = indices.flatten(1)  # (B, T, k) → (B, T·k)
        counts = torch.zeros(len(chosen), self.n_experts, device=scores.device, dtype=torch.float32)
        counts.scatter_add_(1, chosen, torch.ones_like(chosen, dtype=torch.float32))
        if not self.seq_aux:
            counts = self.total(counts)
        load = counts * self.n_experts / counts.sum(dim=1, keepdim=True).clamp(min=1)  # E · share, 1 when even
        mean_scores = scores.float().sum(dim=1) / max(scores.shape[1], 1)
        return self.alpha * (load * mean_scores).sum() / max(len(load), 1)


class MoEFeedForward(nn.Module):
    """A feed-forward per expert, of which each token passes k, and one shared by all; (B, T, D) → (B, T, D).

    Returns the mixture and the gate's balancing loss. Training and evaluation go the same way; three ways of doing the
    same sum suit different machines.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.experts = nn.ModuleList(FeedForward(config) for _ in range(config.n_routed_experts))
        self.gate = MoEGate(config)
        if config.n_shared_experts:
            self.shared_experts = FeedForward(config)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        indices, weights, aux_loss = self.gate(x)
        tokens = x.flatten(0, 1)  # (B, T, D) → (N, D)
        mixed = self.way(tokens)(tokens, indices, weights).view(x.shape)
        if hasattr(self, "shared_experts"):
            mixed = mixed + self.shared_experts(x)
        return mixed, aux_loss

    def way(self, tokens: Tensor) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """On a CPU tokens are split by expert, which asks the device how many each one got. A GPU would have to wait
        for the answer: there one grouped kernel does it, or where that is missing each expert works on all tokens.
        """
        if tokens.device.type == "cpu" and not torch.compiler.is_compiling():
            return self.by_token if len(tokens) == 1 and not torch.is_grad_enabled() else self.by_expert
        return self.grouped if can_group(tokens) and not self.experts[0].dropout else self.all_on_all

    def by_expert(self, tokens: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
        """Tokens (N, D) sorted by expert: each expert then does one matrix product. indices, weights (N, k)."""
        order = indices.flatten().argsort(stable=True)  # (N·k,)
        token_of = order // indices.shape[1]
        counts = indices.flatten().bincount(minlength=len(self.experts)).tolist()
        parts = tokens[token_of].split(counts)
        # An idle expert still runs, on no token: its gradient is then zero rather than missing, as in MiniMind.
        found = torch.cat([expert(part) for expert, part in zip(self.experts, parts, strict=True)])
        found = found * weights.flatten()[order, None].to(found.dtype)
        return torch.zeros_like(tokens, dtype=found.dtype).index_add_(0, token_of, found)

    def by_token(self, token: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
        """A single token (1, D), as when a text is continued: nothing needs sorting."""
        chosen = zip(indices[0].tolist(), weights[0].tolist(), strict=True)
        return sum(self.experts[number](token) * weight for number, weight in chosen)

    def grouped(self, tokens: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
        """Sorted as in `by_expert`, but one kernel multiplies all parts and reads on the device where they end."""
        kind = torch.get_autocast_dtype(tokens.device.type) if _autocast(tokens) else tokens.dtype
        chosen, order = indices.flatten().sort(stable=True)
        token_of = order // indices.shape[1]
        numbers = torch.arange(len(self.experts), device=tokens.device)
        ends = torch.searchsorted(chosen, numbers, right=True).to(torch.int32)

        def product(rows: Tensor, name: str) -> Tensor:  # (N·k, in) × (E, in, out) → (N·k, out)
            matrices = torch.stack([getattr(expert, name).weight for expert in self.experts]).to(kind)
            return F.grouped_mm(rows, matrices.mT, offs=ends)

        rows = tokens[token_of].to(kind)
        found = product(F.silu(product(rows, "w1")) * product(rows, "w3"), "w2")
        found = found * weights.flatten()[order, None].to(found.dtype)
        return torch.zeros_like(tokens, dtype=found.dtype).index_add_(0, token_of, found)

    def all_on_all(self, tokens: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
        """Every expert on every token, weighted by 0 where it was not chosen: E / k times the work, no waiting."""
        share = torch.zeros(len(tokens), len(self.experts), device=tokens.device, dtype=weights.dtype)
        share = share.scatter(1, indices, weights)  # (N, k) → (N, E)
        found = [expert(tokens) for expert in self.experts]
        return sum(part * share[:, number, None].to(part.dtype) for number, part in enumerate(found))


def _autocast(tokens: Tensor) -> bool:
    return torch.is_autocast_enabled(tokens.device.type)


def can_group(tokens: Tensor) -> bool:
    """Whether torch multiplies groups in one kernel here: bfloat16 on an NVIDIA GPU from the 30 series on."""
    if not hasattr(F, "grouped_mm") or tokens.device.type != "cuda":
        return False
    kind = torch.get_autocast_dtype("cuda") if _autocast(tokens) else tokens.dtype
    return kind == torch.bfloat16 and torch.cuda.get_device_capability(tokens.device)[0] >= 8
