"""The seven notebooks are what the table of lessons says, and so is the README."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import replace

import nbformat
import pytest
from matplotlib import font_manager
from reading_time import FURTHER, reading_minutes

from minimind_core import fonts
from minimind_core.course import as_committed, hidden_problems
from minimind_core.lessons import LESSONS, places_of, readme_table
from minimind_core.notebook import as_expected
from minimind_core.paths import PROJECT

WIDGET = "application/vnd.jupyter.widget-view+json"
notebooks = pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.name)


def read(lesson):
    return nbformat.read(lesson.path, as_version=4)


def test_the_readme_has_the_table_of_lessons():
    assert readme_table() in (PROJECT / "README.md").read_text(encoding="utf-8")


@notebooks
def test_a_header_states_title_aim_time_and_neighbours(lesson):
    header = read(lesson).cells[0].source
    assert header == lesson.header, "refresh it with: python -m minimind_core.course --texts"
    assert header.startswith(f"# {lesson.number:02d} · ")
    assert "After this notebook you can" in header
    assert re.search(r"laptop \d+\.\d min and \d+\.\d GB of memory", header)
    around = [LESSONS[i] for i in (lesson.number - 2, lesson.number) if 0 <= i < len(LESSONS)]
    assert all(f"({other.path.name})" in header for other in around)


@notebooks
def test_links_in_a_notebook_lead_somewhere(lesson):
    text = "\n".join(cell.source for cell in read(lesson).cells if cell.cell_type == "markdown")
    for target in re.findall(r"\]\((?!https?:|#)([^)\s#]+)", text):
        assert (lesson.path.parent / target).exists(), target


@notebooks
def test_a_footer_links_the_functions_that_the_lesson_explains(lesson):
    footer = read(lesson).cells[-1].source
    assert footer == lesson.footer, "refresh it with: python -m minimind_core.course --texts"
    for module in lesson.modules:
        source = (PROJECT / "minimind_core" / f"{module}.py").read_text(encoding="utf-8").split("\n")
        places = places_of(module)
        for name, line in re.findall(rf"\[`(\w+)`\]\(\.\./minimind_core/{module}\.py#L(\d+)\)", footer):
            assert places[name] == int(line) and re.match(rf"(?:def|class) {name}\b", source[int(line) - 1]), name
    assert footer.count("#L") >= 4 and "docs/troubleshooting.md" in footer


@notebooks
def test_the_second_cell_sets_up_and_is_the_only_one_to_do_so(lesson):
    code = [cell.source for cell in read(lesson).cells if cell.cell_type == "code"]
    assert f"setup({lesson.number})" in code[0]
    assert not any("setup(" in source for source in code[1:])


@notebooks
def test_committed_outputs_are_those_of_one_clean_run_and_say_as_expected(lesson):
    notebook = read(lesson)
    assert not hidden_problems(notebook)
    assert as_committed(notebook, lesson) == notebook, "refresh it with: make notebooks"
    printed = "\n".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []) if "text" in output
    )
    assert "NOT as expected" not in printed


@notebooks
def test_a_notebook_has_pictures_exercises_and_folded_solutions(lesson):
    cells = read(lesson).cells
    markdown = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    pictures = sum(
        any(kind in output.get("data", {}) for kind in ("image/png", WIDGET))
        for cell in cells
        for output in cell.get("outputs", [])
    )
    assert pictures >= 3
    assert markdown.count("<summary>Solution</summary>") >= 4
    assert markdown.count("<summary>Hint</summary>") >= 4
    stubs = [
        cell
        for cell in cells
        if cell.cell_type == "code" and re.search(r"^(?:\w+\.)?check_\w+\(", cell.source, re.MULTILINE)
    ]
    assert len(stubs) >= 4
    for cell in stubs:
        assert any("not answered yet" in str(output) for output in cell.outputs), cell.source


@notebooks
def test_a_notebook_is_of_a_length_to_be_finished_and_asks_before_it_tells(lesson):
    cells = read(lesson).cells
    assert 30 <= len(cells) <= (80 if lesson.number == 3 else 60)
    markdown = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    assert len(re.findall(r"\*\*Predict\b", markdown)) >= 3
    assert "ur row" in markdown, "row 0 of the sample goes through all seven"
    longest = max(cell.source.count("\n") + 1 for cell in cells if cell.cell_type == "code")
    assert longest <= 32, "a cell is too long to be read at once"


@notebooks
def test_no_cell_only_defines_something(lesson):
    """Exercise stubs apart: what a cell makes, it shows."""
    for cell in read(lesson).cells:
        if cell.cell_type == "code":
            last = ast.parse(cell.source).body[-1]
            stub = isinstance(last, ast.FunctionDef) and last.name.startswith("my_")
            assert cell.outputs or stub, cell.source


@notebooks
def test_each_picture_has_a_text_beside_it(lesson):
    for cell in read(lesson).cells:
        outputs = cell.get("outputs", [])
        kinds = [set(output.get("data", {})) for output in outputs]
        if any("image/png" in kind and WIDGET not in kind for kind in kinds):  # a widget's picture has its own text
            assert any(output.get("name") == "stdout" for output in outputs), cell.source


@notebooks
def test_a_notebook_states_no_machine_of_its_author(lesson):
    text = lesson.path.read_text(encoding="utf-8")
    assert not re.search(r"/(?:work|home|tmp|Users)/\w", text)


def test_committed_form_drops_widget_state_and_overwritten_lines():
    notebook = nbformat.v4.new_notebook(
        metadata={"widgets": {}, "kernelspec": {"name": "other", "display_name": "Other"}}
    )
    stream = nbformat.v4.new_output("stream", text="10%\r50%\r100%\ndone\n")
    cell = nbformat.v4.new_code_cell("1", outputs=[stream], execution_count=1, metadata={"execution": {"t": "1"}})
    notebook.cells = [cell]
    kept = as_committed(notebook)
    assert "widgets" not in kept.metadata and kept.metadata.kernelspec.name == "python3"
    assert kept.cells[0].outputs[0].text == "100%\ndone\n" and "execution" not in kept.cells[0].metadata
    assert notebook.cells[0].outputs[0].text.startswith("10%")


def test_an_error_that_a_widget_swallowed_is_found():
    state = {"a": {"state": {"outputs": [{"output_type": "error", "ename": "ValueError", "evalue": "lost"}]}}}
    notebook = nbformat.v4.new_notebook(
        metadata={"widgets": {"application/vnd.jupyter.widget-state+json": {"state": state}}}
    )
    assert hidden_problems(notebook) == ["a widget holds ValueError: lost"]
    warning = nbformat.v4.new_output("stream", name="stderr", text="UserWarning: careful")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1", outputs=[warning])])
    assert "UserWarning" in hidden_problems(notebook)[0]


@pytest.mark.parametrize("own", [True, False], ids=["a font of the machine", "the one that a package brings"])
def test_a_chinese_font_of_one_weight_draws_bold_labels_without_a_warning(monkeypatch, caplog, own):
    manager, brought = font_manager.fontManager, fonts.chinese_font.__wrapped__()
    if brought is None:
        pytest.skip("neither the machine nor a package has a Chinese font")
    one = next(font for font in manager.ttflist if font.name == brought and str(font.weight) not in ("bold", "700"))
    others = [font for font in manager.ttflist if font.name not in fonts.CHINESE_FONTS]
    monkeypatch.setattr(manager, "ttflist", [*others, *([replace(one, name="SimHei", weight=400)] if own else [])])
    name = fonts.chinese_font.__wrapped__()
    assert name == "SimHei" if own else name is not None
    with caplog.at_level("WARNING", logger="matplotlib.font_manager"):
        manager.findfont(font_manager.FontProperties(family=name, weight="bold"))
    assert caplog.records == []


@pytest.mark.parametrize(("value", "inside"), [(1.0, True), (2.0, True), (0.99, False), (float("nan"), False)])
def test_a_number_is_judged_and_one_outside_its_band_says_where_to_look(capsys, value, inside):
    as_expected("loss", value, 1, 2, "The rate is too high.")
    said = capsys.readouterr().out
    assert said.startswith(f"loss: {value:.4g}  (expected 1 to 2) → ")
    assert ("→ as expected\n" in said) == inside
    assert ("NOT as expected. The rate is too high. (More: docs/troubleshooting.md.)" in said) != inside


def folded_solutions(lesson) -> list[tuple[str, str]]:
    """Each exercise's folded solution, and the call of its check, in the notebook's order."""
    cells, found = read(lesson).cells, []
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    solutions = re.findall(r"<summary>Solution</summary>.*?```python\n(.*?)```", text, re.DOTALL)
    for cell in cells:
        for call, name in re.findall(r"^((?:\w+\.)?check_\w+\((my_\w+)[^)]*\))", cell.source, re.MULTILINE):
            found.append((next(code for code in solutions if f"def {name}(" in code), call))
    return found


@notebooks
def test_each_folded_solution_passes_its_check_and_a_stub_does_not(lesson):
    """With nothing at hand but what the notebook imports."""
    names: dict = {}
    for cell in read(lesson).cells:
        if cell.cell_type == "code":
            tree = ast.parse(cell.source)
            tree.body = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
            exec(compile(tree, lesson.name, "exec"), names)
    solutions = folded_solutions(lesson)
    assert len(solutions) >= 4
    for code, call in solutions:
        stubs = dict.fromkeys(re.findall(r"my_\w+", call), lambda *a, **k: None)
        assert eval(call, names | stubs).ok is None
        exec(code, names)
        verdict = eval(call, names)
        assert verdict.ok is True, f"{call}: {verdict}"


@notebooks
def test_the_minutes_of_exercises_add_up_to_what_the_header_says(lesson):
    text = "\n".join(cell.source for cell in read(lesson).cells if cell.cell_type == "markdown")
    minutes = [int(found) for found in re.findall(r"★+(?:\*\*)?(?: ·)? (\d+) min", text)]
    assert len(minutes) >= 4 and sum(minutes) == lesson.exercise_minutes


def calls_of(name: str, source: str) -> list[ast.Call]:
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == name]


@notebooks
def test_each_number_with_a_band_says_what_is_likely_wrong_outside_of_it(lesson):
    for cell in read(lesson).cells:
        for call in calls_of("as_expected", cell.source if cell.cell_type == "code" else ""):
            given = len(call.args) >= 5 or any(word.arg == "otherwise" for word in call.keywords)
            assert given or any(isinstance(word, ast.Starred) for word in call.args), ast.unparse(call)


@notebooks
def test_what_a_header_promises_keeps_to_the_limits(lesson):
    assert lesson.laptop_minutes * 60 <= lesson.limit_seconds <= (240 if lesson.number == 6 else 80)
    assert 20 <= lesson.learner_minutes <= (60 if lesson.number == 3 else 40)


@notebooks
def test_a_header_promises_the_minutes_that_its_slow_reader_needs(lesson):
    notebook = json.loads(lesson.path.read_text(encoding="utf-8"))
    waiting = lesson.laptop_minutes if lesson.laptop_minutes > 1 else 0
    needed, further = reading_minutes(notebook) + waiting, reading_minutes(notebook, FURTHER)
    assert needed <= lesson.learner_minutes <= needed + 6, f"reckoned: {needed:.1f} minutes"
    assert further <= lesson.further_minutes <= further + 6, f"reckoned: {further:.1f} minutes under Further"
    prose = "\n".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    said = re.findall(r"\n## Further\n\n.*?about (\d+) minutes", "\n" + prose)
    assert said == ([str(lesson.further_minutes)] if lesson.further_minutes else []), "what the section itself says"


@notebooks
def test_what_goes_further_is_folded_whole(lesson):
    """JupyterLab hides the cells after a folded one, so its own text ends with what the section is about."""
    folded = [cell.source for cell in read(lesson).cells if cell.metadata.get("jp-MarkdownHeadingCollapsed")]
    assert len(folded) == (1 if lesson.further_minutes else 0)
    for source in folded:
        assert "### " not in source.split("## Further\n", 1)[1] and "button below" in source


def test_the_reckoning_of_minutes_counts_what_a_reader_meets():
    words = " ".join(["word"] * 160)
    picture = {"output_type": "execute_result", "data": {"image/png": "", "text/plain": "<Figure>"}}
    notebook = {
        "cells": [
            {"cell_type": "markdown", "source": [f"## Why?\n{words}\n<details>{words}</details>"]},
            {"cell_type": "code", "source": ["import math\n", "\n", "print(1)\n" * 6], "outputs": [picture]},
            {"cell_type": "markdown", "source": [f"### Exercise 1 · A\n{words}\n<details>{words}</details>\n{words}"]},
            {"cell_type": "markdown", "source": [f"## Exercises\n{words}"]},
            {"cell_type": "markdown", "source": [f"## Further\n\n### Deeper\n{words} {words}"]},
            {"cell_type": "code", "source": ["print(1)"], "outputs": [{"output_type": "stream", "text": ["1\n"] * 30}]},
            {"cell_type": "markdown", "source": ["## Recap\n"]},
        ]
    }
    assert reading_minutes(notebook) == pytest.approx(1 + 1 + 1, abs=0.05), "a text, a cell and its picture, a text"
    assert reading_minutes(notebook, FURTHER) == pytest.approx(2 + 65 / 60, abs=0.05)


@notebooks
def test_a_notebook_opens_with_where_our_row_stands(lesson):
    first = "\n".join(cell.source for cell in read(lesson).cells[:8])
    assert "ur row" in first or "row stand" in first


@notebooks
def test_no_text_is_a_wall(lesson):
    """Folds, code and tables left out: a table is looked up, not read."""
    for cell in read(lesson).cells:
        if cell.cell_type == "markdown":
            text = re.sub(r"<details>.*?</details>|```.*?```|^\|.*?$", "", cell.source, flags=re.DOTALL | re.MULTILINE)
            assert len(text.split()) <= 190, text[:80]


@notebooks
def test_links_to_headings_of_the_docs_lead_to_a_heading(lesson):
    text = "\n".join(cell.source for cell in read(lesson).cells if cell.cell_type == "markdown")
    for target, anchor in re.findall(r"\]\(([^)\s#]+\.md)#([^)\s]+)\)", text):
        lines = (lesson.path.parent / target).read_text(encoding="utf-8").split("\n")
        headings = [
            re.sub(r"[^\w\- ]", "", line.lstrip("# ").lower()).replace(" ", "-") for line in lines if "#" in line[:1]
        ]
        assert anchor in headings, (target, anchor)


@notebooks
def test_the_text_in_place_of_a_widget_is_its_contents(lesson):
    for cell in read(lesson).cells:
        for output in cell.get("outputs", []):
            text = output.get("data", {}).get("text/plain", "")
            assert WIDGET not in output.get("data", {}) or not re.match(r"\w+\(", text), text[:80]


def test_an_export_without_a_kernel_shows_the_dashboard_as_picture_and_text():
    """nbconvert knows no widgets without their state, which is not committed."""
    nbconvert = pytest.importorskip("nbconvert")
    notebook = read(LESSONS[5])
    notebook.cells = [cell for cell in notebook.cells if cell.source.startswith("dashboard(plan")]
    html, _ = nbconvert.HTMLExporter(template_name="basic").from_notebook_node(notebook)
    assert len(notebook.cells) == 1 and "<img" in html and "data:image/png;base64" in html.replace("\n", "")
    texts = [output.data["text/plain"] for output in notebook.cells[0].outputs if WIDGET in output.get("data", {})]
    assert len(texts) == 1 and "pretrain_128" in texts[0] and "held-out loss" in texts[0]
