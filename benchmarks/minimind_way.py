"""MiniMind's way of doing it (April 2025), written anew and plainly: what the course's own code is measured against.

The same arithmetic and the same names of weights, with everything that costs time there: complex rotary numbers,
repeated keys, a masked loop over experts into a float16 buffer, a cache that is concatenated, a set of seen tokens made
anew for each one, rows tokenised and padded while they are loaded. A test holds its losses to the reference figures.
"""

# B batch · T tokens · S tokens including the cache · D model width · H query heads · K key/value heads · Dh per head

from __future__ import annotations

import json
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from minimind_core import ModelConfig

POSITIONS = 32 * 1024


class Norm(nn.Module):
    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps, self.weight = eps, nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        return self.weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)).type_as(x)


def rotation(head_dim: int, theta: float) -> Tensor:
    """Unit complex numbers (POSITIONS, Dh / 2)."""
    frequencies = 1.0 / theta ** (torch.arange(0, head_dim, 2).float() / head_dim)
    angles = torch.outer(torch.arange(POSITIONS), frequencies)
    return torch.polar(torch.ones_like(angles), angles)


def rotated(x: Tensor, turns: Tensor) -> Tensor:
    """Pairs of x (B, T, heads, Dh) as complex numbers, multiplied by turns (T, Dh / 2)."""
    pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * turns[None, :, None]).flatten(3).type_as(x)


def repeated(x: Tensor, times: int) -> Tensor:
    """Each key/value head copied `times` times: (B, S, K, Dh) → (B, S, K·times, Dh)."""
    batch, span, heads, width = x.shape
    return x[:, :, :, None].expand(batch, span, heads, times, width).reshape(batch, span, heads * times, width)


class Attention(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.width = config.n_heads, config.n_kv_heads, config.head_dim
        self.wq = nn.Linear(config.dim, self.heads * self.width, bias=False)
        self.wk = nn.Linear(config.dim, self.kv_heads * self.width, bias=False)
        self.wv = nn.Linear(config.dim, self.kv_heads * self.width, bias=False)
        self.wo = nn.Linear(self.heads * self.width, config.dim, bias=False)
        mask = torch.full((1, 1, config.max_seq_len, config.max_seq_len), -torch.inf).triu(1)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor, turns: Tensor, past, use_cache: bool):
        batch, tokens, _ = x.shape
        queries = rotated(self.wq(x).view(batch, tokens, self.heads, self.width), turns)
        keys = rotated(self.wk(x).view(batch, tokens, self.kv_heads, self.width), turns)
        values = self.wv(x).view(batch, tokens, self.kv_heads, self.width)
        if past is not None:
            keys, values = torch.cat([past[0], keys], dim=1), torch.cat([past[1], values], dim=1)
        cache = (keys, values) if use_cache else None
        times = self.heads // self.kv_heads
        queries = queries.transpose(1, 2)
        keys, values = repeated(keys, times).transpose(1, 2), repeated(values, times).transpose(1, 2)
        if tokens != 1:
            mixed = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        else:
            scores = queries @ keys.transpose(2, 3) / math.sqrt(self.width) + self.mask[:, :, :tokens, :tokens]
            mixed = scores.float().softmax(dim=-1).type_as(queries) @ values
        return self.wo(mixed.transpose(1, 2).reshape(batch, tokens, -1)), cache


