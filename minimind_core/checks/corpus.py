"""Checks of lesson 01's exercises: splitting a row, packing segments, a reader of JSON lines, padding.

Each takes the learner's function, tries it on small cases and on the course's rows, and names the mistake it
recognises. Left out: estimates from sketches (near_copies.py).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence

from ..corpus import iter_texts, split_segments
from ..paths import SAMPLE
from .verdict import Verdict, attempt, number


def _list_of_text(found: object, what: str) -> Verdict | None:
    """A Verdict when `found` is not a list of strings, else None."""
    if not isinstance(found, list):
        return Verdict.wrong(f"a list of {what} is needed, this is a {type(found).__name__}.")
    strange = next((item for item in found if not isinstance(item, str)), None)
    if strange is not None:
        return Verdict.wrong(f"every item of the list is a string; yours holds a {type(strange).__name__}.")
    return None


def check_segments(answer: Callable[[str], list[str]]) -> Verdict:
    """`answer(text)` should give a row's segments, without markers and without spaces at their ends."""
    row = next(iter_texts(SAMPLE, limit=1))
    for text in (
        "<s>山很高。</s> <s>水很深。</s>",
        "<s>read it  twice</s> <s>两\n行</s>",
        "<s>一</s><s>二</s>\n<s>三</s>",
        row,
    ):
        found, wanted = attempt(answer, text), split_segments(text)
        if isinstance(found, Verdict):
            return found
        problem = _segments_problem(text, found, wanted)
        if problem is not None:
            return problem
    return Verdict.right(f"{len(wanted)} segments in row 0, none of them with a marker.")


def _segments_problem(text: str, found: object, wanted: list[str]) -> Verdict | None:
    problem = _list_of_text(found, "segments")
    if problem is not None:
        return problem
    if found == wanted:
        return None
    if any("<s>" in item or "</s>" in item for item in found):
        return Verdict.wrong(f"markers are left in your segments: {found[0]!r}.")
    if any(not item.strip() for item in found):
        return Verdict.wrong(f"{text[:40]!r} gives you an empty segment; what lies between two markers may be a space.")
    if [item.strip() for item in found] == wanted:
        return Verdict.wrong("right but for the spaces at the ends of your segments: strip() them.")
    if len(found) > len(wanted):
        return Verdict.wrong(
            f"{text[:40]!r} has {len(wanted)} segments, you give {len(found)}: a space or a line break inside a "
            "segment does not end it, only a marker does."
        )
    return Verdict.wrong(f"{text[:40]!r} should give {str(wanted)[:80]}, you give {str(found)[:80]}.")


def check_pack(answer: Callable[[list[str], int], list[str]]) -> Verdict:
    """`answer(segments, limit)` should join segments in order into rows of at most `limit` characters."""
    segments = [s for text in iter_texts(SAMPLE, limit=3) for s in split_segments(text)]
    short, long = ["一二", "三四", "五六", "七"], ["山" * 40, "水", "火"]
    for case, limit in (
        (short, 20),
        (short, 19),  # just what two of them take, markers and space counted
        (short, 18),
        (segments, 300),
        (segments, 512),
        (long, 30),
    ):
        found = attempt(answer, list(case), limit)
        if isinstance(found, Verdict):
            return found
        problem = _pack_problem(case, limit, found)
        if problem is not None:
            return problem
    return Verdict.right("every segment is there, whole and in order, and no row could take one more.")


def pack(segments: list[str], limit: int) -> list[str]:
    """Rows of marked segments, in order, each filled up to `limit` characters; a longer segment has its own row."""
    rows: list[str] = []
    for segment in segments:
        brick = f"<s>{segment}</s>"
        if rows and len(rows[-1]) + 1 + len(brick) <= limit:
            rows[-1] += " " + brick
        else:
            rows.append(brick)
    return rows


