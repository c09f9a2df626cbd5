"""The check of lesson 01's last exercise: how alike two texts are, estimated from sketches (MinHash).

A corpus is too large to compare each text with each other, so one keeps a few numbers of each. This module makes the
hash functions, estimates with them, and names the mistake that it recognises. Taught in notebook 01, under Further.
Left out: the exact similarity and the search for pairs, which the notebook does by hand.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from functools import partial

from ..corpus import iter_texts, split_segments
from ..paths import SAMPLE
from .verdict import Verdict, attempt, number


def hash_functions(count: int, largest: int = 1 << 32) -> list[Callable[[str], int]]:
    """So many hash functions that have nothing to do with each other: text → a number below `largest`."""

    def value(key: int, text: str) -> int:
        digest = hashlib.blake2b(text.encode("utf-8"), digest_size=8, key=b"%d" % key).digest()
        return int.from_bytes(digest, "big") % largest

    return [partial(value, key) for key in range(count)]


def estimate(one: set[str], other: set[str], hashes: Sequence[Callable[[str], int]]) -> float:
    """MinHash: the share of hash functions whose smallest value over both sets is the same."""
    return sum(min(map(each, one)) == min(map(each, other)) for each in hashes) / len(hashes)


def check_estimate(answer: Callable[[set[str], set[str], list], float]) -> Verdict:
    """`answer(one, other, hashes)` should give the share of hash functions whose minima over both sets agree."""
    rows = [split_segments(text) for text in iter_texts(SAMPLE, limit=11)]
    ours, others = ({text[i : i + 3] for i in range(len(text) - 2)} for text in (rows[0][0], rows[10][2]))
    some, more = set("春夏秋冬东南西北"), set("东南西北上下左右")
    # Small numbers, so that two functions share a minimum now and then; but no function gives two pieces the same.
    small = [
        each for each in hash_functions(400, largest=43) if len({each(p) for p in some | more}) == len(some | more)
    ]
    for one, other, hashes in (
        (some, more, small[3:23]),  # with these, all usual mistakes give different numbers
        ({"山"}, {"山"}, hash_functions(3)),
        ({"山"}, {"水"}, hash_functions(3)),
        (ours, others, hash_functions(64)),
    ):
        found = attempt(answer, set(one), set(other), list(hashes))
        value = found if isinstance(found, Verdict) else number(found, "a similarity")
        problem = value if isinstance(value, Verdict) else _estimate_problem(one, other, hashes, value)
        if problem is not None:
            return problem
    true = len(ours & others) / len(ours | others)
    return Verdict.right(f"our row's first segment and row 10's third: {value:.2f} from sketches, {true:.2f} in truth.")


def _estimate_problem(one: set[str], other: set[str], hashes: Sequence[Callable], found: float) -> Verdict | None:
    right = estimate(one, other, hashes)
    if math.isclose(found, right, abs_tol=1e-9):
        return None
    count = len(hashes)
    mine, yours = ([min(map(each, side)) for each in hashes] for side in (one, other))
    shared = set(mine) & set(yours)
    wrong = (
        (right * count, "that is how many agree; divide by the number of hash functions"),
        (sum(a != b for a, b in zip(mine, yours, strict=True)) / count, "that is the share that differs"),
        (len(shared) / len(set(mine) | set(yours)), "compare the two lists place by place, not as sets of numbers"),
        (len(shared) / count, "compare the two lists place by place: each function has a smallest value of its own"),
        (len(one & other) / len(one | other),
         "that is the exact similarity, of the pieces or of all their hashes; take each function's smallest value"),
        (_jaccard_of_hashes(one, other, hashes),
         "you compare all hashes of the two sets; each function's smallest value is enough"),
        (sum(max(map(h, one)) == max(map(h, other)) for h in hashes) / count,
         "you take the largest value; that works as well, but the smallest is asked"),
        (sum(h(min(one)) == h(min(other)) for h in hashes) / count,
         "you hash the smallest piece; take the smallest of all pieces' hashes"),
        (float(min(mine) == min(yours)), "you take one minimum over all functions; take one for each of them"),
    )  # fmt: skip
    why = next((text for value, text in wrong if math.isclose(found, value, abs_tol=1e-9)), None)
    here = f"sets of {len(one)} and {len(other)} pieces and {count} hash functions"
    return Verdict.wrong(f"{here} give {right:.4f}, yours is {found:.4f}" + (f": {why}." if why else "."))


def _jaccard_of_hashes(one: set[str], other: set[str], hashes: Sequence[Callable]) -> float:
    """What comes out when the hashes of all functions go into one heap for each set."""
    mine, yours = ({each(piece) for each in hashes for piece in side} for side in (one, other))
    return len(mine & yours) / len(mine | yours)
