"""Run the seven notebooks in order without a screen, then show what was made. `python -m minimind_core.course`

Executed copies land in out/notebooks/. `--inplace` refreshes the notebooks themselves, as they are committed. A
notebook fails on any error, also one that a widget has swallowed, and on anything written to stderr.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import re
import sys
import time
from pathlib import Path

import nbformat
import psutil
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from .cli import friendly
from .errors import CourseError
from .lessons import LESSONS, Lesson
from .paths import PROJECT, SAMPLE, SAMPLE_VALID, out_dir, shown

KERNELSPEC = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
CELL_TIMEOUT = 3600 * 24 * 14  # the full run on a GPU is one cell


def execute(
    lesson: Lesson, show: bool = True, timeout: int = CELL_TIMEOUT
) -> tuple[nbformat.NotebookNode, float, float]:
    """Run a lesson's notebook in a fresh kernel; returns the executed copy, the seconds it took, and gigabytes held.

    Raises CourseError naming notebook and cell when a cell fails, a widget holds an error, or stderr was written to.
    """
    if not lesson.path.exists():
        raise CourseError(f"{shown(lesson.path)} is not there; a fresh clone has it.")
    notebook = nbformat.read(lesson.path, as_version=4)
    total = len(notebook.cells)
    started, held = time.perf_counter(), [0.0]

    def measure(cell, cell_index):
        held[0] = max(held[0], most_memory(client.km.provisioner.pid))

    def progress(cell, cell_index):
        if show:
            _status(f"{lesson.name}: cell {cell_index + 1} of {total}, {time.perf_counter() - started:.0f} s")

    client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        store_widget_state=True,
        resources={"metadata": {"path": str(lesson.path.parent)}},
        on_cell_start=progress,
        on_cell_complete=measure,
        extra_arguments=["--IPKernelApp.log_level=40"],  # no word on transport encryption
    )
    try:
        client.execute()
    except CellExecutionError as error:
        raise CourseError(f"{lesson.name} stopped: {error}") from None
    seconds = time.perf_counter() - started
    problems = hidden_problems(notebook)
    if problems:
        raise CourseError(f"{lesson.name} ran, but: " + "; ".join(problems))
    if show:
        _status(f"{lesson.name}: {total} cells, {seconds:.0f} s, {held[0]:.1f} GB of memory", last=True)
    return notebook, seconds, held[0]


def most_memory(pid: int) -> float:
    """Gigabytes that a process has held at most so far; where the system keeps no record of that, holds now."""
    status = Path(f"/proc/{pid}/status")
    if status.exists():
        peak = re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(), re.MULTILINE)
        return int(peak.group(1)) * 1024 / 1e9 if peak else 0.0
    try:
        held = psutil.Process(pid).memory_info()
    except psutil.Error:
        return 0.0
    return getattr(held, "peak_wset", held.rss) / 1e9


def hidden_problems(notebook: nbformat.NotebookNode) -> list[str]:
    """Errors and warnings that don't stop a notebook: stderr output, and error outputs inside widgets."""
    problems = []
    for number, cell in enumerate(notebook.cells, 1):
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                problems.append(f"cell {number} wrote to stderr: {output['text'].strip()[:200]}")
    widgets = notebook.metadata.get("widgets", {}).get("application/vnd.jupyter.widget-state+json", {})
    for widget in widgets.get("state", {}).values():
        for output in widget.get("state", {}).get("outputs", []) or []:
            if output.get("output_type") == "error":
                problems.append(f"a widget holds {output.get('ename')}: {output.get('evalue', '')[:200]}")
            elif output.get("name") == "stderr":
                problems.append(f"a widget shows on stderr: {output.get('text', '')[:200]}")
    return problems


def as_committed(notebook: nbformat.NotebookNode, lesson: Lesson | None = None) -> nbformat.NotebookNode:
    """A copy as it is kept in git: outputs and counts stay; widget state, time stamps and overwritten lines go.

    Header and footer are those of the table of lessons.
    """
    notebook = copy.deepcopy(notebook)
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNELSPEC, "language_info": {"name": "python"}})
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number:02d}"
        cell.metadata.pop("execution", None)
        if lesson and number == 0:
            cell.source = lesson.header
        if lesson and number == len(notebook.cells) - 1:
            cell.source = lesson.footer
        if "outputs" in cell:
            cell.outputs = _joined(cell.outputs)
        for output in cell.get("outputs", []):
            output.get("metadata", {}).clear()
            if output.output_type == "stream":
                output.text = _overwritten(output.text)
    return notebook