def _pack_problem(segments: list[str], limit: int, found: object) -> Verdict | None:
    problem = _list_of_text(found, "rows")
    if problem is not None:
        return problem
    if found == pack(segments, limit):
        return None
    if any(not row.strip() for row in found):
        return Verdict.wrong("one of your rows is empty: don't close a row before anything is in it.")
    if not all(row.startswith("<s>") and row.endswith("</s>") for row in found):
        return Verdict.wrong(f"every row begins with <s> and ends with </s>; one of yours is {found[0][:40]!r}.")
    inside = [piece for row in found for piece in split_segments(row)]
    if inside != segments:
        if inside == segments[: len(inside)]:
            lost = len(segments) - len(inside)
            return Verdict.wrong(f"the last {lost} segments are lost: the row you were filling is never added.")
        if sorted(inside) == sorted(segments):
            return Verdict.wrong("all segments are there, but not in their order.")
        if "".join(inside) == "".join(segments):
            return Verdict.wrong("you cut a segment in two; a segment stays whole, even if its row gets too long.")
        missing = [s for s in segments if s not in inside]
        size = f", {len(missing[0])} characters long" if missing else ""
        return Verdict.wrong(f"{len(missing)} of {len(segments)} segments are lost{size} (the limit was {limit}).")
    if any(re.search(r"</s><s>", row) for row in found):
        return Verdict.wrong("one space is needed between </s> and the next <s>; yours touch.")
    over = next((row for row in found if len(row) > limit and len(split_segments(row)) > 1), None)
    if over is not None:
        return Verdict.wrong(f"a row has {len(over)} characters, the limit was {limit}: markers and spaces count too.")
    if found == pack(segments, limit - 1):
        return Verdict.wrong(
            f"a row may hold exactly the limit, here {limit} characters; is there a < where <= is meant, or one "
            "space too many counted?"
        )
    enough = len(pack(segments, limit))
    return Verdict.wrong(f"you need {len(found)} rows, {enough} are enough: fill a row up before the next one begins.")


def _line(text: str) -> bytes:
    return json.dumps({"text": text}, ensure_ascii=False).encode()


def check_reader(answer: Callable[[bytes], list[str]]) -> Verdict:
    """`answer(raw)` should give the texts of a JSON-lines file's bytes, or raise ValueError naming the bad line."""
    a, b = _line("山"), _line("水")
    good = (
        ("two plain lines", a + b"\n" + b, ["山", "水"]),
        ("a line break at the end of the file", a + b"\n" + b + b"\n", ["山", "水"]),
        ("an empty line between two rows", a + b"\n\n" + b, ["山", "水"]),
        ("a line that holds only spaces (strip it before you look)", a + b"\n  \n" + b, ["山", "水"]),
        ("Windows line endings (CRLF)", a + b"\r\n" + b + b"\r\n", ["山", "水"]),
        ("a byte-order mark at the start", b"\xef\xbb\xbf" + a, ["山"]),
        (
            "the character U+2028 inside a text (split at the byte \\n only)",
            _line("山\u2028水") + b"\n",
            ["山\u2028水"],
        ),
    )
    for name, raw, wanted in good:
        found = attempt(answer, raw)
        if isinstance(found, Verdict):
            return found if found.ok is None else Verdict.wrong(f"{name}: {found.message}")
        problem = _list_of_text(found, "texts")
        if problem is not None:
            return problem
        if found != wanted:
            return Verdict.wrong(f"{name} should give {wanted}, you give {str(found)[:80]}.")
    bad = (
        ("a line that is cut short", a + b"\n\n" + b'{"text": "\xe6\xb0', 3),
        ("a web page", a + b"\n" + b"<html>", 2),
        ("a line without text", b"\n\n\n" + a + b"\n" + b'{"title": "x"}\n' + b, 5),
        ("a line that is a list, not an object", a + b"\n" + b + b"\n" + b'["text"]', 3),
        ("a text that is a number, not a string", a + b"\n" + b'{"text": 7}\n' + b, 2),
    )
    for name, raw, line in bad:
        problem = _not_refused(answer, name, raw, line)
        if problem is not None:
            return problem
    return Verdict.right("seven good files are read, five bad ones are refused by line.")