class FeedForward(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.w1 = nn.Linear(config.dim, config.ffn_dim, bias=False)
        self.w2 = nn.Linear(config.ffn_dim, config.dim, bias=False)
        self.w3 = nn.Linear(config.dim, config.ffn_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class Gate(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.n_routed_experts, config.dim))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    def forward(self, x: Tensor):
        config, (batch, tokens, _) = self.config, x.shape
        scores = F.linear(x.flatten(0, 1), self.weight).softmax(dim=-1)
        weights, chosen = scores.topk(config.num_experts_per_tok, dim=-1, sorted=False)
        if config.num_experts_per_tok > 1 and config.norm_topk_prob:
            weights = weights / (weights.sum(dim=-1, keepdim=True) + 1e-20)
        if not self.training or config.aux_loss_alpha == 0:
            return chosen, weights, 0
        experts = config.n_routed_experts
        if config.seq_aux:
            counts = torch.zeros(batch, experts, device=x.device)
            ones = torch.ones(batch, tokens * config.num_experts_per_tok, device=x.device)
            counts.scatter_add_(1, chosen.view(batch, -1), ones)
            load = counts / (tokens * config.num_experts_per_tok / experts)
            loss = (load * scores.view(batch, tokens, -1).mean(dim=1)).sum(dim=1).mean()
        else:
            share = F.one_hot(chosen.flatten(), experts).float().mean(0) * experts
            loss = (scores.mean(0) * share).sum()
        return chosen, weights, loss * config.aux_loss_alpha


class Experts(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.experts = nn.ModuleList(FeedForward(config) for _ in range(config.n_routed_experts))
        self.gate = Gate(config)
        if config.n_shared_experts:
            self.shared_experts = FeedForward(config)

    def forward(self, x: Tensor) -> Tensor:
        chosen, weights, self.aux_loss = self.gate(x)
        tokens = x.flatten(0, 1)
        mixed = self.training_way(tokens, chosen, weights) if self.training else self.eval_way(tokens, chosen, weights)
        mixed = mixed.view(x.shape)
        return mixed + self.shared_experts(x) if hasattr(self, "shared_experts") else mixed

    def training_way(self, tokens: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        tokens = tokens.repeat_interleave(self.config.num_experts_per_tok, dim=0)
        found = torch.empty_like(tokens, dtype=torch.float16)
        for number, expert in enumerate(self.experts):
            found[chosen.flatten() == number] = expert(tokens[chosen.flatten() == number]).to(found.dtype)
        return (found.view(*weights.shape, -1) * weights.unsqueeze(-1)).sum(dim=1)

    @torch.no_grad()
    def eval_way(self, tokens: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        mixed, order = torch.zeros_like(tokens), chosen.flatten().argsort()
        ends = chosen.flatten().bincount().cpu().numpy().cumsum(0)
        token_of = order // self.config.num_experts_per_tok
        for number, end in enumerate(ends):
            start = 0 if number == 0 else ends[number - 1]
            if start == end:
                continue
            mine = token_of[start:end]
            found = self.experts[number](tokens[mine]).to(mixed.dtype)
            found.mul_(weights.flatten()[order[start:end], None])
            mixed.scatter_add_(0, mine.view(-1, 1).repeat(1, tokens.shape[-1]), found)
        return mixed


class Block(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.attention_norm, self.ffn_norm = Norm(config.dim, config.norm_eps), Norm(config.dim, config.norm_eps)
        self.feed_forward = Experts(config) if config.use_moe else FeedForward(config)

    def forward(self, x: Tensor, turns: Tensor, past, use_cache: bool):
        mixed, cache = self.attention(self.attention_norm(x), turns, past, use_cache)
        x = x + mixed
        return x + self.feed_forward(self.ffn_norm(x)), cache


class Model(nn.Module):
    """ids (B, T) → logits (B, T, V), the sum of the balancing losses, and the caches."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.dim)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = Norm(config.dim, config.norm_eps)
        self.output = nn.Linear(config.dim, config.vocab_size, bias=False)
        self.tok_embeddings.weight = self.output.weight
        self.register_buffer("turns", rotation(config.head_dim, config.rope_theta), persistent=False)

    def forward(self, ids: Tensor, past=None, use_cache: bool = False, start: int = 0):
        x = self.tok_embeddings(ids)
        turns, caches = self.turns[start : start + ids.shape[1]], []
        for number, layer in enumerate(self.layers):
            x, cache = layer(x, turns, past[number] if past else None, use_cache)
            caches.append(cache)
        aux_loss = sum(layer.feed_forward.aux_loss for layer in self.layers) if self.config.use_moe else 0
        return self.output(self.norm(x)), aux_loss, caches


def loss_of(model: Model, X: Tensor, Y: Tensor, loss_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy averaged over the mask, and the balancing loss."""
    logits, aux_loss, _ = model(X)
    losses = F.cross_entropy(logits.view(-1, logits.shape[-1]), Y.flatten(), reduction="none").view(Y.shape)
    return (losses * loss_mask).sum() / loss_mask.sum(), aux_loss


class Rows(Dataset):
    """Lines of a corpus file, kept as text, each parsed, tokenised and padded when it is asked for."""

    def __init__(self, path, tokenizer, max_length: int = 512) -> None:
        with open(path, encoding="utf-8") as file:
            self.lines = [line for line in file if line.strip()]
        self.tokenizer, self.max_length = tokenizer, max_length

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        text = f"<s>{json.loads(self.lines[index])['text']}</s>"
        ids = self.tokenizer.encode(text, add_special_tokens=False).ids[: self.max_length]
        ids = torch.tensor(ids + [0] * (self.max_length - len(ids)), dtype=torch.int64)
        loss_mask = ids != 0
        return ids[:-1], ids[1:], loss_mask[1:].to(torch.int64)


@torch.no_grad()
def generate(model: Model, ids: Tensor, new: int, temperature: float, top_p: float, penalty: float) -> Tensor:
    """Continue ids (1, T) by `new` tokens, whatever they are."""
    past = None
    for _ in range(new):
        part, start = (ids, 0) if past is None else (ids[:, -1:], ids.shape[1] - 1)
        logits, _, past = model(part, past, use_cache=True, start=start)
        logits = logits[:, -1]
        logits[:, list(set(ids.tolist()[0]))] /= penalty
        logits /= temperature + 1e-9
        if top_p < 1:
            ordered, order = logits.sort(descending=True, dim=-1)
            drop = ordered.softmax(dim=-1).cumsum(dim=-1) > top_p
            drop[:, 1:] = drop[:, :-1].clone()
            drop[:, 0] = False
            logits[drop.scatter(1, order, drop)] = -torch.inf
        ids = torch.cat([ids, torch.multinomial(logits.softmax(dim=-1), num_samples=1)], dim=1)
    return ids
