"""The second widget of lesson 07: next-token probabilities as bars that move with the settings.

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

from ..errors import CourseError
from ..generation import encode_prompt, next_token_logits
from ..model import MiniMindLM
from ..plots.sampling import bars_html
from ..plots.style import CARD, RED
from ..tokenizer import pieces

BARS = 14


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
    """Of some prompts, one whose next token is open: near 4 bits, and likely ones are in the prompt already."""

    def how_dull(prompt: str) -> float:
        logits, seen = next_logits(model, tokenizer, prompt)
        repeats = int(seen[logits.topk(min(BARS, len(logits))).indices].sum())
        return abs(bits(logits.softmax(dim=-1)) - 4) - min(repeats, 2)

    return min(prompts, key=how_dull)


def sampling_html(tokenizer: Tokenizer, logits: Tensor, seen: Tensor, **settings: Any) -> str:
    """The likeliest tokens before and after the settings as bars, and how many tokens may still be drawn."""
    before, after = logits.softmax(dim=-1), distribution(logits, seen, **settings)
    shown = before.topk(min(BARS, len(before))).indices
    kept = int((after > 0).sum())
    summary = f"{kept} of {len(after)} tokens can be drawn · entropy {bits(before):.2f} → {bits(after):.2f} bits"
    return bars_html(pieces(tokenizer, shown.tolist()), before[shown].tolist(), after[shown].tolist(), summary)


def sampling_widget(model: MiniMindLM, tokenizer: Tokenizer, prompt: str) -> widgets.VBox:
    """A prompt and four sliders over the bars of its next token."""
    text = widgets.Text(
        value=prompt,
        description="Prompt",
        continuous_update=False,
        layout=widgets.Layout(width="100%", max_width="760px"),
        style={"description_width": "60px"},
    )
    shape = {"style": {"description_width": "130px"}, "layout": widgets.Layout(width="370px")}
    sliders = {
        "temperature": widgets.FloatSlider(1.0, min=0, max=3, step=0.05, description="temperature", **shape),
        "top_k": widgets.IntSlider(0, 0, 50, description="top-k (0: off)", **shape),
        "top_p": widgets.FloatSlider(1.0, min=0.05, max=1, step=0.05, description="top-p (1: off)", **shape),
        "repetition_penalty": widgets.FloatSlider(
            1.0, min=1, max=3, step=0.05, description="repetition penalty", **shape
        ),
    }
    page = widgets.HTML()
    scores: list[Tensor] = []

    def guarded(work) -> None:
        try:
            work()
        except Exception as problem:  # shown in the widget: an error in a callback would be lost
            words = str(problem) if isinstance(problem, CourseError) else f"{type(problem).__name__}: {problem}"
            page.value = f'<div style="background-color:{CARD};color:{RED};padding:8px">{escape(words)}</div>'

    def draw() -> None:
        page.value = sampling_html(tokenizer, *scores, **{name: slider.value for name, slider in sliders.items()})

    def read() -> None:
        scores[:] = next_logits(model, tokenizer, text.value)
        draw()

    for slider in sliders.values():
        slider.observe(lambda _: guarded(draw), "value")
    text.observe(lambda _: guarded(read), "value")
    guarded(read)
    return widgets.VBox(
        [
            text,
            widgets.HBox(list(sliders.values()), layout=widgets.Layout(flex_flow="row wrap", max_width="780px")),
            page,
        ]
    )