def _not_refused(answer: Callable, name: str, raw: bytes, line: int) -> Verdict | None:
    """A Verdict unless `answer(raw)` raises a ValueError whose message names `line`."""
    try:
        found = answer(raw)
    except ValueError as error:
        message = str(error)
        numbers = [int(n) for n in re.findall(r"\d+", message)]
        if isinstance(error, UnicodeDecodeError):
            whole = len(error.object) > max(map(len, raw.split(b"\n")))
            how = "You decode the whole file at once: split the bytes first" if whole else "Decode inside the try too"
            return Verdict.wrong(
                f"{name}: the error of decoding came through ({message[:60]!r}), and it does not know the line. {how}, "
                f"and raise a ValueError of your own that says line {line} of the file."
            )
        if isinstance(error, json.JSONDecodeError):
            return Verdict.wrong(
                f"{name}: json's own error came through ({message[:60]!r}); it knows only its one line. Catch it and "
                f"raise a ValueError that says line {line} of the file."
            )
        if line in numbers:
            return None
        blanks = raw.split(b"\n")[: line - 1]
        rows_before = sum(bool(part.strip()) for part in blanks)
        if line - 1 in numbers:
            why = "you count lines from 0 or leave out a blank one; an editor counts from 1, blank lines too"
        elif rows_before + 1 in numbers or rows_before in numbers:
            why = "you count rows, not lines; blank lines count in an editor"
        else:
            why = f"your message is {message[:60]!r}"
        return Verdict.wrong(f"{name} is line {line} of its file: {why}.")
    except Exception as error:  # a learner's code may raise anything
        return Verdict.wrong(
            f"{name}: your code raised {type(error).__name__}; a ValueError that names the line is asked."
        )
    return Verdict.wrong(
        f"{name} should be refused with a ValueError that names line {line}; you give {str(found)[:60]}."
    )


def padding_share(lengths: Sequence[int], max_length: int) -> float:
    """The share of predicted positions that hold padding: rows of so many tokens, each cut or filled to `max_length`.

    A row has max_length - 1 predicted positions, since nobody asks for its first token.
    """
    counted = sum(min(length, max_length) - 1 for length in lengths)
    return 1 - counted / (len(lengths) * (max_length - 1))


def check_padding(answer: Callable[[list[int], int], float]) -> Verdict:
    """`answer(lengths, max_length)` should give the share of predicted positions that hold padding, from 0 to 1."""
    for lengths, max_length in (([10, 20, 30], 25), ([7, 7], 7), ([40, 50], 9), ([2], 101)):
        found = attempt(answer, list(lengths), max_length)
        value = found if isinstance(found, Verdict) else number(found, "a share")
        problem = value if isinstance(value, Verdict) else _padding_problem(lengths, max_length, value)
        if problem is not None:
            return problem
    return Verdict.right("long rows are cut, short ones filled, and a row's first token is not asked for.")


def _padding_problem(lengths: Sequence[int], max_length: int, found: float) -> Verdict | None:
    right, rows = padding_share(lengths, max_length), len(lengths)
    if math.isclose(found, right, abs_tol=1e-9):
        return None
    counted = sum(min(n, max_length) - 1 for n in lengths)
    places, padding = rows * (max_length - 1), rows * (max_length - 1) - counted
    wrong = (
        (1 - sum(n - 1 for n in lengths) / places, "a row longer than max_length is cut: it can't fill more than that"),
        (counted / places, "that is the share that counts; asked is the share of padding"),
        (1 - (counted + rows) / (rows * max_length),
         "you count max_length positions a row, max_length - 1 are predicted"),
        (1 - (counted + rows) / places, "a row of n tokens has n - 1 that are asked for: nobody asks for the first"),
        (1 - counted / (rows * max_length), "the total is wrong: a row has max_length - 1 predicted positions"),
        (padding / sum(lengths), "the total is wrong: you divide by the tokens of the rows, not by all positions"),
        (padding / counted, "the total is wrong: you divide by the positions that count, not by all of them"),
        (padding, "that is a number of positions; divide it by all of them"),
        (100 * right, "that is in per cent; a share lies between 0 and 1"),
    )  # fmt: skip
    why = next((text for value, text in wrong if math.isclose(found, value, abs_tol=1e-9)), None)
    here = f"rows of {list(lengths)} tokens and max_length {max_length}"
    return Verdict.wrong(f"{here} give {right:.4f}, yours is {found:.4f}" + (f": {why}." if why else "."))
