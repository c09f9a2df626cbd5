"""The chooser of lesson 07's widget: which models of out/ may speak, and what is known of each of them by now.

Training may go on while the notebook is open, so the files are looked at again whenever it matters. Left out: what the
chosen model writes (continuation.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import torch
from tokenizers import Tokenizer

from ..checkpoint import load_run, read_facts, read_torch_file, unwrapped
from ..config import ModelConfig
from ..errors import CheckpointError
from ..model import MiniMindLM
from ..paths import out_dir
from ..preflight import spoken_time
from ..runs import all_runs
from .parts import looks

OWN = "the notebook's model"


# --- what is known of a file ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelFile:
    """A weights file under its name in the chooser, and what its run's config.json says of it.

    `size` in bytes, `written` in seconds since 1970. Without `facts` the name is all that is known.
    """

    name: str
    path: Path
    facts: Mapping[str, Any] = field(default_factory=dict)
    size: int = 0
    written: float = 0.0

    def label(self, now: float | None = None) -> str:
        """'pretrain_128 · 840 updates · held-out loss 5.62 · 4.4 MB · 3 min old'."""
        if not self.facts:
            return self.name
        words = [self.name, f"{self.facts.get('step') or 0:,} updates"]
        if self.facts.get("held_out_loss") is not None:
            words.append(f"held-out loss {self.facts['held_out_loss']:.2f}")
        elif self.facts.get("loss") is not None:
            words.append(f"loss {self.facts['loss']:.2f}")
        age = max(0.0, (time.time() if now is None else now) - self.written)
        return " · ".join([*words, f"{self.size / 1e6:.1f} MB", f"{spoken_time(age)} old"])


def look(name: str, path: Path) -> ModelFile | None:
    """What a weights file and its config.json say now; None for what is no whole model, or not there."""
    try:
        facts, file = read_facts(path), path.stat()
    except (CheckpointError, OSError):
        return None
    return ModelFile(name, path, facts, file.st_size, file.st_mtime) if facts else None


def files_in(folder: str | Path | None = None) -> list[ModelFile]:
    """The weights files of a folder (default out/), newest run first, each with its snapshots."""
    found = []
    for name, run in all_runs(folder).items():
        found.append(look(name, run.weights))
        found += [look(f"{name}, {path.stem}", path) for path in sorted((run.folder / "snapshots").glob("*.pth"))]
    return [file for file in found if file is not None]


def origin(model: MiniMindLM, files: Iterable[ModelFile]) -> ModelFile | None:
    """The first of these files that holds exactly these weights, or None; a model does not know where it comes from.

    Read are only files whose configuration is the model's.
    """
    model, own = unwrapped(model), {}
    for file in files:
        if ModelConfig.from_dict(file.facts["model"]) != model.config:
            continue
        own = own or {key: value.detach().float().cpu() for key, value in model.state_dict().items()}
        try:
            kept = read_torch_file(file.path)
            if kept.keys() == own.keys() and all(torch.equal(kept[key].float(), own[key]) for key in own):
                return file
        except Exception:  # it has vanished, is damaged or holds something else: not this one
            continue
    return None


# --- the chooser ------------------------------------------------------------------------------------------------------


class ModelChoice:
    """A drop-down of models, the notebook's own first. `take` gets each model that is chosen, `say` what went wrong.

    An entry keeps its place while the widget lives, and new ones come last: a browser says only the number of what was
    chosen, perhaps in a list that is a moment old. The chosen entry goes on describing the weights that were loaded,
    whatever becomes of their file. `files` keep the labels that they are given with; None stands for those in out/.
    """

    def __init__(
        self,
        model: MiniMindLM,
        tokenizer: Tokenizer,
        files: Mapping[str, Path] | None,
        take: Callable[[MiniMindLM, Tokenizer], None],
        say: Callable[[Exception], None],
    ) -> None:
        self.own, self.take, self.say = (model, tokenizer), take, say
        self.follows_out, self.chosen, self._deaf = files is None, 0, False
        self.there: dict[Path, ModelFile] = {}  # as of the last look
        mine, others = ModelFile(OWN, Path()), []
        if files is None:
            self._look()
            others = list(self.there.values())
            found = origin(model, [*others, *_files_of_quick_model()])
            mine = replace(found, name=f"{OWN}: {found.name}") if found else mine
        else:
            others = [ModelFile(label, Path(path)) for label, path in files.items()]
        self.entries = [mine, *others]
        self._labels = self._labels_now()
        self.dropdown = widgets.Dropdown(options=_numbered(self._labels), description="Model", **looks("60px", "100%"))
        self.dropdown.observe(lambda _: self._choose(), "index")

    @property
    def name(self) -> str:
        """The chosen model's name, for a list of texts; "" for the notebook's own."""
        return self.entries[self.chosen].name.split(" · ")[0] if self.chosen else ""

    def refresh(self) -> None:
        """Look at the files again: other ages and losses, new models. The chosen one stays chosen."""
        if self.follows_out:
            self._look()
            places = {entry.path: number for number, entry in enumerate(self.entries) if number}
            for path, file in self.there.items():
                if path not in places:
                    self.entries.append(file)
                elif places[path] != self.chosen:
                    self.entries[places[path]] = file
        self._show(self._labels_now())

    def _look(self) -> None:
        with suppress(OSError):  # a run that is just being moved aside, or may not be read: the list stays as it was
            self.there = {file.path: file for file in files_in()}

    def _labels_now(self) -> list[str]:
        now = time.time()
        return [entry.label(now) + self._what_became(number) for number, entry in enumerate(self.entries)]

    def _what_became(self, number: int) -> str:
        """A word on the file of an entry that is not what the entry describes."""
        if not self.follows_out or number == 0:
            return ""
        entry = self.entries[number]
        file = self.there.get(entry.path)
        if file is None:
            return " · no longer there"
        changed = file.facts.get("weights_sha256") != entry.facts.get("weights_sha256")
        return " · its file has changed since" if changed else ""

    def _show(self, labels: list[str]) -> None:
        """Labels and the chosen place to the browser, in one message and only where they differ."""
        self._deaf = True
        try:
            with self.dropdown.hold_sync():  # new options take the index to 0; nobody has to hear of that
                if labels != self._labels:
                    self.dropdown.options, self._labels = _numbered(labels), labels
                self.dropdown.index = self.chosen
        finally:
            self._deaf = False

    def _choose(self) -> None:
        """The chosen model takes over; of one that cannot be loaded it is said why, and the one before stays."""
        number = self.dropdown.index
        if self._deaf or number in (None, self.chosen):
            return
        try:
            model, tokenizer = self._load(number) if number else self.own
        except Exception as problem:
            self.say(problem)
        else:
            self.chosen = number
            self.take(model, tokenizer)
        self.refresh()

    def _load(self, number: int) -> tuple[MiniMindLM, Tokenizer]:
        """Model and tokenizer of an entry, which describes them from then on."""
        entry, device = self.entries[number], next(self.own[0].parameters()).device
        for _ in range(3):  # a run that saves meanwhile would leave old weights under a new label
            before = look(entry.name, entry.path)
            model, tokenizer, _ = load_run(entry.path, device)
            if before == look(entry.name, entry.path):
                break
        if self.follows_out and before is not None:
            self.entries[number] = before
        return model, tokenizer


def _numbered(labels: Iterable[str]) -> list[tuple[str, int]]:
    """Options whose values stay the same when their labels change."""
    return [(label, number) for number, label in enumerate(labels)]


def _files_of_quick_model() -> list[ModelFile]:
    """What `quick_model` trained where there was no other model: it may be the notebook's, and is no other choice."""
    try:
        return files_in(out_dir() / "quick")
    except OSError:
        return []
