"""What all widgets share, so that they look and fail alike: pages, controls, pictures, messages, a text in their place.

A page is an HTML widget on a light card that reads the same in both themes. Left out: what the pages say.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable
from html import escape, unescape
from typing import Any

import ipywidgets as widgets
from matplotlib.figure import Figure

from ..errors import CourseError
from ..plots.style import CARD, INK, RED

WIDTH = "780px"  # of the widest part; a window of 800 pixels shows it whole
TEXT_AT_MOST = 1500  # characters of a widget's text equivalent


class Panel(widgets.VBox):
    """A column of controls and pages that leaves its contents as text where widgets cannot be shown.

    JupyterLab shows that text when it opens a notebook without a kernel, as do front ends that know no widgets.
    `picture` gives PNG bytes that such a front end shows instead, or None.
    """

    def __init__(self, children: Iterable[widgets.Widget], picture: Callable[[], bytes | None] | None = None) -> None:
        super().__init__(list(children))
        self._picture = picture

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        bundle = super()._repr_mimebundle_(**kwargs)
        bundle["text/plain"] = as_text(self)
        png = self._picture() if self._picture else None
        return bundle | ({"image/png": png} if png else {})


def as_text(widget: widgets.Widget) -> str:
    """What a widget shows, in words: its controls with their values in a line, then its pages without their tags."""
    controls, pages = [], []
    for part in _leaves(widget):
        if isinstance(part, widgets.HTML):
            pages.append(without_tags(part.value))
        elif isinstance(part, widgets.Button):
            controls.append(f"({part.description})")
        elif not isinstance(part, widgets.Image) and hasattr(part, "value"):
            shown = getattr(part, "label", None) or part.value
            controls.append(f"{part.description or 'choice'} [{shown}]")
    text = "\n".join([f"Run the cell to use it: {' '.join(controls)}", *filter(None, pages)])
    return text if len(text) <= TEXT_AT_MOST else text[: TEXT_AT_MOST - 1] + "…"


def _leaves(widget: widgets.Widget) -> Iterable[widgets.Widget]:
    if isinstance(widget, widgets.Box):
        for child in widget.children:
            yield from _leaves(child)
    else:
        yield widget


def without_tags(html: str) -> str:
    """HTML as plain text: a line for each block, row or break, cells two blanks apart."""
    text = re.sub(r"</t[dh]>", "  ", re.sub(r"<br[^>]*>|</(?:div|tr|table|caption|p)>", "\n", html))
    text = unescape(re.sub(r"<[^>]*>", "", text))
    return "\n".join(line.rstrip() for line in text.split("\n") if line.strip())


# --- pages ------------------------------------------------------------------------------------------------------------


def fill(page: widgets.HTML, make: Callable[[], str]) -> None:
    """Show the HTML that `make` returns, or what went wrong: an error in a callback would be seen nowhere else."""
    try:
        page.value = make()
    except Exception as problem:
        page.value = error_card(problem)


def error_card(problem: Exception) -> str:
    """An error as a red message on a card: its words alone where it is one of ours, else with its kind."""
    words = str(problem) if isinstance(problem, CourseError) else f"{type(problem).__name__}: {problem}"
    return text_card(words, RED)


def card_style(*more: str) -> str:
    """The style of a light card with dark text, the same in both themes."""
    plain = f"background-color:{CARD};color:{INK};border:1px solid #CCCCCC;border-radius:4px;padding:8px 12px"
    return ";".join([plain, f"max-width:{WIDTH};box-sizing:border-box;overflow-wrap:anywhere", *more])


def text_card(text: str, colour: str = INK) -> str:
    """Text (escaped, line breaks kept) in type of one width on a card."""
    style = card_style("font-family:monospace;font-size:13px;line-height:1.6;white-space:pre-wrap")
    return f'<div style="{style}"><span style="color:{colour}">{escape(text)}</span></div>'


def png(figure: Figure) -> bytes:
    """A figure as PNG bytes, for an Image widget."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=96)
    return buffer.getvalue()


def image() -> widgets.Image:
    """A place for a picture, as wide as the page allows."""
    return widgets.Image(
        format="png", layout=widgets.Layout(max_width="min(100%, 900px)", width="auto", object_fit="contain")
    )


# --- controls ---------------------------------------------------------------------------------------------------------


def row(*parts: widgets.Widget) -> widgets.HBox:
    """Parts beside each other, on further lines where the window is narrow."""
    return widgets.HBox(parts, layout=widgets.Layout(flex_flow="row wrap", max_width=WIDTH, align_items="center"))


def looks(label: str = "110px", width: str = "370px") -> dict[str, Any]:
    """Keywords for a control: room for its description, and its own width."""
    return {"style": {"description_width": label}, "layout": widgets.Layout(width=width, max_width="100%")}


def prompt_field(prompt: str, live: bool = False, placeholder: str = "") -> widgets.Text:
    """A line for a prompt over the whole width; read when Enter is pressed, or with every key if `live`."""
    return widgets.Text(
        value=prompt, description="Prompt", continuous_update=live, placeholder=placeholder, **looks("60px", "100%")
    )


def area(text: str, lines: int = 2) -> widgets.Textarea:
    """A field for a few lines of text."""
    return widgets.Textarea(text, description="Text", rows=lines, **looks("60px", "100%"))


def typed(text: str) -> str:
    """What was typed, with what is no text (half a surrogate pair) replaced."""
    return text.encode("utf-8", "replace").decode("utf-8")


def button(text: str, hint: str, do: Callable[[], None] | None = None, style: str = "") -> widgets.Button:
    """A button as wide as its text, with a hint for the pointer and for screen readers."""
    made = widgets.Button(description=text, tooltip=hint, button_style=style, layout=widgets.Layout(width="auto"))
    if do is not None:
        made.on_click(lambda _: do())
    return made
