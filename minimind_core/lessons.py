"""The seven lessons in one table: README, notebook headers, the course runner and the tests all read it here.

Minutes are computing time of a whole notebook, measured; None means "not measured yet".
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .paths import PROJECT


@dataclass(frozen=True)
class Lesson:
    """One notebook: its file name, what a learner can do after it, the modules it explains, its computing time."""

    number: int
    name: str
    title: str
    able: str
    modules: tuple[str, ...]
    laptop_minutes: float | None
    gpu_minutes: float | None
    limit_seconds: int = 80

    @property
    def path(self) -> Path:
        """The notebook's file."""
        return PROJECT / "notebooks" / f"{self.name}.ipynb"

    @property
    def time_line(self) -> str:
        """The line about time in the notebook's header; `make notebooks` writes it there."""
        laptop, gpu = spoken_minutes(self.laptop_minutes), spoken_minutes(self.gpu_minutes)
        return f"**Time** Computing: laptop {laptop} · RTX 4090 {gpu}"


def spoken_minutes(minutes: float | None) -> str:
    """'0.6 min', or 'not measured yet'."""
    return "not measured yet" if minutes is None else f"{minutes:.1f} min"


LESSONS = (
    Lesson(
        1,
        "01_data_inspection",
        "Looking at the data",
        "read a pretraining corpus the way the loader does, and see what is wrong with it",
        ("corpus", "download"),
        0.1,
        None,
    ),
    Lesson(
        2,
        "02_tokenizer_and_loss_mask",
        "From text to tokens, and which of them count",
        "train a BPE tokenizer and say for every position what the model reads, what it should say, and if that counts",
        ("tokenizer", "encoding", "dataset"),
        0.2,
        None,
    ),
    Lesson(
        3,
        "03_model_and_moe",
        "The model, part by part",
        "build a Llama-style decoder with grouped attention and experts, and prove it equal to the one that trains",
        ("config", "layers", "moe", "model"),
        0.7,
        None,
    ),
    Lesson(
        4,
        "04_lr_schedule",
        "The learning rate over a run",
        "read a learning-rate schedule, compute the seed's number at any step, and see what other shapes do",
        ("schedule", "optim"),
        0.4,
        None,
    ),
    Lesson(
        5,
        "05_amp_and_accumulation",
        "Numbers of 16 bits, and big batches on small cards",
        "say when a gradient underflows, when a scaler helps, and when accumulated micro-batches equal one big batch",
        ("precision", "training"),
        0.1,
        None,
    ),
    Lesson(
        6,
        "06_pretraining",
        "The full run",
        "start a pretraining run, watch it, interrupt it, resume it, and tell learning from memorising",
        ("plan", "trainer", "saver", "run_state", "faults", "checkpoint", "tracking", "preflight"),
        4.1,
        None,
        240,
    ),
    Lesson(
        7,
        "07_continuation",
        "A model that continues a sentence",
        "continue a text with the model you trained, turn the knobs of sampling, and measure what the model knows",
        ("generation", "evaluation", "runs"),
        0.2,
        None,
    ),
)


def readme_table() -> str:
    """The README's table of lessons, which a test compares with the file."""
    rows = ["| notebook | after it you can | laptop | RTX 4090 |", "|---|---|---|---|"]
    for lesson in LESSONS:
        link = f"[{lesson.number:02d} · {lesson.title}](notebooks/{lesson.path.name})"
        laptop, gpu = spoken_minutes(lesson.laptop_minutes), spoken_minutes(lesson.gpu_minutes)
        rows.append(f"| {link} | {lesson.able} | {laptop} | {gpu} |")
    return "\n".join(rows)
