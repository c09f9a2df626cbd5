"""MiniMindLM: token ids in, a score for every possible next token out. Blocks stacked, weights tied, nothing else.

Names of parameters are MiniMind's, so weights go both ways. Taught in notebook 03. Left out: the loss (training.py) and
choosing tokens from scores (generation.py).
"""

# B batch · T tokens · D model width · V vocabulary

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import ModelConfig
from .errors import InputError
from .layers import Attention, FeedForward, LayerCache, RMSNorm, rotary_angles
from .moe import MoEFeedForward


@dataclass
class ModelOutput:
    """A forward's result: `logits` (B, T, V); `aux_loss`, a scalar tensor; `past_key_values` to hand back next time."""

    logits: Tensor
    aux_loss: Tensor
    past_key_values: tuple[LayerCache, ...] | None = None


class MiniMindBlock(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x)): pre-norm residual; (B, T, D) → (B, T, D)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.ffn_norm = RMSNorm(config.dim, config.norm_eps)
        self.feed_forward = MoEFeedForward(config) if config.use_moe else FeedForward(config)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, past: LayerCache | None = None, use_cache: bool = False
    ) -> tuple[Tensor, Tensor | None, LayerCache | None]:
        """Returns the new stream, the block's balancing loss (None without experts) and its cache."""
        mixed, cache = self.attention(self.attention_norm(x), cos, sin, past, use_cache)
        x = x + mixed
        found = self.feed_forward(self.ffn_norm(x))
        found, aux_loss = found if isinstance(found, tuple) else (found, None)
        return x + found, aux_loss, cache


