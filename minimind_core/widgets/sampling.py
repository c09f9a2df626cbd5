"""Two widgets of lesson 07: next-token probabilities as bars that move with the settings, and with the model's age.

Bars are HTML, so nothing is drawn in a callback. Left out: the text that such draws make (widgets/continuation.py).
"""

# V vocabulary

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import ipywidgets as widgets
import torch
from tokenizers import Tokenizer
from torch import Tensor

from ..generation import continue_text, encode_prompt, next_token_logits
from ..model import MiniMindLM
from ..plots.loss_parts import Age
from ..plots.sampling import bars_html
from ..plots.style import CARD, INK
from ..tokenizer import pieces
from .parts import Panel, fill, looks, prompt_field, row

BARS = 14
DOMINANT = 0.35  # a likeliest token with as much leaves little for the others


def next_logits(model: MiniMindLM, tokenizer: Tokenizer, prompt: str) -> tuple[Tensor, Tensor]:
    """Scores for the token after a prompt, (V,) float32 on the CPU, and which tokens the prompt holds, (V,) bool."""
    ids = encode_prompt(tokenizer, prompt)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            logits = model(ids.to(next(model.parameters()).device)).logits[0, -1].float().cpu()
    finally:
        model.train(was_training)
    return logits, torch.zeros(len(logits), dtype=torch.bool).scatter(0, ids[0], True)


def distribution(logits: Tensor, seen: Tensor, **settings: Any) -> Tensor:
    """Probabilities that a token is drawn with, after all settings; logits and seen (V,) → (V,)."""
    return next_token_logits(logits[None], seen[None], **settings)[0].softmax(dim=-1)


def bits(probabilities: Tensor) -> float:
    """Entropy of a distribution in bits: the number of yes-or-no questions that one draw answers."""
    return float(torch.special.entr(probabilities.double()).sum() / torch.tensor(2.0).log())


def undecided_prompt(model: MiniMindLM, tokenizer: Tokenizer, prompts: Sequence[str]) -> str:
    """Of some prompts, one whose next token is open: near 4 bits, and likely ones are in the prompt already.

    One strong token and a long tail have 4 bits as well, so a prompt whose likeliest token reaches DOMINANT is taken
    only where there is no other.
    """

    def how_dull(prompt: str) -> tuple[bool, float]:
        logits, seen = next_logits(model, tokenizer, prompt)
        probabilities = logits.softmax(dim=-1)
        repeats = int(seen[logits.topk(min(BARS, len(logits))).indices].sum())
        return float(probabilities.max()) >= DOMINANT, abs(bits(probabilities) - 4) - min(repeats, 2)

    return min(prompts, key=how_dull)


def sampling_html(tokenizer: Tokenizer, logits: Tensor, seen: Tensor, **settings: Any) -> str:
    """The likeliest tokens before and after the settings as bars, and how many tokens may still be drawn."""
    before, after = logits.softmax(dim=-1), distribution(logits, seen, **settings)
    shown = before.topk(min(BARS, len(before))).indices
    kept = int((after > 0).sum())
    summary = f"{kept} of {len(after)} tokens can be drawn · entropy {bits(before):.2f} → {bits(after):.2f} bits"
    return bars_html(pieces(tokenizer, shown.tolist()), before[shown].tolist(), after[shown].tolist(), summary)


def sampling_widget(model: MiniMindLM, tokenizer: Tokenizer, prompt: str) -> Panel:
    """A prompt and four sliders over the bars of its next token."""
    text = prompt_field(prompt)
    sliders = {
        "temperature": widgets.FloatSlider(1.0, min=0, max=3, step=0.05, description="temperature", **looks("130px")),
        "top_k": widgets.IntSlider(0, 0, 50, description="top-k (0: off)", **looks("130px")),
        "top_p": widgets.FloatSlider(1.0, min=0.05, max=1, step=0.05, description="top-p (1: off)", **looks("130px")),
        "repetition_penalty": widgets.FloatSlider(
            1.0, min=1, max=3, step=0.05, description="repetition penalty", **looks("130px")
        ),
    }
    page = widgets.HTML()
    scores: list[Tensor] = []

    def bars() -> str:
        return sampling_html(tokenizer, *scores, **{name: slider.value for name, slider in sliders.items()})

    def read() -> str:
        scores[:] = next_logits(model, tokenizer, text.value)
        return bars()

    for slider in sliders.values():
        slider.observe(lambda _: fill(page, bars), "value")
    text.observe(lambda _: fill(page, read), "value")
    fill(page, read)
    return Panel([text, row(*sliders.values()), page])


def age_html(tokenizer: Tokenizer, prompt: str, age: Age, newest: Age, new_tokens: int = 24) -> str:
    """What a model of that age says to a prompt (greedy), over its likeliest next tokens beside the newest model's."""
    now, then = (next_logits(each.model, tokenizer, prompt)[0].softmax(dim=-1) for each in (newest, age))
    half = BARS // 2
    shown = list(dict.fromkeys([*then.topk(half).indices.tolist(), *now.topk(half).indices.tolist()]))
    said = continue_text(age.model, tokenizer, prompt, temperature=0, max_new_tokens=new_tokens)
    style = f"background-color:{CARD};color:{INK};padding:8px;max-width:760px;font-size:15px;overflow-wrap:anywhere"
    mark = f"background-color:#D6E8F5;color:{INK};padding:1px 2px"
    text = f'<div style="{style}"><span style="{mark}">{escape(prompt)}</span>{escape(said)}</div>'
    return text + bars_html(
        pieces(tokenizer, shown),
        now[shown].tolist(),
        then[shown].tolist(),
        f"after {age.updates:,} updates{', the best of its run' if age.best else ''} · entropy {bits(then):.2f} bits",
        1.0,
        f"grey: after {newest.updates:,} updates, blue: after {age.updates:,}",
    )


def ages_widget(ages: Sequence[Age], tokenizer: Tokenizer, prompt: str) -> Panel:
    """A prompt and a slider over the ages of a model: its text and its next-token bars as it grows up."""
    text = prompt_field(prompt)
    slider = widgets.SelectionSlider(
        options=[(f"{age.updates:,}{' (best)' if age.best else ''}", number) for number, age in enumerate(ages)],
        value=len(ages) - 1,
        description="updates",
        continuous_update=False,
        **looks("60px", "500px"),
    )
    page, kept = widgets.HTML(), {}

    def show() -> str:
        key = (text.value, slider.value)
        if key not in kept:
            kept[key] = age_html(tokenizer, text.value, ages[slider.value], ages[-1])
        return kept[key]

    for part in (text, slider):
        part.observe(lambda _: fill(page, show), "value")
    fill(page, show)
    return Panel([text, slider, page])
