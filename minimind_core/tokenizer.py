"""Byte-level BPE with the Hugging Face `tokenizers` library: train, load, save, and show pieces as a person reads them.

Ids 0, 1, 2 are `<unk>`, `<s>`, `</s>`; padding uses id 0. Any text can be encoded: what has no token of its own falls
apart into bytes, never into `<unk>`. Taught in notebook 02. Left out: which text a corpus's own is
trained on (corpus_tokenizer.py), and chat templates, which pretraining does not use.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from .errors import TokenizerError
from .paths import reading, shown, writing

UNK_ID, BOS_ID, EOS_ID, PAD_ID = 0, 1, 2, 0
SPECIAL_TOKENS = ["<unk>", "<s>", "</s>"]
FORMAT = 3  # changes when the way of training does, so that an older tokenizer is not taken for a new one
_MARKER = re.compile("|".join(map(re.escape, SPECIAL_TOKENS)))
LARGEST_FILE = 128 << 20  # bytes; a tokenizer of a million tokens is smaller


def train_tokenizer(texts: Iterable[str], vocab_size: int = 6400) -> Tokenizer:
    """Learn a byte-level BPE of at most `vocab_size` tokens from `texts` (fewer where the text has no more pairs).

    The result is the same for the same texts in the same order. Raises TokenizerError for a vocabulary smaller than
    the 256 bytes and 3 special tokens.
    """
    smallest = 256 + len(SPECIAL_TOKENS)
    if isinstance(vocab_size, bool) or not isinstance(vocab_size, int) or vocab_size < smallest:
        raise TokenizerError(f"vocab_size={vocab_size!r}: {smallest} or more, for 256 bytes and 3 special tokens.")
    if isinstance(texts, str):
        raise TokenizerError("train_tokenizer needs a list (or other iterable) of texts, not a single string.")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    # Encoding splits markers off first, so a merge across one could never be used: training does the same.
    tokenizer.train_from_iterator((part for text in texts for part in _MARKER.split(text) if part), trainer)
    return check_tokenizer(tokenizer, "the trained tokenizer")


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Read a tokenizer from its tokenizer.json, or from a folder that holds one.

    Raises TokenizerError when there is none, it is not a tokenizer, or not one that this course can use: see
    `check_tokenizer`.
    """
    path = Path(path)
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        kind = "is not there" if not file.exists() else "is no file"
        raise TokenizerError(f"{shown(file)} {kind}; a tokenizer is a tokenizer.json or a folder that holds one.")
    with reading(file, TokenizerError):
        if file.stat().st_size > LARGEST_FILE:
            size = f"{file.stat().st_size:,} bytes are more than {LARGEST_FILE >> 20} MiB"
            raise TokenizerError(f"{shown(file)} is not a tokenizers file: {size}. Is it a corpus or a weights file?")
        content = file.read_bytes()
    try:
        tokenizer = Tokenizer.from_buffer(content)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the library raises bare Exception, and a panic of its own, for bad files
        hint = "Give the tokenizer.json that lies beside a model, or leave --tokenizer out: one is trained then."
        reason = " ".join(str(error).split())[:120]
        raise TokenizerError(f"{shown(file)} is not a tokenizers file: {reason}. {hint}") from None
    return check_tokenizer(tokenizer, shown(file))


def check_tokenizer(tokenizer: Tokenizer, name: str) -> Tokenizer:
    """Return `tokenizer` ready for use, or say what is wrong with it. Truncation and padding are switched off.

    The project relies on more than a file that can be read: the three special ids, a byte-level BPE in which every text
    has ids and comes back from them, ids without holes, and markers that are found inside a text.
    """
    found = [(tokenizer.id_to_token(i) or "")[:30] or None for i in range(3)]
    if found != SPECIAL_TOKENS:
        later = tokenizer.token_to_id("<|im_start|>") is not None
        hint = (
            " It is MiniMind's later tokenizer; this course follows the first edition: use that, or train one."
            if later
            else ""
        )
        raise TokenizerError(f"{name}: ids 0, 1, 2 must be <unk>, <s>, </s>; they are {found}.{hint}")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    wrong = _what_is_wrong(tokenizer)
    if wrong:
        raise TokenizerError(
            f"{name}: {wrong}. This course needs a byte-level BPE, as MiniMind's is: give another tokenizer.json, or "
            "leave --tokenizer out and one is trained on the corpus."
        )
    return tokenizer


# Capitals, wide and joined letters, an accent of its own, blanks of all kinds: what a normaliser would change.
_PROBE = "Ａb１ﬁ e\u0301é\t\u3000天空是蓝色的。\n\n  1+1=2? 😀İ\r\nend "


