"""Choosing tokens from scores, one after another: `generate` for ids, `stream` for text as it comes.

Order of what is done to the scores: repetition penalty, temperature, top-k, top-p. Taught in notebook 07. Left out:
beam search and chat, which a pretrained model does not need.
"""

# B batch · T tokens · V vocabulary

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from tokenizers import Tokenizer
from torch import Tensor

from .decoding import Decoder
from .errors import ConfigError, InputError
from .model import MiniMindLM, check_ids
from .tokenizer import BOS_ID, EOS_ID, PAD_ID, TextStream

FEW = 128  # tokens among which top-p looks first


def penalize(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Make tokens that were seen less likely: a positive logit is divided by `penalty`, a negative one multiplied.

    logits (B, V), seen (B, V) bool → (B, V). Keskar et al. 2019, arXiv:1909.05858.
    """
    weaker = torch.where(logits > 0, logits / penalty, logits * penalty)
    return torch.where(seen, weaker, logits)


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """All but the k largest logits of each row set to -inf (ties with the k-th stay); (B, V) → (B, V)."""
    if k >= logits.shape[-1]:
        return logits
    kth = logits.topk(k, dim=-1).values[:, -1:]
    return logits.masked_fill(logits < kth, -torch.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the most likely tokens whose probabilities reach `p` together, at least one; (B, V) → (B, V).

    Holtzman et al. 2020, arXiv:1904.09751.
    """
    if p >= 1:
        return logits
    best, order = logits.topk(min(FEW, logits.shape[-1]), dim=-1)
    probabilities = (best - logits.logsumexp(dim=-1, keepdim=True)).exp()
    before = probabilities.cumsum(dim=-1) - probabilities  # what the tokens ahead of each one sum to
    if not bool((before[:, -1] >= p).all()):  # not sure yet: seldom, so all are sorted only now
        best, order = logits.sort(dim=-1, descending=True)
        probabilities = best.softmax(dim=-1)
        before = probabilities.cumsum(dim=-1) - probabilities
    return torch.full_like(logits, -torch.inf).scatter(-1, order, best.masked_fill(before >= p, -torch.inf))


def next_token_logits(
    logits: Tensor,
    seen: Tensor | None,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int | None = None,
    repetition_penalty: float = 1.0,
) -> Tensor:
    """What sampling draws from, after all four settings; (B, V) float → (B, V), -inf where nothing may be drawn.

    `seen` (B, V) bool is needed for a penalty only. Temperature 0 leaves only the most likely token of each row.
    """
    logits = logits.float()
    if repetition_penalty != 1:
        logits = penalize(logits, seen, repetition_penalty)
    if temperature == 0:
        best = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, logits.argmax(-1, keepdim=True), True)
        return logits.masked_fill(~best, -torch.inf)
    logits = logits / max(temperature, 1e-6)  # below that float32 overflows, and it is greedy anyway
    if top_k:
        logits = keep_top_k(logits, top_k)
    return keep_top_p(logits, top_p)


def generate(
    model: MiniMindLM,
    input_ids: Tensor,
    max_new_tokens: int = 128,
    temperature: float = 0.75,
    top_p: float = 0.9,
    top_k: int | None = None,
    repetition_penalty: float = 1.0,
    eos_token_id: int | None = EOS_ID,
    seed: int | None = 42,
    stream: bool = False,
) -> Tensor | Iterator[int]:
    """Continue `input_ids` (B, T) by up to `max_new_tokens` tokens; returns int64 (B, T + new).

    Rows that end early are padded with 0. temperature 0 is greedy; `eos_token_id=None` never stops early; `seed=None`
    draws differently each time. With `stream=True` (batch 1): an iterator of ints, the closing eos included. Raises
    ConfigError for settings out of range, InputError for ids that the model does not know.
    """
    _check_settings(max_new_tokens, temperature, top_p, top_k, repetition_penalty, seed)
    if not isinstance(input_ids, Tensor) or input_ids.dim() != 2 or 0 in input_ids.shape:
        given = tuple(input_ids.shape) if isinstance(input_ids, Tensor) else type(input_ids).__name__
        raise InputError(f"input_ids is {given}; a tensor (batch, length) with at least one token is needed.")
    check_ids(input_ids, model.config.vocab_size)
    steps = _steps(model, input_ids, max_new_tokens, temperature, top_p, top_k, repetition_penalty, eos_token_id, seed)
    if stream:
        if len(input_ids) != 1:
            raise InputError(f"stream=True continues one text at a time; input_ids has a batch of {len(input_ids)}.")
        return (int(ids) for ids in steps)
    new = list(steps)
    device = next(model.parameters()).device
    return torch.cat([input_ids.to(device).long(), *(ids[:, None] for ids in new)], dim=1)


