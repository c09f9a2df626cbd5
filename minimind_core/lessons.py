"""The seven lessons in one table: README, notebook headers and footers, the course runner and the tests all read it.

Minutes are computing time of a whole notebook, gigabytes the most memory that its kernel held, both measured
(`make notebooks` prints them); None means "not measured yet". A learner's minutes are reckoned from what a notebook
holds, at a slow reader's pace, which tests/reading_time.py states.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

from .paths import PROJECT


@dataclass(frozen=True)
class Lesson:
    """One notebook: its file name, what a learner can do after it, the functions it explains, what it takes.

    `explains` names functions and classes by module: "corpus: iter_rows describe".
    """

    number: int
    name: str
    title: str
    able: str
    explains: tuple[str, ...]
    learner_minutes: int  # to read, run and look
    exercise_minutes: int  # on top of it; the sum of what stands beside the exercises
    laptop_minutes: float | None
    laptop_gigabytes: float | None
    gpu_minutes: float | None = None
    limit_seconds: int = 80
    further_minutes: int = 0  # for what goes deeper and is folded, on top of learner_minutes

    @property
    def path(self) -> Path:
        """The notebook's file."""
        return PROJECT / "notebooks" / f"{self.name}.ipynb"

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules that it explains."""
        return tuple(line.split(":")[0] for line in self.explains)

    @property
    def time_line(self) -> str:
        """The line about time in the notebook's header."""
        laptop, gpu = spoken_minutes(self.laptop_minutes), spoken_minutes(self.gpu_minutes)
        memory = "" if self.laptop_gigabytes is None else f" and {self.laptop_gigabytes:.1f} GB of memory"
        further = f", {self.further_minutes} more for what is folded under *Further*" if self.further_minutes else ""
        return (
            f"**Time** About {self.learner_minutes} minutes of yours{further}, and {self.exercise_minutes} for the "
            "exercises. "
            f"Computing: laptop {laptop}{memory} · RTX 4090 {gpu}"
        )

    @property
    def neighbours(self) -> str:
        """Links to the lessons before and after it."""
        links = []
        if self.number > 1:
            before = LESSONS[self.number - 2]
            links.append(f"[← {before.number:02d} · {before.title}]({before.path.name})")
        if self.number < len(LESSONS):
            after = LESSONS[self.number]
            links.append(f"[{after.number:02d} · {after.title} →]({after.path.name})")
        return " · ".join(links)

    @property
    def header(self) -> str:
        """The notebook's first cell."""
        return (
            f"# {self.number:02d} · {self.title}\n\nAfter this notebook you can {self.able}.\n\n{self.time_line}\n\n"
            f"{self.neighbours}"
        )

    @property
    def footer(self) -> str:
        """The notebook's last cell: where to go next, the code behind it, and where to look when something is wrong."""
        lines = []
        for line in self.explains:
            module, names = line.split(":")
            where, places = f"../minimind_core/{module}.py", places_of(module)
            links = ", ".join(f"[`{name}`]({where}#L{places[name]})" for name in names.split())
            lines.append(f"- [{module}.py]({where}): {links}")
        return (
            f"{self.neighbours}\n\nThe code behind this lesson:\n\n" + "\n".join(lines) + "\n\nSomething looks wrong? "
            "[docs/troubleshooting.md](../docs/troubleshooting.md) goes from what you see to what to do."
        )


def places_of(module: str) -> dict[str, int]:
    """The line on which each function and class of a module of minimind_core begins."""
    source = (PROJECT / "minimind_core" / f"{module}.py").read_text(encoding="utf-8")
    kinds = (ast.FunctionDef, ast.ClassDef)
    return {node.name: node.lineno for node in ast.parse(source).body if isinstance(node, kinds)}


def spoken_minutes(minutes: float | None) -> str:
    """'0.6 min', or 'not measured yet'."""
    return "not measured yet" if minutes is None else f"{minutes:.1f} min"