def _joined(outputs: list) -> list:
    """Outputs with neighbouring pieces of one stream put together: how they were cut depends on timing."""
    joined: list = []
    for output in outputs:
        last = joined[-1] if joined else None
        if last and last.output_type == output.output_type == "stream" and last.name == output.name:
            last.text += output.text
        else:
            joined.append(output)
    return joined


def _overwritten(text: str) -> str:
    """What a terminal would show: of a line with carriage returns only what was written last."""
    return "\n".join(line.rstrip("\r").rsplit("\r", 1)[-1] for line in text.split("\n"))


def _status(text: str, last: bool = False) -> None:
    """A line that overwrites itself at a terminal; elsewhere only the last state of each is printed."""
    if sys.stdout.isatty():
        print(f"\r\033[K{text}", end="\n" if last else "", flush=True)
    elif last:
        print(text, flush=True)


def run_course(lessons: list[Lesson], inplace: bool = False) -> dict[str, float]:
    """Run lessons in order, write executed copies, return seconds by name."""
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
    folder = out_dir() / "notebooks"
    folder.mkdir(parents=True, exist_ok=True)
    times = {}
    for lesson in lessons:
        notebook, times[lesson.name], _ = execute(lesson)
        kept = as_committed(notebook, lesson)
        nbformat.write(kept, folder / lesson.path.name)
        if inplace:
            nbformat.write(kept, lesson.path)
    (folder / "times.json").write_text(json.dumps(times, indent=1), encoding="utf-8")
    return times


def closing_words() -> None:
    """The model that the course made: its file, its held-out loss beside a bigram model's, and the seven prompts."""
    from .checkpoint import load_run
    from .encoding import encode_corpus
    from .eval_model import PROMPT_SUBJECTS
    from .evaluation import PretrainDataset, bigram_baseline, recalled
    from .generation import continue_text
    from .runs import list_runs

    run = next((run for run in list_runs() if run.weights.exists() and run.facts.get("complete")), None)
    if run is None:
        raise CourseError(f"{shown(out_dir())} has no finished model; lesson 06 trains one.")
    model, tokenizer, facts = load_run(run.weights)
    print(f"\nModel: {run}.")
    corpus, valid = (PROJECT / facts["corpus"]["path"], facts["train"].get("valid_path") or SAMPLE_VALID)
    on_sample = corpus == SAMPLE
    if facts.get("best_held_out_loss") is not None:
        print(
            f"Held-out loss, nats per token: lowest {facts['best_held_out_loss']:.3f} (after update "
            f"{facts['best_step']}), final {facts['held_out_loss']:.3f}",
            end="",
        )
        if on_sample:
            held_out = PretrainDataset(valid, tokenizer, model.config.max_seq_len)
            baseline = bigram_baseline(encode_corpus(corpus, tokenizer), held_out, tokenizer)
            print(f"; a bigram model of the same tokens {baseline:.3f}", end="")
        print(".\n")
    known = 0
    for prompt, subject in PROMPT_SUBJECTS.items():
        text = continue_text(model, tokenizer, prompt, temperature=0, max_new_tokens=80)
        sentence = recalled(prompt, text, corpus, subject) if on_sample else None
        known += sentence is not None
        print(f"{'✔' if sentence else ' '} {prompt}{text}")
    if on_sample:
        print(f"\n✔ {known} of {len(PROMPT_SUBJECTS)} state something that the sample states, word for word.")


@friendly
def main(argv: list[str] | None = None) -> int:
    """Run the course, or some of its lessons."""
    parser = argparse.ArgumentParser(prog="python -m minimind_core.course", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--inplace", action="store_true", help="refresh notebooks/ itself instead of only out/notebooks/"
    )
    parser.add_argument(
        "--texts", action="store_true", help="run nothing: write headers and footers of notebooks/ anew"
    )
    parser.add_argument("--only", nargs="+", type=int, metavar="N", help="run these lessons only, by number")
    args = parser.parse_args(argv)
    lessons = [lesson for lesson in LESSONS if not args.only or lesson.number in args.only]
    if not lessons:
        raise CourseError(f"--only {' '.join(map(str, args.only))}: lessons are numbered 1 to {len(LESSONS)}.")
    if args.texts:
        for lesson in lessons:
            nbformat.write(as_committed(nbformat.read(lesson.path, as_version=4), lesson), lesson.path)
        return 0
    started = time.perf_counter()
    run_course(lessons, args.inplace)
    print(
        f"{len(lessons)} notebooks in {(time.perf_counter() - started) / 60:.1f} min; copies in "
        f"{shown(out_dir() / 'notebooks')}."
    )
    if not args.only:
        closing_words()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
