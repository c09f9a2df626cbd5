"""What a check says: right, not answered yet, or what is wrong, from shape to value to gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch


class Verdict:
    """A check's answer; true when right, so compare with `is not None`. Notebooks show it as a line of text."""

    def __init__(self, ok: bool | None, message: str) -> None:
        self.ok, self.message = ok, message

    @classmethod
    def right(cls, message: str = "that is it.") -> Verdict:
        return cls(True, message)

    @classmethod
    def wrong(cls, message: str) -> Verdict:
        return cls(False, message)

    @classmethod
    def open(cls) -> Verdict:
        return cls(None, "not answered yet: write your answer where the ... stands, then run this again.")

    def __bool__(self) -> bool:
        return bool(self.ok)

    def __repr__(self) -> str:
        return f"{ {True: '✔ right:', False: '✘ not yet:', None: '○'}[self.ok] } {self.message}"


def attempt(answer: Callable, *inputs: Any) -> Any:
    """Call a learner's function; gives its result, or a Verdict when it is a stub (returns None or ...) or raises."""
    if answer is None or answer is ...:
        return Verdict.open()
    try:
        result = answer(*inputs) if callable(answer) else answer
    except Exception as error:  # a learner's code may raise anything
        return Verdict.wrong(f"your code raised {type(error).__name__}: {str(error)[:200]}")
    return Verdict.open() if result is None or result is ... else result


def wrong_shape(found: Any, wanted: torch.Size | tuple) -> Verdict | None:
    """A Verdict when `found` is no tensor of the wanted shape, else None."""
    if not isinstance(found, torch.Tensor):
        return Verdict.wrong(f"a tensor of shape {tuple(wanted)} is needed, this is a {type(found).__name__}.")
    if tuple(found.shape) != tuple(wanted):
        return Verdict.wrong(f"the shape should be {tuple(wanted)}, yours is {tuple(found.shape)}.")
    return None


def number(found: object, what: str) -> float | Verdict:
    """`found`, a value from 0 to 1, as a float; or a Verdict that says what was given instead of a number."""
    try:
        value = float(found)
    except (TypeError, ValueError):
        return Verdict.wrong(f"{what} is a number, this is a {type(found).__name__}.")
    return value if math.isfinite(value) else Verdict.wrong(f"{what} should be from 0 to 1, yours is {value}.")
