"""The parts of a block: RMSNorm, rotary embedding, attention with grouped heads and a cache, SwiGLU feed-forward.

Everything follows MiniMind (Llama's architecture). Built by hand in notebook 03, where cells prove the two equal. Left
out: experts (moe.py), attention's quicker way on a CPU (blockwise.py), and how parts are stacked (model.py).
"""

# B batch · T tokens · S tokens including the cache · D model width · H query heads · K key/value heads · Dh per head

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import blockwise
from .config import ModelConfig


class RMSNorm(nn.Module):
    """Divide each vector by its root mean square, then scale it by a learned weight; (…, D) → (…, D).

    Computed in float32 whatever the input's dtype. Zhang & Sennrich 2019, arXiv:1910.07467.
    """

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * F.rms_norm(x.float(), self.weight.shape, eps=self.eps).type_as(x)


def rotary_angles(head_dim: int, positions: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines of every position's angle for every pair, each (positions, head_dim / 2) float32.

    Pair i turns by theta^(-2i / head_dim) radians per position. Su et al. 2021, arXiv:2104.09864.
    """
    frequencies = 1.0 / theta ** (torch.arange(0, head_dim, 2).float() / head_dim)
    angles = torch.outer(torch.arange(positions).float(), frequencies)
    return angles.cos(), angles.sin()


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (2i, 2i + 1) of each head by their position's angle.

    x (B, T, heads, Dh), cos and sin (T, Dh / 2) → (B, T, heads, Dh). Pairs are interleaved, as in MiniMind before
    2025-04-26. On a CPU a pair is one complex number, which is turned by one product (a fifth of the time); compilers
    for GPUs want the same in real numbers.
    """
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))  # (B, T, heads, Dh) → (B, T, heads, Dh/2)
        return torch.view_as_real(pairs * torch.complex(cos, sin)[:, None]).flatten(-2).type_as(x)
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)  # (B, T, heads, Dh) → two of (B, T, heads, Dh/2)
    cos, sin = cos[:, None, :], sin[:, None, :]
    turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    return turned.flatten(-2).type_as(x)


class LayerCache:
    """Keys and values of one layer, for the tokens seen so far: a window of `length` into a growing buffer.

    `extended` writes behind the window when nobody has yet, and copies when somebody has: an older cache stays valid,
    so a continuation can branch from it.
    """

    def __init__(self, keys: Tensor, values: Tensor, length: int, filled: list[int]) -> None:
        self.keys, self.values, self.length, self.filled = keys, values, length, filled

    @classmethod
    def of(cls, keys: Tensor, values: Tensor) -> LayerCache:
        """A cache of keys and values (B, K, T, Dh)."""
        return cls(keys, values, keys.shape[2], [keys.shape[2]])

    def window(self) -> tuple[Tensor, Tensor]:
        """Keys and values, each (B, K, length, Dh)."""
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def extended(self, keys: Tensor, values: Tensor) -> LayerCache:
        """This cache with (B, K, T, Dh) more keys and values behind it."""
        end = self.length + keys.shape[2]
        if torch.is_grad_enabled() and (keys.requires_grad or self.keys.requires_grad):
            old_keys, old_values = self.window()  # writing in place would spoil what backward needs
            return LayerCache.of(torch.cat((old_keys, keys), 2), torch.cat((old_values, values), 2))
        free = self.filled[0] == self.length and end <= self.keys.shape[2]
        frozen = self.keys.is_inference() and not torch.is_inference_mode_enabled()
        buffers, filled = (self.keys, self.values), self.filled
        if not free or frozen or self.keys.requires_grad:
            buffers, filled = tuple(self._roomy(buffer, end) for buffer in self.window()), [end]
        for buffer, new in zip(buffers, (keys, values), strict=True):
            buffer[:, :, self.length : end] = new
        filled[0] = end
        return LayerCache(*buffers, end, filled)

    @staticmethod
    def _roomy(window: Tensor, end: int) -> Tensor:
        """A copy of a window with room for more: buffers double, so n tokens cost n copies altogether."""
        batch, heads, length, width = window.shape
        buffer = window.new_empty(batch, heads, max(2 * length, end, 64), width)
        buffer[:, :, :length] = window
        return buffer