class MiniMindLM(nn.Module):
    """A Llama-style decoder: embedding, blocks, norm, and an output layer that shares the embedding's matrix.

    `model(input_ids)` with int64 ids (B, T) gives logits (B, T, V). Initial values are torch's defaults for Linear;
    the tied matrix is the output layer's, so that the first loss is near ln V.
    """

    def __init__(self, config: ModelConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or ModelConfig()
        self.may_have_no_rows = False  # one of several processes may find no row left for it
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.dim)
        self.layers = nn.ModuleList(MiniMindBlock(config) for _ in range(config.n_layers))
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.output = nn.Linear(config.dim, config.vocab_size, bias=False)
        self.tok_embeddings.weight = self.output.weight
        cos, sin = rotary_angles(config.head_dim, config.max_seq_len, config.rope_theta)
        self.register_buffer("rotary_cos", cos, persistent=False)
        self.register_buffer("rotary_sin", sin, persistent=False)

    def forward(
        self,
        input_ids: Tensor,
        past_key_values: tuple[LayerCache, ...] | None = None,
        use_cache: bool = False,
    ) -> ModelOutput:
        """Scores for the token after each of `input_ids` (B, T).

        With `past_key_values` from an earlier call the ids go on where those ended; a cached forward equals one over
        the whole text, however it is cut. Raises InputError for ids that are no int64/int32 matrix, a cache of another
        batch or model, or (on CPU, where looking costs nothing) ids outside the vocabulary.
        """
        self._check(input_ids, past_key_values)
        start = past_key_values[0].length if past_key_values else 0
        cos, sin = self._rotary(start, start + input_ids.shape[1])
        x = F.dropout(self.tok_embeddings(input_ids), self.config.dropout, self.training)
        aux_losses, caches = [], []
        for number, layer in enumerate(self.layers):
            past = past_key_values[number] if past_key_values else None
            x, aux_loss, cache = layer(x, cos, sin, past, use_cache)
            caches.append(cache)
            if aux_loss is not None:
                aux_losses.append(aux_loss)
        logits = self.output(self.norm(x))
        total = torch.stack(aux_losses).sum() if aux_losses else x.new_zeros((), dtype=torch.float32)
        return ModelOutput(logits, total, tuple(caches) if use_cache else None)

    def _rotary(self, start: int, end: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines for positions [start, end); the table grows when a text passes max_seq_len."""
        if end > len(self.rotary_cos):
            with torch.inference_mode(False):  # a table made in inference mode could not be used in training later
                longer = rotary_angles(self.config.head_dim, 2 * end, self.config.rope_theta)
                self.rotary_cos, self.rotary_sin = (table.to(self.rotary_cos.device) for table in longer)
        return self.rotary_cos[start:end], self.rotary_sin[start:end]

    def _check(self, input_ids: Tensor, past: tuple[LayerCache, ...] | None) -> None:
        if not isinstance(input_ids, Tensor):
            raise InputError(f"input_ids is a {type(input_ids).__name__}; a tensor of ids (batch, length) is needed.")
        no_rows = input_ids.dim() == 2 and not input_ids.shape[0]
        if input_ids.dim() != 2 or not input_ids.shape[1] or (no_rows and not self.may_have_no_rows):
            raise InputError(
                f"input_ids has shape {tuple(input_ids.shape)}; (batch, length) is needed, each 1 or more"
                f"{': add the batch with ids[None]' if input_ids.dim() == 1 else ''}."
            )
        if input_ids.dtype not in (torch.int64, torch.int32):
            raise InputError(f"input_ids has dtype {input_ids.dtype}; ids are torch.int64.")
        if past is not None and (len(past) != len(self.layers) or past[0].keys.shape[0] != input_ids.shape[0]):
            raise InputError(
                f"past_key_values is of {len(past)} layers and batch {past[0].keys.shape[0] if len(past) else 0}; "
                f"this call has {len(self.layers)} layers and batch {input_ids.shape[0]}."
            )
        if input_ids.device.type == "cpu" and not no_rows and not torch.compiler.is_compiling():
            check_ids(input_ids, self.config.vocab_size)


def check_ids(input_ids: Tensor, vocab_size: int) -> None:
    """Raise InputError when an id lies outside the vocabulary. On a GPU this waits for the device."""
    low, high = (int(v) for v in input_ids.aminmax())
    if low < 0 or high >= vocab_size:
        wrong = low if low < 0 else high
        raise InputError(
            f"token id {wrong} is outside the vocabulary of {vocab_size} (0 to {vocab_size - 1}): the text was "
            "encoded with a tokenizer that does not belong to this model."
        )


def weight_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a model's state_dict, reckoned without making it; the tied matrix has both of its names."""
    dim, kv, width = config.dim, config.n_kv_heads * config.head_dim, config.ffn_dim
    feed_forward = {"w1.weight": (width, dim), "w2.weight": (dim, width), "w3.weight": (width, dim)}
    parts = [""]
    if config.use_moe:
        parts = [f"experts.{n}." for n in range(config.n_routed_experts)] + [
            "shared_experts."
        ] * config.n_shared_experts
    shapes = {"tok_embeddings.weight": (config.vocab_size, dim), "output.weight": (config.vocab_size, dim)}
    for layer in range(config.n_layers):
        block = {
            "attention.wq.weight": (dim, dim),
            "attention.wk.weight": (kv, dim),
            "attention.wv.weight": (kv, dim),
            "attention.wo.weight": (dim, dim),
            "attention_norm.weight": (dim,),
            "ffn_norm.weight": (dim,),
            **{f"feed_forward.{part}{name}": shape for part in parts for name, shape in feed_forward.items()},
        }
        if config.use_moe:
            block["feed_forward.gate.weight"] = (config.n_routed_experts, dim)
        shapes |= {f"layers.{layer}.{name}": shape for name, shape in block.items()}
    return shapes | {"norm.weight": (dim,)}


def parameter_count(model: nn.Module) -> int:
    """Number of parameters, the tied matrix counted once."""
    return sum(p.numel() for p in model.parameters())


def active_parameter_count(model: MiniMindLM) -> int:
    """Parameters at work for one token: all of a dense model; of the routed experts only the k that are chosen."""
    total, config = parameter_count(model), model.config
    if not config.use_moe:
        return total
    expert = parameter_count(model.layers[0].feed_forward.experts[0])
    return total - config.n_layers * (config.n_routed_experts - config.num_experts_per_tok) * expert
