"""How sure a model was of each token that it wrote, as colours over the text, and what else it thought of (lesson 07).

Text and tokens are untrusted and escaped. Left out: writing (writer.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import torch
from tokenizers import Tokenizer

from ..generation import encode_prompt
from ..model import MiniMindLM
from ..plots.corpus import table
from ..plots.style import CARD, INK
from ..tokenizer import pieces
from .writer import Progress

ALTERNATIVES = 5
# From this probability on, a background under dark text, its name. The rarest are underlined as well.
CLASSES = (
    (0.5, "#CFE0F5", "50% or more"), (0.1, "#CFEBDF", "10% to 50%"),
    (0.01, "#F6EBC4", "1% to 10%"), (0.0, "#FBE0CF;text-decoration:underline dotted", "under 1%"),
)  # fmt: skip
RAREST = CLASSES[-1][1]  # also of what a model that went wrong gives no number at all


@dataclass(frozen=True)
class Judged:
    """A token that was written: its piece, the model's probability for it, and the likeliest tokens in its place."""

    piece: str
    probability: float
    others: tuple[tuple[str, float], ...]


def judged(model: MiniMindLM, tokenizer: Tokenizer, progress: Progress) -> list[Judged]:
    """What the model, before any setting, thought of each token of a continuation; one forward over the whole text."""
    if not progress.ids:
        return []
    prompt = encode_prompt(tokenizer, progress.prompt)
    ids = torch.cat([prompt, torch.tensor([progress.ids])], dim=1).to(next(model.parameters()).device)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            rows = model(ids[:, :-1]).logits[0, prompt.shape[1] - 1 :].float().softmax(dim=-1).cpu()
    finally:
        model.train(was_training)
    best, places = rows.topk(min(ALTERNATIVES, rows.shape[-1]), dim=-1)
    written = pieces(tokenizer, list(progress.ids))
    return [
        Judged(
            written[n],
            float(rows[n, token]),
            tuple(zip(pieces(tokenizer, places[n].tolist()), best[n].tolist(), strict=True)),
        )
        for n, token in enumerate(progress.ids)
    ]


def coloured_html(tokens: Sequence[Judged], chosen: int | None = None) -> str:
    """Tokens on the colour of their probability; pointing at one shows the others. `chosen` (from 0) has a frame."""
    parts = []
    for number, token in enumerate(tokens):
        colour = next((colour for least, colour, _ in CLASSES if token.probability >= least), RAREST)
        frame = f"outline:2px solid {INK};" if number == chosen else ""
        hint = f"{token.probability:.1%}; likeliest: " + ", ".join(
            f"{visible(p)} {share:.1%}" for p, share in token.others
        )
        parts.append(
            f'<span title="{escape(hint)}" style="{frame}color:{INK};background-color:{colour};'
            f'border-radius:2px;padding:0 1px">{escape(token.piece)}</span>'
        )
    return "".join(parts)


def legend_html() -> str:
    """What the colours stand for: the probabilities of `judged`, which knows no setting."""
    chips = " ".join(
        f'<span style="background-color:{colour};color:{INK};padding:1px 6px">{name}</span>'
        for _, colour, name in CLASSES
    )
    style = f"background-color:{CARD};color:#555555;font-size:12px;padding:4px 8px"
    what = "probability of each token, the model's own before temperature, top-k, top-p and penalty"
    return f'<div style="{style}">{what}: {chips}</div>'


def alternatives_html(token: Judged, number: int) -> str:
    """A table of the likeliest tokens at one place, and which of them was written."""
    rows = [
        (visible(piece), f"{share:.1%}", "written" if piece == token.piece else "") for piece, share in token.others
    ]
    if all(piece != token.piece for piece, _ in token.others):
        rows.append((visible(token.piece), f"{token.probability:.1%}", "written"))
    return table(("token", "probability", ""), rows, f"Token {number + 1}: {visible(token.piece)}").data


def visible(piece: str) -> str:
    """A piece with signs for blanks and line breaks."""
    return piece.replace(" ", "␣").replace("\n", "⏎")