def _steps(
    model: MiniMindLM,
    ids: Tensor,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    top_k: int | None,
    repetition_penalty: float,
    eos_token_id: int | None,
    seed: int | None,
) -> Iterator[Tensor]:
    """Yield each step's tokens, (B,) int64. The model is in eval mode while it works, and put back after."""
    device = next(model.parameters()).device
    ids = ids.to(device).long()
    generator = torch.Generator(device)
    generator.manual_seed(seed) if seed is not None else generator.seed()
    seen = None
    if repetition_penalty != 1:
        seen = torch.zeros(len(ids), model.config.vocab_size, dtype=torch.bool, device=device).scatter(1, ids, True)
    ended = torch.zeros(len(ids), dtype=torch.bool, device=device)
    score = _scorer(model)
    was_training = model.training
    model.eval()
    try:
        for _ in range(max_new_tokens):
            with torch.no_grad():
                scores = next_token_logits(score(ids), seen, temperature, top_p, top_k, repetition_penalty)
                if temperature == 0:
                    chosen = scores.argmax(dim=-1)
                else:
                    chosen = torch.multinomial(scores.softmax(dim=-1), 1, generator=generator)[:, 0]
                chosen = chosen.masked_fill(ended, PAD_ID)
                if seen is not None:
                    seen.scatter_(1, chosen[:, None], True)
                if eos_token_id is not None:
                    ended |= chosen == eos_token_id
                ids = chosen[:, None]
            yield chosen
            if eos_token_id is not None and bool(ended.all()):
                return
    finally:
        model.train(was_training)


def _scorer(model: MiniMindLM) -> Callable[[Tensor], Tensor]:
    """A function that is given a prompt (B, T), then each new token (B, 1), and gives the next one's scores (B, V)."""
    state: dict = {}

    def score(ids: Tensor) -> Tensor:
        if "decoder" in state:
            return state["decoder"].step(ids[:, 0])
        output = model(ids, past_key_values=state.get("cache"), use_cache=True)
        if isinstance(model, MiniMindLM) and ids.device.type in ("cpu", "cuda"):  # elsewhere are no complex numbers
            state["decoder"] = Decoder(model, output.past_key_values)
        state["cache"] = output.past_key_values
        return output.logits[:, -1]

    return score


def _check_settings(max_new_tokens, temperature, top_p, top_k, repetition_penalty, seed) -> None:
    if isinstance(max_new_tokens, bool) or not isinstance(max_new_tokens, int) or max_new_tokens < 0:
        raise ConfigError(f"max_new_tokens={max_new_tokens!r}: a whole number, 0 or more (the prompt is not counted).")
    for name, value, low_open, high in (
        ("temperature", temperature, False, 100),
        ("top_p", top_p, True, 1),
        ("repetition_penalty", repetition_penalty, True, 100),
    ):
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not (0 < value <= high or (value == 0 and not low_open)):
            raise ConfigError(f"{name}={value!r}: {'above 0' if low_open else '0 or more'} and at most {high}.")
    if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 0):
        raise ConfigError(f"top_k={top_k!r}: None or 0 for all tokens, else 1 or more.")
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63):
        raise ConfigError(
            f"seed={seed!r:.40}: None for another draw each time, else a whole number from 0 to 2**63 - 1."
        )


def encode_prompt(tokenizer: Tokenizer, prompt: str) -> Tensor:
    """A prompt as ids (1, T), with the `<s>` that every training row begins with."""
    if not isinstance(prompt, str) or any("\ud800" <= sign <= "\udfff" for sign in prompt):
        raise InputError(f"the prompt {prompt!r:.40} is no text that can be encoded as UTF-8: type it again.")
    ids = tokenizer.encode(prompt, add_special_tokens=False).ids
    return torch.tensor([ids if ids[:1] == [BOS_ID] else [BOS_ID, *ids]])


def stream(model: MiniMindLM, tokenizer: Tokenizer, prompt: str, **settings) -> Iterator[str]:
    """Continue a text: yields pieces of new text as they become certain, never half a character.

    `settings` are those of `generate`. Stops at `</s>`, which is not shown.
    """
    text = TextStream(tokenizer)
    for token in generate(model, encode_prompt(tokenizer, prompt), stream=True, **settings):
        piece = text.push(token)
        if piece:
            yield piece
    rest = text.flush()
    if rest:
        yield rest


def continue_text(model: MiniMindLM, tokenizer: Tokenizer, prompt: str, **settings) -> str:
    """The whole continuation of a prompt as one string, without the prompt."""
    return "".join(stream(model, tokenizer, prompt, **settings))
