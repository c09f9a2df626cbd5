"""What all widgets share: errors are shown, text is escaped, something is left where widgets cannot be, one look."""

from __future__ import annotations

import ast
import subprocess
import sys
import threading
import warnings

import ipywidgets as widgets
import pytest

from minimind_core.errors import InputError
from minimind_core.paths import PROJECT
from minimind_core.plots.style import chinese_font, drawable, subplots, use_course_style
from minimind_core.widgets.parts import Panel, as_text, button, fill, png, row, text_card, typed, without_tags

NASTY = '<img src=x onerror="alert(1)">&'
MODULES = sorted((PROJECT / "minimind_core" / "widgets").glob("*.py"))


def test_an_error_is_shown_in_red_and_escaped_and_the_page_goes_on():
    page = widgets.HTML()

    def fail():
        raise RuntimeError(NASTY)

    fill(page, fail)
    assert "RuntimeError: &lt;img" in page.value and "<img" not in page.value
    fill(page, lambda: "<b>well</b>")
    assert page.value == "<b>well</b>"

    def refuse():
        raise InputError("no such row: take 0 to 9.")

    fill(page, refuse)
    assert "no such row" in page.value and "InputError" not in page.value


def test_text_cards_escape():
    assert "<img" not in text_card(NASTY) and "&lt;img" in text_card(NASTY)
    assert typed("a\ud800") == "a?" and typed("山") == "山"


def test_a_panel_leaves_its_contents_as_text_and_picture_where_widgets_cannot_be_shown():
    slider = widgets.IntSlider(3, 0, 9, description="layer")
    choice = widgets.Dropdown(options=["one", "two"], value="two", description="Tokenizer")
    page = widgets.HTML("<table><tr><th>id</th><td>5</td></tr></table><div>a &lt;b&gt;</div>")
    plain = Panel([row(slider, choice, button("Go", "go on")), page])
    bundle = plain._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle and "image/png" not in bundle
    assert bundle["text/plain"] == "Run the cell to use it: layer [3] Tokenizer [two] (Go)\nid  5\na <b>"
    figure, _ = subplots()
    assert Panel([page], picture=lambda: png(figure))._repr_mimebundle_()["image/png"].startswith(b"\x89PNG")
    assert "image/png" not in Panel([page], picture=lambda: None)._repr_mimebundle_()
    assert len(as_text(Panel([widgets.HTML("x" * 9000)]))) == 1500


def test_tags_become_lines():
    assert without_tags("<div>a<br>b</div><div>c &amp; d</div>") == "a\nb\nc & d"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_widgets_are_built_from_the_shared_parts(path):
    """One look: columns, rows, pictures and buttons come from parts.py, and no callback can lose an error."""
    if path.stem in ("parts", "__init__"):
        return
    calls = [node.func for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    used = {
        f"{call.value.id}.{call.attr}"
        for call in calls
        if isinstance(call, ast.Attribute) and isinstance(call.value, ast.Name)
    }
    banned = {f"widgets.{name}" for name in ("VBox", "HBox", "Image", "Button", "Output", "Layout", "interact")}
    assert not used & banned - ({"widgets.Layout"} if path.stem == "continuation" else set())


def test_pictures_are_known_to_no_list_that_threads_share():
    """JupyterLab may run a widget's callback in a thread: pyplot's open figures would end up below another cell."""
    for path in sorted((PROJECT / "minimind_core").rglob("*.py")):
        tree = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        imported = [ast.unparse(node) for node in tree if isinstance(node, (ast.Import, ast.ImportFrom))]
        assert not [line for line in imported if "pyplot" in line], path


def test_what_no_font_can_draw_is_a_dot_and_draws_without_a_warning():
    use_course_style()
    shown = drawable("山é🙂\U0001f9ffx")
    assert shown == ("山" if chinese_font() else "·") + "é··x"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure, axes = subplots()
        axes.set_title(shown)
        png(figure)


def test_a_figure_without_a_lessons_setup_has_the_courses_looks_and_a_style_chosen_since_stays():
    code = """
import matplotlib
from minimind_core.plots import style
figure, axes = style.subplots()
assert matplotlib.colors.to_hex(figure.get_facecolor()).upper() == style.CARD.upper(), figure.get_facecolor()
matplotlib.rcParams["axes.facecolor"] = "#123456"
assert matplotlib.colors.to_hex(style.mosaic([["a"]])[1]["a"].get_facecolor()) == "#123456"
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PROJECT, timeout=120)


def test_figures_of_many_threads_do_not_disturb_each_other():
    made, wrong = [], []
    use_course_style()

    def draw(number):
        try:
            figure, axes = subplots(figsize=(2, 1))
            axes.set_title(drawable(f"山 {number}"))
            axes.plot(range(number + 2))
            made.append(png(figure))
        except Exception as problem:
            wrong.append(problem)

    threads = [threading.Thread(target=draw, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and len(made) == 8 and all(picture.startswith(b"\x89PNG") for picture in made)