class Attention(nn.Module):
    """Causal attention with H query heads that share K key/value heads (grouped-query), rotary positions, no bias.

    (B, T, D) → (B, T, D) and the layer's cache. Ainslie et al. 2023, arXiv:2305.13245.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads, self.head_dim = config.n_heads, config.n_kv_heads, config.head_dim
        self.wq = nn.Linear(config.dim, self.n_heads * self.head_dim, bias=False)
        self.wk = nn.Linear(config.dim, self.n_kv_heads * self.head_dim, bias=False)
        self.wv = nn.Linear(config.dim, self.n_kv_heads * self.head_dim, bias=False)
        self.wo = nn.Linear(self.n_heads * self.head_dim, config.dim, bias=False)
        self.dropout = config.dropout

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, past: LayerCache | None = None, use_cache: bool = False
    ) -> tuple[Tensor, LayerCache | None]:
        queries = self.wq(x).unflatten(-1, (self.n_heads, self.head_dim))  # (B, T, D) → (B, T, H, Dh)
        keys = self.wk(x).unflatten(-1, (self.n_kv_heads, self.head_dim))  # → (B, T, K, Dh)
        values = self.wv(x).unflatten(-1, (self.n_kv_heads, self.head_dim))
        queries = apply_rotary(queries, cos, sin).transpose(1, 2)  # → (B, H, T, Dh)
        keys = apply_rotary(keys, cos, sin).transpose(1, 2)  # → (B, K, T, Dh)
        values = values.transpose(1, 2)
        cache = None
        if past is not None:
            cache = past.extended(keys, values)
            keys, values = cache.window()  # → (B, K, S, Dh)
        elif use_cache:
            cache = LayerCache.of(keys, values)
        mixed = causal_attention(queries, keys, values, self.dropout if self.training else 0.0)
        mixed = mixed.transpose(1, 2).flatten(2)  # (B, H, T, Dh) → (B, T, D)
        return F.dropout(self.wo(mixed), self.dropout, self.training), cache if use_cache else None


def causal_attention(queries: Tensor, keys: Tensor, values: Tensor, dropout: float = 0.0) -> Tensor:
    """softmax(q·k / √Dh)·v, where query t of T sees keys up to S - T + t; (B, H, T, Dh) → (B, H, T, Dh).

    The mask is aligned to the bottom right: with a cache, S > T, each new token sees all old ones. H is a multiple of
    the keys' K heads; each of these serves H / K neighbouring query heads.
    """
    tokens, span = queries.shape[2], keys.shape[2]
    grouped = queries.shape[1] != keys.shape[1]
    if blockwise.gains(queries, keys, dropout):
        return blockwise.BlockwiseAttention.apply(queries, keys, values)
    if tokens == 1 and grouped:  # query heads that share keys become rows of one product
        rows = queries.reshape(len(queries), keys.shape[1], -1, queries.shape[-1])  # (B, H, 1, Dh) → (B, K, H/K, Dh)
        return F.scaled_dot_product_attention(rows, keys, values, dropout_p=dropout).reshape(queries.shape)
    if tokens == span or tokens == 1:
        return F.scaled_dot_product_attention(
            queries, keys, values, dropout_p=dropout, is_causal=tokens > 1, enable_gqa=grouped
        )
    mask = torch.ones(tokens, span, dtype=torch.bool, device=queries.device).tril(span - tokens)
    return F.scaled_dot_product_attention(queries, keys, values, mask, dropout_p=dropout, enable_gqa=grouped)


class FeedForward(nn.Module):
    """SwiGLU: w2(silu(w1 x) · w3 x), from D to `ffn_dim` and back; (…, D) → (…, D). Shazeer 2020, arXiv:2002.05202."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.w1 = nn.Linear(config.dim, config.ffn_dim, bias=False)
        self.w2 = nn.Linear(config.ffn_dim, config.dim, bias=False)
        self.w3 = nn.Linear(config.dim, config.ffn_dim, bias=False)
        self.dropout = config.dropout

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.w2(F.silu(self.w1(x)) * self.w3(x)), self.dropout, self.training)
