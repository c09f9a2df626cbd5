"""One more token with as few calls as possible: what `generate` does after the prompt.

A new token passes every matrix once, and a CPU mostly waits for these to arrive from memory; what a program can save is
everything else. The same sums as in the model's forward with a cache (a test holds them together), in a third of the
calls: rows instead of (B, 1, D), queries and keys turned together, each product cut into a piece for every thread. Left
out: training, prompts, and branching from an older cache, which the model's own forward does.
"""

# B batch · D model width · H query heads · K key/value heads · Dh per head · S tokens so far

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .layers import Attention, FeedForward, LayerCache, RMSNorm
from .model import MiniMindLM
from .moe import MoEFeedForward

ROOM = 256  # tokens that a buffer is made longer by, at least


class Decoder:
    """Continues `model` from the caches that its forward gave for a prompt; `step` takes one token of each row.

    For use without gradients, in eval mode. The model's caches stay as they are.
    """

    def __init__(self, model: MiniMindLM, caches: tuple[LayerCache, ...]) -> None:
        self.model, self.length = model, caches[0].length
        # Keys and values of a layer: (2, B, K, room, Dh), the first `length` of them filled.
        self.buffers = [_longer(torch.stack(cache.window()), ROOM) for cache in caches]
        self.first_norms = [_Norm(layer.attention_norm) for layer in model.layers]
        self.second_norms = [_Norm(layer.ffn_norm) for layer in model.layers]
        self.last_norm = _Norm(model.norm)

    @torch.no_grad()
    def step(self, ids: Tensor) -> Tensor:
        """Scores for the token after `ids`: (B,) int64 → (B, V)."""
        model = self.model
        if self.length == self.buffers[0].shape[3]:
            self.buffers = [_longer(buffer, max(ROOM, self.length)) for buffer in self.buffers]
        x = F.embedding(ids, model.tok_embeddings.weight)  # (B,) → (B, D)
        turns = self._turns()
        for number, layer in enumerate(model.layers):
            x = self._attend(x, self.first_norms[number](x), layer.attention, turns, self.buffers[number])
            x = _fed_forward(x, self.second_norms[number](x), layer.feed_forward)
        self.length += 1
        x = self.last_norm(x)
        return product(x, model.output.weight) if hasattr(model.output, "weight") else model.output(x)

    def _turns(self) -> Tensor:
        """What the position turns each head's pairs by, as complex numbers (H + 2K, Dh / 2); values by nothing."""
        cos, sin = self.model._rotary(self.length, self.length + 1)  # (1, Dh / 2)
        attention = self.model.layers[0].attention
        turns = torch.complex(cos, sin).expand(attention.n_heads + attention.n_kv_heads, -1)
        return torch.cat((turns, torch.ones_like(turns[: attention.n_kv_heads])))

    def _attend(self, x: Tensor, h: Tensor, attention: Attention, turns: Tensor, buffer: Tensor) -> Tensor:
        """x + attention(h), and this token's keys and values into the buffer."""
        batch, heads, kv_heads = len(x), attention.n_heads, attention.n_kv_heads
        parts = [product(h, part.weight) for part in (attention.wq, attention.wk, attention.wv)]
        pairs = torch.view_as_complex(torch.cat(parts, dim=1).float().view(batch, heads + 2 * kv_heads, -1, 2))
        turned = torch.view_as_real(pairs * turns).flatten(2).type_as(x)  # (B, H + 2K, Dh)
        new = turned[:, heads:].view(batch, 2, kv_heads, -1).transpose(0, 1)
        buffer[:, :, :, self.length] = new
        keys, values = buffer[:, :, :, : self.length + 1].unbind()
        rows = turned[:, :heads].view(batch, kv_heads, heads // kv_heads, -1)  # heads that share keys are rows
        mixed = F.scaled_dot_product_attention(rows, keys, values)
        return x + product(mixed.reshape(batch, -1), attention.wo.weight)


class _Norm:
    """RMSNorm of rows (B, D) in few calls: x / √(|x|² + eps·D), times the weights, which are multiplied by √D once."""

    def __init__(self, norm: RMSNorm) -> None:
        dim = len(norm.weight)
        self.weight = norm.weight.detach() * dim**0.5
        self.least = torch.tensor((norm.eps * dim) ** 0.5, device=norm.weight.device)

    def __call__(self, x: Tensor) -> Tensor:
        return (x / torch.hypot(torch.linalg.vector_norm(x, dim=1, keepdim=True), self.least)).mul_(self.weight)


def _fed_forward(x: Tensor, h: Tensor, layer: FeedForward | MoEFeedForward) -> Tensor:
    """x + feed_forward(h) for rows (B, D)."""
    if isinstance(layer, FeedForward):
        return _added(x, h, layer)
    if len(x) > 1:
        return x + layer(h[:, None])[0][:, 0]
    indices, weights, _ = layer.gate(h[:, None])
    for number, weight in zip(indices[0].tolist(), weights[0].tolist(), strict=True):
        x = _added(x, h, layer.experts[number], weight)
    return _added(x, h, layer.shared_experts) if hasattr(layer, "shared_experts") else x


def _added(x: Tensor, h: Tensor, feed_forward: FeedForward, weight: float = 1.0) -> Tensor:
    """x + weight · feed_forward(h)."""
    gated = F.silu(product(h, feed_forward.w1.weight)).mul_(product(h, feed_forward.w3.weight))
    return torch.add(x, product(gated, feed_forward.w2.weight), alpha=weight)


def product(rows: Tensor, matrix: Tensor) -> Tensor:
    """rows · matrixᵀ; (B, in) and (out, in) → (B, out).

    A single row is multiplied by one thread only, which cannot keep the memory busy: on a CPU the matrix is cut into
    one piece for each thread (1.7 times as fast with two).
    """
    threads, (outs, ins) = torch.get_num_threads(), matrix.shape
    if len(rows) > 1 or rows.device.type != "cpu" or threads == 1 or outs % threads:
        return F.linear(rows, matrix)
    return torch.bmm(rows.expand(threads, 1, ins), matrix.view(threads, -1, ins).mT).view(1, outs)


def _longer(buffer: Tensor, more: int) -> Tensor:
    """A copy of (2, B, K, S, Dh) with room for `more` tokens."""
    return torch.cat((buffer, buffer.new_zeros(*buffer.shape[:3], more, buffer.shape[4])), dim=3)
