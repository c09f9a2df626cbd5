"""Causal attention for training on a CPU: queries go block by block, and a block meets only the keys that it may see.

torch's own CPU kernel took 1.5 times as long for a forward and backward of 2 rows of 511 tokens (benchmarks/). Used by
layers.causal_attention where it gains; on a GPU torch's kernels win. Left out: dropout and caches.
"""

# B batch · T tokens · H query heads · K key/value heads · G = H / K query heads per key/value head · Dh per head

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCKS = (32, 64, 128)  # queries in a block
IN_CACHE = 2**19  # scores of a block, 2 MB, that should still be in the processor's cache when they are needed again
LONGEST = 1024  # tokens; beyond it the kept scores, T²/2 per head, would cost too much memory


def block_size(heads: int, tokens: int) -> int:
    """Queries in a block, for so many heads of all rows together: as many as the cache takes the scores of."""
    return max([size for size in BLOCKS if heads * size * tokens <= IN_CACHE], default=BLOCKS[0])


class BlockwiseAttention(torch.autograd.Function):
    """softmax(q·k / √Dh)·v under a causal mask; queries (B, H, T, Dh), keys and values (B, K, T, Dh) → (B, H, T, Dh).

    Each key/value head serves G neighbouring query heads, whose rows are stacked so that one product serves them all.
    Softmax weights are kept for backward, half of T² per head.
    """

    @staticmethod
    def forward(ctx, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        batch, heads, tokens, width = queries.shape
        pairs, group = batch * keys.shape[1], heads // keys.shape[1]
        queries = (queries * width**-0.5).reshape(pairs, group, tokens, width)  # (B, H, T, Dh) → (B·K, G, T, Dh)
        keys, values = keys.reshape(pairs, tokens, width), values.reshape(pairs, tokens, width)
        mixed, kept = torch.empty_like(queries), []
        block = block_size(batch * heads, tokens)
        future = torch.full((block, block), -torch.inf, dtype=queries.dtype).triu_(1)
        for start in range(0, tokens, block):
            end = min(start + block, tokens)
            rows = queries[:, :, start:end].reshape(pairs, -1, width)  # G·(end - start) queries
            scores = torch.bmm(rows, keys[:, :end].mT).view(pairs, group, end - start, end)
            scores[..., start:end] += future[: end - start, : end - start]
            weights = scores.softmax(dim=-1).view(pairs, -1, end)
            mixed[:, :, start:end] = torch.bmm(weights, values[:, :end]).view(pairs, group, -1, width)
            kept.append(weights)
        ctx.save_for_backward(queries, keys, values, mixed, *kept)
        return mixed.view(batch, heads, tokens, width)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """With weights P and what came in, dO: dV = Pᵀ·dO, dS = P ∘ (dO·Vᵀ - rowsum(dO ∘ O)), dQ = dS·K, dK = dSᵀ·Q."""
        queries, keys, values, mixed, *kept = ctx.saved_tensors
        (pairs, group, tokens, width), shape = queries.shape, grad.shape
        grad = grad.reshape(queries.shape)
        block = block_size(shape[0] * shape[1], tokens)
        row_sums = (grad * mixed).sum(dim=-1, keepdim=True)
        d_queries, d_keys, d_values = torch.empty_like(queries), torch.zeros_like(keys), torch.zeros_like(values)
        for start, weights in zip(range(0, tokens, block), kept, strict=True):
            end = min(start + block, tokens)
            rows, arrived, sums = (
                t[:, :, start:end].reshape(pairs, -1, t.shape[-1]) for t in (queries, grad, row_sums)
            )
            d_values[:, :end] += torch.bmm(weights.mT, arrived)
            d_scores = torch.bmm(arrived, values[:, :end].mT).sub_(sums).mul_(weights)
            d_queries[:, :, start:end] = torch.bmm(d_scores, keys[:, :end]).view(pairs, group, -1, width)
            d_keys[:, :end] += torch.bmm(d_scores.mT, rows)
        kv_shape = (shape[0], pairs // shape[0], tokens, width)
        return d_queries.mul_(width**-0.5).view(shape), d_keys.view(kv_shape), d_values.view(kv_shape)


def gains(queries: Tensor, keys: Tensor, dropout: float) -> bool:
    """Whether this way is the quicker one: training in float32 on a CPU, rows of ordinary length, nothing cached."""
    return (
        queries.device.type == "cpu"
        and queries.dtype == torch.float32
        and queries.requires_grad
        and not dropout
        and BLOCKS[0] <= queries.shape[2] == keys.shape[2] <= LONGEST
        and queries.shape[0] > 0
        and not torch.compiler.is_compiling()
    )