LESSONS = (
    Lesson(
        number=1,
        name="01_data_inspection",
        title="Looking at the data",
        able="read a pretraining corpus the way the loader does, and see what is wrong with it",
        explains=(
            "corpus: iter_rows describe split_segments marker_edition normalise_markers",
            "plain_text: plain_rows",
            "download: download",
        ),
        learner_minutes=40,
        exercise_minutes=65,
        laptop_minutes=0.2,
        laptop_gigabytes=0.4,
        further_minutes=15,
    ),
    Lesson(
        number=2,
        name="02_tokenizer_and_loss_mask",
        title="From text to tokens, and which of them count",
        able=(
            "train a BPE tokenizer and say for every position what the model reads, what it should say, and whether "
            "it counts"
        ),
        explains=(
            "tokenizer: train_tokenizer pieces TextStream",
            "corpus_tokenizer: tokenizer_for",
            "encoding: encode_corpus",
            "dataset: PretrainDataset PackedDataset",
            "training: masked_cross_entropy",
        ),
        learner_minutes=40,
        exercise_minutes=55,
        laptop_minutes=0.3,
        laptop_gigabytes=0.8,
        further_minutes=15,
    ),
    Lesson(
        number=3,
        name="03_model_and_moe",
        title="The model, part by part",
        able=(
            "build a Llama-style decoder with grouped attention and experts, and prove it equal to the one that trains"
        ),
        explains=(
            "config: ModelConfig",
            "layers: RMSNorm apply_rotary LayerCache Attention causal_attention FeedForward",
            "moe: MoEGate MoEFeedForward",
            "model: MiniMindBlock MiniMindLM parameter_count active_parameter_count",
        ),
        learner_minutes=60,
        exercise_minutes=70,
        laptop_minutes=1.0,
        laptop_gigabytes=0.9,
        further_minutes=25,
    ),
    Lesson(
        number=4,
        name="04_lr_schedule",
        title="The learning rate over a run",
        able="read a learning-rate schedule, compute MiniMind's rate at any step, and see what other shapes do",
        explains=(
            "schedule: get_lr learning_rate warmup",
            "optim: build_optimizer split_parameters",
            "training: Hooks",
        ),
        learner_minutes=40,
        exercise_minutes=50,
        laptop_minutes=1.0,
        laptop_gigabytes=0.6,
        further_minutes=20,
    ),
    Lesson(
        number=5,
        name="05_amp_and_accumulation",
        title="Numbers of 16 bits, and big batches on small cards",
        able=(
            "say when a gradient underflows, when a scaler helps, and when accumulated micro-batches equal one big "
            "batch"
        ),
        explains=(
            "precision: pick_dtype autocast_context make_scaler",
            "training: train_epoch masked_cross_entropy Hooks",
            "optim: Muon orthogonalize",
            "preflight: training_memory",
        ),
        learner_minutes=40,
        exercise_minutes=45,
        laptop_minutes=0.4,
        laptop_gigabytes=0.6,
        further_minutes=25,
    ),
    Lesson(
        number=6,
        name="06_pretraining",
        title="The full run",
        able="start a pretraining run, watch it, interrupt it, resume it, and tell learning from memorising",
        explains=(
            "plan: plan_run",
            "trainer: Trainer",
            "saver: Saver",
            "run_state: state_of restore",
            "faults: is_out_of_memory",
            "tracking: read_metrics",
            "preflight: estimate",
            "checkpoint: save_weights load_run",
        ),
        learner_minutes=40,
        exercise_minutes=41,
        laptop_minutes=3.6,
        laptop_gigabytes=0.8,
        limit_seconds=240,
        further_minutes=10,
    ),
    Lesson(
        number=7,
        name="07_continuation",
        title="A model that continues a sentence",
        able="continue a text with the model you trained, turn the knobs of sampling, and measure what the model knows",
        explains=(
            "quick: quick_model",
            "generation: generate stream continue_text next_token_logits",
            "evaluation: held_out_loss token_losses bigram_rows fit_bigram",
            "runs_on_disk: list_runs",
        ),
        learner_minutes=40,
        exercise_minutes=36,
        laptop_minutes=0.5,
        laptop_gigabytes=0.5,
        further_minutes=15,
    ),
)


def readme_table() -> str:
    """The README's table of lessons, which a test compares with the file."""
    rows = ["| notebook | after it you can | yours | laptop | RTX 4090 |", "|---|---|---|---|---|"]
    for lesson in LESSONS:
        link = f"[{lesson.number:02d} · {lesson.title}](notebooks/{lesson.path.name})"
        laptop, gpu = spoken_minutes(lesson.laptop_minutes), spoken_minutes(lesson.gpu_minutes)
        rows.append(f"| {link} | {lesson.able} | {lesson.learner_minutes} min | {laptop} | {gpu} |")
    return "\n".join(rows)
