"""What kind of token a piece of text is: one notion for the experts of lesson 03 and for the losses of lesson 07.

A kind is read off what a token shows (`pieces`). Each lesson groups the blanks in its own way, with the markers or with
punctuation. Left out: what experts and losses do with the kinds (widgets/model.py, plots/loss_parts.py).
"""

from __future__ import annotations

from ..tokenizer import SPECIAL_TOKENS

WORD, CHARACTER, PART = "two or more characters", "one character", "part of a character"
OTHER, PUNCTUATION, MARKER, BLANK = "digits and letters", "punctuation", "marker", "blank"


def token_kind(piece: str) -> str:
    """One of the seven kinds above. Bytes that are no whole characters are a PART; mixtures with letters are OTHER."""
    text = piece.strip()
    if piece in SPECIAL_TOKENS or piece.startswith("⟨id "):  # an id that the tokenizer does not have
        return MARKER
    if not text:
        return BLANK
    if text.startswith("⟨") and len(text) > 1:
        return PART
    if all("\u4e00" <= character <= "\u9fff" for character in text):
        return CHARACTER if len(text) == 1 else WORD
    return OTHER if any(character.isalnum() for character in text) else PUNCTUATION
