"""The first cell of every notebook: `profile = setup(3)`. Look, seed, profile, and errors that fit on a line."""

from __future__ import annotations

import os
from dataclasses import replace

import torch

from .config import PROFILES, Profile, profile_for
from .errors import CourseError
from .lessons import LESSONS
from .plan import profile_named
from .precision import describe_device, pick_device

SEED = 1337
WHERE_TO_LOOK = "(More: docs/troubleshooting.md.)"


def setup(number: int, profile: str | None = None, device: str = "auto") -> Profile:
    """Get a notebook ready and say what it runs on; returns the profile, chosen by the device unless it is named.

    Sets the figures' look, the random seed, and one-line errors. `MINIMIND_PROFILE=laptop` in the environment names the
    profile for all notebooks.
    """
    from .plots.style import use_course_style

    lesson = LESSONS[number - 1]
    where = pick_device(device)
    wanted = profile or os.environ.get("MINIMIND_PROFILE")
    chosen = profile_named(wanted) if wanted else profile_for(where.type)
    torch.manual_seed(SEED)
    use_course_style()
    _draw_inline()
    short_errors()
    machine = f"{describe_device(where)} · torch {torch.__version__}"
    print(f"Lesson {number}: {lesson.title} · profile {chosen.name} · {machine}")
    return replace(chosen, train=replace(chosen.train, device=str(where)))


def _draw_inline() -> None:
    """Let figures be drawn below their cells, whether or not pyplot is ever imported."""
    try:
        shell = get_ipython()
    except NameError:
        return
    if hasattr(shell, "kernel"):
        shell.enable_matplotlib("inline")


def short_errors() -> None:
    """In a notebook, show a CourseError as its message alone, without a page of stack."""
    try:
        shell = get_ipython()
    except NameError:
        return

    def show(shell, kind, error, traceback, tb_offset=None):
        lines = [f"{kind.__name__}: {error}"]
        shell._showtraceback(kind, error, lines)
        return lines

    shell.set_custom_exc((CourseError,), show)


def doctor(network: bool = True) -> None:
    """Print whether this machine has what the course needs, and try whether this page can show widgets."""
    import ipywidgets
    from IPython.display import display

    from .doctor import examine

    findings = examine(network)
    print("\n".join(map(str, findings)))
    bad = [finding.name for finding in findings if finding.verdict == "bad"]
    print(f"\nTo mend first: {', '.join(bad)}." if bad else "\nReady.", WHERE_TO_LOOK)
    trial = ipywidgets.Valid(value=True, description="widgets", readout="")
    words = "· widgets: not shown here, or not yet (the kernel is not running); texts and pictures stand in for them"
    display(trial._repr_mimebundle_() | {"text/plain": words}, raw=True)


def may_lack_widgets() -> bool:
    """Whether VS Code or one of its kin shows this notebook, or started it: widgets stay blank there at times."""
    return any(name.startswith("VSCODE_") for name in os.environ)


def as_expected(name: str, value: float, low: float, high: float, otherwise: str = "") -> None:
    """Print a number beside its band and whether it lies in it; `otherwise` says what is likely wrong.

    A number outside, nan too, also gets a word on where symptoms and remedies stand.
    """
    verdict = (
        "as expected" if low <= value <= high else f"NOT as expected. {otherwise} {WHERE_TO_LOOK}".replace("  ", " ")
    )
    print(f"{name}: {value:.4g}  (expected {low:.4g} to {high:.4g}) → {verdict}")


__all__ = ["PROFILES", "SEED", "as_expected", "doctor", "may_lack_widgets", "setup", "short_errors"]
