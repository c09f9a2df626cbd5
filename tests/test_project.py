"""The project as a whole: which module may import which, public names, the rules for notebooks, and the README."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

import minimind_core
from minimind_core import ModelConfig, TrainConfig
from minimind_core.paths import PROJECT

PACKAGE = PROJECT / "minimind_core"
NOTEBOOKS = [
    "01_data_inspection",
    "02_tokenizer_and_loss_mask",
    "03_model_and_moe",
    "04_lr_schedule",
    "05_amp_and_accumulation",
    "06_pretraining",
    "07_continuation",
]
# From bottom to top: a module may import what stands in its own line or above it.
ORDER = [
    "errors paths memory files cache_files storage fonts lessons distributed clock progress config shuffle splits",
    "broken_lines plain_text corpus tokenizer full_run",
    "encoder encoding dataset batches prefetch corpus_tokenizer",
    "blockwise layers",
    "moe",
    "model",
    "schedule optim precision training checkpoint tracking hosts wandb_server wandb_mirror decoding supervisor",
    "generation evaluation cli plan run_lock run_state run_files interrupts faults fitting compiling saver reporting",
    "trainer runs_on_disk runs run_status quick preflight download doctor",
    "train_pretrain eval_model checks",
    "plots",
    "widgets",
    "notebook course",
]
PUBLIC = (
    "ModelConfig TrainConfig RECIPES PROFILES MiniMindLM load_tokenizer train_tokenizer PretrainDataset PackedDataset "
    "get_lr train_epoch Trainer generate stream save_weights load_model quick_model held_out_loss PROMPTS"
)


def module_name(path: Path) -> str:
    parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"}


def imports_of(name: str) -> set[str]:
    """The project's modules that a module imports, anywhere in its text."""
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    package = name.split(".") if MODULES[name].stem == "__init__" else name.split(".")[:-1]
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            if node.level:
                base = package[: len(package) - node.level + 1]
            elif node.module and node.module.split(".")[0] == "minimind_core":
                base = []
            else:
                continue
            inner = (node.module or "").removeprefix("minimind_core").strip(".")
            target = ".".join([*base, *([inner] if inner else [])])
            for alias in node.names:
                longer = f"{target}.{alias.name}".strip(".")
                found.add(longer if longer in MODULES else target)
        elif isinstance(node, ast.Import):
            found |= {a.name.removeprefix("minimind_core.") for a in node.names if a.name.startswith("minimind_core.")}
    return {target for target in found if target and target != name}


IMPORTS = {name: imports_of(name) for name in MODULES}


# --- the package --------------------------------------------------------------------------------------------------


def test_imports_never_go_in_a_circle():
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> None:
        assert name not in path, "a circle: " + " → ".join([*path[path.index(name) :], name])
        if name not in done:
            for target in sorted(IMPORTS.get(name, ())):
                visit(target, [*path, name])
            done.add(name)

    for name in MODULES:
        visit(name, [])


def test_imports_point_one_way():
    rank = {name: level for level, line in enumerate(ORDER) for name in line.split()}
    parts = {name: name.split(".")[0] for name in MODULES}
    assert set(parts.values()) <= set(rank), "a new module needs a place in ORDER"
    wrong = [
        f"{name} imports {target}"
        for name, targets in IMPORTS.items()
        for target in sorted(targets)
        if rank[parts[name]] < rank[target.split(".")[0]]
    ]
    assert wrong == []


def test_plots_and_widgets_are_imported_by_nothing_below_them():
    importers = {
        name for name, targets in IMPORTS.items() if any(t.split(".")[0] in ("plots", "widgets") for t in targets)
    }
    assert {name.split(".")[0] for name in importers} <= {"plots", "widgets", "notebook", "course"}


def test_each_module_can_be_the_first_to_be_imported():
    code = (
        "import importlib, sys\n"
        f"for name in {sorted(MODULES)!r}:\n"
        "    for known in [n for n in sys.modules if n.split('.')[0] == 'minimind_core']: del sys.modules[known]\n"
        "    importlib.import_module('minimind_core.' + name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-1500:]


def test_every_public_name_can_be_imported_from_the_package():
    assert set(PUBLIC.split()) <= set(minimind_core.__all__)
    for name in minimind_core.__all__:
        assert getattr(minimind_core, name) is not None, name
        assert name in dir(minimind_core)


def test_no_public_name_is_hidden_by_a_module_of_the_same_name():
    for name in MODULES:
        importlib.import_module(f"minimind_core.{name}")
    for name in minimind_core.__all__:
        assert not inspect.ismodule(getattr(minimind_core, name)), name
    assert set(minimind_core.__all__).isdisjoint(MODULES)


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="minimind_core has no 'teapot'"):
        _ = minimind_core.teapot