def _what_is_wrong(tokenizer: Tokenizer) -> str | None:
    """Why a tokenizer with the right special tokens cannot be used, or None."""
    vocabulary = tokenizer.get_vocab()
    if not isinstance(tokenizer.model, models.BPE):
        return f"it is a {type(tokenizer.model).__name__} model"
    if tokenizer.model.dropout:
        return f"it chooses pieces at random (dropout {tokenizer.model.dropout:g}), so that a text has no certain ids"
    if sorted(vocabulary.values()) != list(range(len(vocabulary))):
        return f"its {len(vocabulary):,} ids do not run from 0 to {len(vocabulary) - 1:,}: some are missing or doubled"
    if missing := _BYTE_OF.keys() - vocabulary.keys():
        return f"{len(missing)} of the 256 bytes have no token, so some texts could not be written"
    for token, token_id in vocabulary.items():
        if token_id >= len(SPECIAL_TOKENS) and not (token and _BYTE_OF.keys() >= set(token)):
            return f"token {token_id}, {token[:30]!r}, is not written in the byte alphabet"
    try:
        parts = (_PROBE, " ", f" {_PROBE}", f"<s>{_PROBE}</s> <s> {_PROBE}</s>")
        ids, blank, later, marked = (tokenizer.encode(part, add_special_tokens=False).ids for part in parts)
        back = tokenizer.decode(ids)
    except Exception as error:  # whatever the library finds
        return f"it cannot encode a text ({' '.join(str(error).split())[:80]})"
    if b"".join(token_bytes(tokenizer, i) or b"" for i in ids) != _PROBE.encode() or back != _PROBE:
        return "a text does not come back unchanged from its ids (it has a normaliser, or splits in another way)"
    if marked != [BOS_ID, *ids, EOS_ID, *blank, BOS_ID, *later, EOS_ID]:
        return "it does not find the markers <s> and </s> in a text"
    return None


def save_tokenizer(tokenizer: Tokenizer, folder: str | Path) -> Path:
    """Write `folder`/tokenizer.json (whole or not at all) and return its path. Raises StorageError where it cannot."""
    folder = Path(folder)
    file, unfinished = folder / "tokenizer.json", folder / f".tokenizer.json.{os.getpid()}"
    with writing(file):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            unfinished.write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
            os.replace(unfinished, file)
        finally:
            unfinished.unlink(missing_ok=True)
    return file


def tokenizer_hash(tokenizer: Tokenizer) -> str:
    """A sha256 that two tokenizers share exactly when they give the same ids for every text."""
    return hashlib.sha256(tokenizer.to_str().encode("utf-8")).hexdigest()


def pieces(tokenizer: Tokenizer, ids: Iterable[int]) -> list[str]:
    """What each id stands for, as a person reads it; bytes that are part of a character show as `⟨e4⟩`."""
    shown_pieces = []
    for token_id in ids:
        raw = token_bytes(tokenizer, int(token_id))
        if raw is None:
            shown_pieces.append(tokenizer.id_to_token(int(token_id)) or f"⟨id {token_id}?⟩")
            continue
        try:
            shown_pieces.append(raw.decode("utf-8"))
        except UnicodeDecodeError:
            shown_pieces.append("".join(f"⟨{byte:02x}⟩" for byte in raw))
    return shown_pieces


def token_bytes(tokenizer: Tokenizer, token_id: int) -> bytes | None:
    """The UTF-8 bytes that a token stands for; None for the special tokens and for ids that don't exist."""
    token = tokenizer.id_to_token(token_id)
    if token is None or token_id < len(SPECIAL_TOKENS):
        return None
    return bytes(_BYTE_OF[character] for character in token)


def token_byte_lengths(tokenizer: Tokenizer, vocab_size: int | None = None) -> list[int]:
    """Bytes of text behind each id, 0 for special tokens; a list of `vocab_size` (default: the tokenizer's) numbers."""
    size = vocab_size or tokenizer.get_vocab_size()
    return [len(token_bytes(tokenizer, i) or b"") for i in range(size)]


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's byte-level alphabet: printable Latin-1 stands for itself, the other bytes for characters from 256 on."""
    own = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    table = {chr(byte): byte for byte in own}
    others = [byte for byte in range(256) if byte not in own]
    return table | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()


class TextStream:
    """Turns ids into text one at a time, without ever showing half a character.

    A rare Chinese character is two or three tokens; each alone decodes to �. `push(id)` returns the text that has
    become certain (often ""), `flush()` what is left at the end.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.pending = b""

    def push(self, token_id: int) -> str:
        raw = token_bytes(self.tokenizer, int(token_id))
        if raw is None:  # a special token ends whatever was unfinished
            return self.flush()
        self.pending += raw
        whole = _whole_characters(self.pending)
        text, self.pending = self.pending[:whole].decode("utf-8", "replace"), self.pending[whole:]
        return text

    def flush(self) -> str:
        text, self.pending = self.pending.decode("utf-8", "replace"), b""
        return text


def _whole_characters(raw: bytes) -> int:
    """How many leading bytes can be decoded now: all but the beginning of a character that may still be finished."""
    for back in range(1, min(4, len(raw)) + 1):
        byte = raw[-back]
        if byte >= 0xC0:
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(raw) - back if back < length else len(raw)
        if byte < 0x80:
            break
    return len(raw)
