"""One more token with as few calls as possible: what `generate` does after the prompt.

A new token passes every matrix once, and a CPU mostly waits for these to arrive from memory; what a program can save is
everything else. The same sums as in the model's forward with a cache (a test holds them together), in a third of the
calls: rows instead of (B, 1, D), queries and keys turned together, each matrix cut beforehand into a piece for every
thread. Left out: training, prompts, and branching from an older cache, which the model's own forward does.
"""

# B batch · D model width · H query heads · K key/value heads · Dh per head · S tokens so far · P pieces of a matrix

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import Attention, FeedForward, LayerCache, RMSNorm
from .model import MiniMindLM
from .moe import MoEFeedForward, MoEGate

ROOM = 256  # tokens that a buffer is made longer by, at least


class Decoder:
    """Continues `model` from the caches that its forward gave for a prompt; `step` takes one token of each row.

    For use without gradients, in eval mode. The model's caches stay as they are.
    """

    def __init__(self, model: MiniMindLM, caches: tuple[LayerCache, ...]) -> None:
        self.model, self.length = model, caches[0].length
        # Keys and values of a layer: (2, B·K, room, Dh), the first `length` of them filled.
        self.buffers = [_longer(torch.stack(cache.window()).flatten(1, 2), ROOM) for cache in caches]
        self.first_norms = [_Norm(layer.attention_norm) for layer in model.layers]
        self.second_norms = [_Norm(layer.ffn_norm) for layer in model.layers]
        self.last_norm = _Norm(model.norm)
        self.cuts = cut(model, rows=len(caches[0].window()[0]))

    @torch.no_grad()
    def step(self, ids: Tensor) -> Tensor:
        """Scores for the token after `ids`: (B,) int64 → (B, V)."""
        model = self.model
        if self.length == self.buffers[0].shape[2]:
            self.buffers = [_longer(buffer, max(ROOM, self.length)) for buffer in self.buffers]
        x = F.embedding(ids, model.tok_embeddings.weight)  # (B,) → (B, D)
        turns = self._turns()
        for number, layer in enumerate(model.layers):
            x = self._attend(x, self.first_norms[number](x), layer.attention, turns, self.buffers[number])
            x = self._fed_forward(x, self.second_norms[number](x), layer.feed_forward)
        self.length += 1
        x = self.last_norm(x)
        return self._product(x, model.output) if model.output in self.cuts else model.output(x)

    def _product(self, rows: Tensor, matrix: nn.Module) -> Tensor:
        """What the linear layer `matrix` gives for rows (B, in) → (B, out)."""
        pieces = self.cuts[matrix]
        return joined(torch.bmm(rows.expand(len(pieces), -1, -1), pieces))

    def _turns(self) -> Tensor:
        """What the position turns each head's pairs by, as complex numbers (H + 2K, Dh / 2); values by nothing.

        Queries are divided by √Dh on the way, as attention asks for.
        """
        cos, sin = self.model._rotary(self.length, self.length + 1)  # (1, Dh / 2)
        attention = self.model.layers[0].attention
        turn = torch.complex(cos, sin)
        queries = (turn / attention.head_dim**0.5).expand(attention.n_heads, -1)
        keys = turn.expand(attention.n_kv_heads, -1)
        return torch.cat((queries, keys, torch.ones_like(keys)))

    def _attend(self, x: Tensor, h: Tensor, attention: Attention, turns: Tensor, buffer: Tensor) -> Tensor:
        """x + attention(h), and this token's keys and values into the buffer."""
        batch, heads, kv_heads = len(x), attention.n_heads, attention.n_kv_heads
        parts = [self._product(h, part) for part in (attention.wq, attention.wk, attention.wv)]
        pairs = torch.view_as_complex(torch.cat(parts, dim=1).float().view(batch, heads + 2 * kv_heads, -1, 2))
        turned = torch.view_as_real(pairs * turns).flatten(2).type_as(x)  # (B, H + 2K, Dh)
        new = turned[:, heads:].view(batch, 2, kv_heads, -1).transpose(0, 1)
        buffer[:, :, self.length] = new.flatten(1, 2)
        keys, values = buffer[:, :, : self.length + 1].unbind()  # (B·K, S, Dh) each
        rows = turned[:, :heads].reshape(batch * kv_heads, heads // kv_heads, -1)  # heads that share keys are rows
        mixed = torch.bmm(torch.bmm(rows, keys.mT).softmax(dim=-1), values)
        return x + self._product(mixed.view(batch, -1), attention.wo)

    def _fed_forward(self, x: Tensor, h: Tensor, layer: FeedForward | MoEFeedForward) -> Tensor:
        """x + feed_forward(h) for rows (B, D)."""
        if isinstance(layer, FeedForward):
            return self._added(x, h, layer)
        if len(x) > 1:
            return x + layer(h[:, None])[0][:, 0]
        for number, weight in chosen_experts(h, layer.gate):
            x = self._added(x, h, layer.experts[number], weight)
        return self._added(x, h, layer.shared_experts) if hasattr(layer, "shared_experts") else x

    def _added(self, x: Tensor, h: Tensor, layer: FeedForward, weight: float = 1.0) -> Tensor:
        """x + weight · layer(h)."""
        first, second, third = self.cuts[layer.w1], self.cuts[layer.w3], self.cuts[layer.w2]
        spread = h.expand(len(first), -1, -1)
        gated = joined(F.silu(torch.bmm(spread, first)).mul_(torch.bmm(spread, second)))
        return torch.add(x, joined(torch.bmm(gated.expand(len(third), -1, -1), third)), alpha=weight)


class _Norm:
    """RMSNorm of rows (B, D) in few calls: x / √(|x|² + eps·D), times the weights, which are multiplied by √D once."""

    def __init__(self, norm: RMSNorm) -> None:
        dim = len(norm.weight)
        self.weight = norm.weight.detach() * dim**0.5
        self.least = torch.tensor((norm.eps * dim) ** 0.5, device=norm.weight.device)

    def __call__(self, x: Tensor) -> Tensor:
        return (x / torch.hypot(torch.linalg.vector_norm(x, dim=1, keepdim=True), self.least)).mul_(self.weight)


def cut(model: nn.Module, rows: int) -> dict[nn.Module, Tensor]:
    """Every linear layer's matrix, turned and cut into pieces (P, in, out / P); nothing is copied.

    A single row is multiplied by one thread only, which cannot keep the memory busy: on a CPU there are as many pieces
    as threads (1.7 times as fast with two), or the next smaller number that all matrices can be cut into.
    """
    layers = [module for module in model.modules() if isinstance(module, nn.Linear) and module.bias is None]
    pieces, outs = 1, math.gcd(*(layer.weight.shape[0] for layer in layers))
    if rows == 1 and layers and layers[0].weight.device.type == "cpu":
        pieces = max(n for n in range(1, torch.get_num_threads() + 1) if outs % n == 0)
    return {layer: layer.weight.detach().view(pieces, -1, layer.in_features).mT for layer in layers}


def chosen_experts(h: Tensor, gate: MoEGate) -> list[tuple[int, float]]:
    """The k experts that a single row (1, D) is sent to, each with its weight."""
    scores, numbers = F.linear(h, gate.weight).softmax(dim=-1).topk(gate.top_k, sorted=False)
    weights = scores[0].tolist()
    whole = sum(weights) if gate.norm_topk_prob and gate.top_k > 1 else 1.0
    return [(number, weight / whole) for number, weight in zip(numbers[0].tolist(), weights, strict=True)]


def joined(parts: Tensor) -> Tensor:
    """What the pieces gave, as rows: (P, B, out / P) → (B, out); one of P and B is 1."""
    return parts.view(parts.shape[1], -1)


def _longer(buffer: Tensor, more: int) -> Tensor:
    """A copy of (2, B·K, S, Dh) with room for `more` tokens."""
    return torch.cat((buffer, buffer.new_zeros(*buffer.shape[:2], more, buffer.shape[3])), dim=2)