@pytest.mark.parametrize("name", MODULES)
def test_every_module_says_why_it_is_there(name):
    first = ast.get_docstring(ast.parse(MODULES[name].read_text(encoding="utf-8")))
    assert first and len(first) > 40


def test_every_public_function_and_class_explains_itself():
    silent = []
    for name in minimind_core.__all__:
        value = getattr(minimind_core, name)
        if (inspect.isfunction(value) or inspect.isclass(value)) and not (value.__doc__ or "").strip():
            silent.append(name)
    assert silent == []


# --- the notebooks ------------------------------------------------------------------------------------------------


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(PROJECT / "notebooks" / f"{name}.ipynb", as_version=4)


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def test_the_lessons_are_these_seven():
    from minimind_core.lessons import LESSONS

    assert [lesson.name for lesson in LESSONS] == NOTEBOOKS
    assert sorted(p.stem for p in (PROJECT / "notebooks").glob("*.ipynb")) == NOTEBOOKS


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_valid_and_for_any_python_3(name):
    notebook = read(name)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3" and notebook.nbformat == 4


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_keeps_no_widget_state(name):
    assert "widgets" not in read(name).metadata


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_holds_the_outputs_of_one_run_from_top_to_bottom(name):
    cells = code_cells(read(name))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_shows_no_errors_and_no_warnings(name):
    for number, cell in enumerate(code_cells(read(name)), 1):
        for output in cell.outputs:
            assert output.output_type != "error", f"code cell {number}: {output.get('ename')}"
            assert output.get("name") != "stderr", f"code cell {number} wrote to stderr: {output.text[:200]}"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_has_at_least_three_things_to_look_at(name):
    visual = {"image/png", "image/svg+xml", "text/html", "application/vnd.jupyter.widget-view+json"}
    shown = [o for cell in code_cells(read(name)) for o in cell.outputs if visual & set(o.get("data", {}))]
    assert len(shown) >= 3


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebooks_pictures_have_words_for_those_who_cannot_see_them(name):
    for cell in read(name).cells:
        if cell.cell_type == "markdown":
            assert not re.search(r"!\[\s*\]\(", cell.source), cell.source[:200]
            for tag in re.findall(r"<img\b[^>]*>", cell.source):
                assert re.search(r"alt=[\"'][^\"']+", tag), tag


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_begins_with_its_number_and_title(name):
    first = read(name).cells[0]
    assert first.cell_type == "markdown" and re.match(rf"# {name[:2]} · \S", first.source)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebooks_outputs_do_not_show_where_it_was_run(name):
    for number, cell in enumerate(code_cells(read(name)), 1):
        shown = str(cell.outputs).replace("/root/autodl-tmp", "")
        found = re.search(r"(?<![\w.])/(home|root|Users|tmp|work|mnt)/[\w.-]+", shown)
        assert not found, f"code cell {number} shows {found[0]}"


# --- the README ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def readme() -> str:
    return (PROJECT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("words", ["make course", "make test", "make lab", *NOTEBOOKS])
def test_the_readme_names_the_commands_and_the_seven_notebooks(readme, words):
    assert words in readme


def test_the_readme_is_filled_in(readme):
    assert re.findall(r"@[A-Z_]+@|(?:TO|FIX)(?:DO|ME)", readme) == []


TEXTS = [PROJECT / "README.md", PROJECT / "dataset" / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.relative_to(PROJECT).as_posix())
def test_links_and_pictures_lead_to_files(path):
    links = re.findall(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)", path.read_text(encoding="utf-8"))
    assert any(mark for mark, _, _ in links) or path.name != "README.md" or path.parent != PROJECT
    for mark, words, target in links:
        assert words.strip() or not mark, f"{target} has no words for those who cannot see it"
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        there = path.parent / file if file else path
        assert there.exists(), target
        if anchor and there.suffix == ".md":
            assert anchor in headings(there), target


def headings(path: Path) -> set[str]:
    """The anchors that GitHub and JupyterLab give a text's headings."""
    titles = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.relative_to(PROJECT).as_posix())
def test_flags_that_a_text_advises_exist(path):
    text = "\n".join(
        line
        for line in path.read_text(encoding="utf-8").splitlines()
        if not re.search("docker|torchrun|rsync|exclude", line)
    )
    known = {f.name for config in (TrainConfig, ModelConfig) for f in dataclasses.fields(config)}
    known |= {*inspect.signature(minimind_core.generate).parameters, "weights", "prompt", "to", "help"}
    known |= {"index-url", "ServerApp", "LabApp", "no-browser", "port", "ip"}  # pip's and JupyterLab's
    known |= {"user", "name", "display-name", "env", "dry-run", "base"}  # ipykernel's, set-up's, conda's
    assert set(re.findall(r"(?<![\w-])--([A-Za-z][\w-]*)", text)) <= known


def test_the_readme_leads_from_symptoms_to_remedies(readme):
    assert "docs/troubleshooting.md" in readme and "docs/faults.md" in readme
