"""From a handful of flags to everything that a run needs: device, profile, corpus, tokenizer, rows, and how many steps.

`plan_run()` decides, and keeps a sentence on each decision in `notes`; notebook and command line both start from it.
Nothing is trained here. Left out: whether it will fit and how long it takes (preflight.py).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from .batches import EpochBatches
from .checkpoint import weights_path
from .config import PROFILES, RECIPES, ModelConfig, Recipe, TrainConfig, profile_for
from .corpus import default_corpus, existing_file
from .corpus_tokenizer import tokenizer_for
from .dataset import PackedDataset, PretrainDataset
from .encoding import FORMAT as ENCODING_FORMAT
from .encoding import EncodedCorpus, encode_corpus
from .errors import ConfigError
from .model import weight_shapes
from .paths import SAMPLE, SAMPLE_VALID, out_dir, shown
from .precision import describe_device, pick_dtype, run_device
from .storage import loading_processes
from .tokenizer import load_tokenizer


@dataclass(frozen=True)
class RunPlan:
    """A run that is ready to start. Steps are micro-steps; `updates` are optimizer steps."""

    model: ModelConfig
    train: TrainConfig
    recipe: Recipe
    device: torch.device
    dtype: torch.dtype
    tokenizer: Tokenizer
    corpus: EncodedCorpus
    train_set: PretrainDataset | PackedDataset
    held_out: PretrainDataset | None
    weights: Path
    processes: int
    rows_per_epoch: int
    iter_per_epoch: int
    total_steps: int
    updates: int
    notes: tuple[str, ...]
    fitted: bool = False  # whether the micro-batch is known to fit into memory (fitting.py)

    @cached_property
    def parameters(self) -> int:
        """Numbers in the model, the tied matrix counted once."""
        shapes = weight_shapes(self.model)
        return sum(math.prod(shape) for name, shape in shapes.items() if name != "output.weight")

    @property
    def gpu_is_missing(self) -> bool:
        """Whether a GPU was asked for and there is none, so that the CPU is used."""
        return self.device.type == "cpu" and self.train.device.startswith(("cuda", "mps"))

    @property
    def tokens_per_epoch(self) -> int:
        """Tokens that an epoch is trained on, padding not counted."""
        if isinstance(self.train_set, PackedDataset):
            return self.rows_per_epoch * self.train_set.block_length
        return self.train_set.tokens()

    def identity(self) -> dict[str, Any]:
        """What a resumed run must have in common with the run that it goes on."""
        kept = ("batch_size", "accumulation_steps", "epochs", "max_steps", "learning_rate", "grad_clip", "warmup_iters")
        return {
            "corpus": self.corpus.sha256,
            "tokenizer": self.corpus.tokenizer_sha256,
            "model": self.model.to_dict(),
            "training rows": self.train_set.split,
            "number of processes": self.processes,
            "dtype": str(self.dtype).removeprefix("torch."),
            "recipe": self.train.recipe,
            **{name: getattr(self.train, name) for name in (*kept, "seed")},
            "recipe's details": asdict(self.recipe),
            "encoding": ENCODING_FORMAT,
        }

    def flags(self) -> dict[str, Any]:
        """Flags of train_pretrain that plan the same run, whatever folder, profile or corpus is the usual one then."""
        places = {"data_path": self.train.data_path, "valid_path": self.train.valid_path}
        if self.train.tokenizer and Path(self.train.tokenizer).exists():
            places["tokenizer"] = self.train.tokenizer
        absolute = {name: str(Path(path).resolve()) for name, path in places.items() if path}
        settings = self.model.to_dict() | self.train.to_dict() | absolute
        settings["out_dir"] = str(self.weights.resolve().parent)
        return {name: value for name, value in settings.items() if value is not None}

    @property
    def held_out_sha256(self) -> str | None:
        """A sum over the file of the held-out rows, if there are any."""
        return self.held_out.corpus.sha256 if self.held_out is not None else None

    def names(self) -> dict[str, str]:
        """Where the things that `identity` knows by a sum of their bytes were found."""
        return {"corpus": shown(self.corpus.path), "tokenizer": self.train.tokenizer or "trained on the corpus"}


def plan_run(world_size: int = 1, local_rank: int = 0, profile: str | None = None, **given: Any) -> RunPlan:
    """Decide everything that the flags in `given` (fields of TrainConfig and ModelConfig) leave open.

    A field that isn't given comes from `profile` (default: the device's) when neither dim nor n_layers is given, else
    from the seed's defaults. Raises ConfigError, CorpusError or TokenizerError, each saying what to do.
    """
    given = {name: value for name, value in given.items() if value is not None}
    device, missing = run_device(given.get("device", "auto"), world_size, local_rank)
    notes = [*([missing] if missing else []), f"Device: {describe_device(device)}."]
    model, train, epochs = _fill_in(given, device, profile, notes)
    dtype, why = pick_dtype(train.dtype, device, train.recipe)
    notes.append(f"Numbers: {why}.")
    path = _pick_corpus(train, notes)
    tokenizer = _pick_tokenizer(train, model, path, notes)
    if tokenizer.get_vocab_size() > model.vocab_size:
        if "vocab_size" in given:
            raise ConfigError(
                f"vocab_size={model.vocab_size}, but the tokenizer has {tokenizer.get_vocab_size()} tokens: "
                "leave --vocab_size out, or give at least that many."
            )
        model = ModelConfig.from_dict(model.to_dict() | {"vocab_size": tokenizer.get_vocab_size()})
        notes.append(f"Vocabulary: widened to the tokenizer's {model.vocab_size} tokens.")
    corpus = encode_corpus(path, tokenizer)
    if set(corpus.editions) - {"s", "none"}:
        notes.append("Markers: <|im_start|> and <|im_end|> are read as <s> and </s>.")
    if "epochs" not in given and path.resolve() == SAMPLE.resolve():
        train = TrainConfig.from_dict(train.to_dict() | {"epochs": epochs})
    train = TrainConfig.from_dict(train.to_dict() | {"epochs": train.epochs or 1, "data_path": str(path)})
    train_set, held_out = _pick_rows(train, model, corpus, path, tokenizer, notes)
    workers, note = loading_processes(train.num_workers, train.batch_size * model.max_seq_len * 3 * 8)
    if note:
        train, notes = replace(train, num_workers=workers), [*notes, note]
    folder = Path(train.out_dir) if train.out_dir else out_dir()
    return RunPlan(
        model=model,
        train=train,
        recipe=RECIPES[train.recipe],
        device=device,
        dtype=dtype,
        tokenizer=tokenizer,
        corpus=corpus,
        train_set=train_set,
        held_out=held_out,
        weights=weights_path(folder, model.dim, model.use_moe),
        processes=world_size,
        notes=tuple(notes),
        **_lengths(train, len(train_set), world_size),
    )


def _lengths(train: TrainConfig, rows: int, processes: int) -> dict[str, int]:
    """How long a run over `rows` rows is: rows and micro-steps of an epoch, micro-steps and updates in all."""
    packed = RECIPES[train.recipe].rows == "packed"
    batches = EpochBatches(rows, train.batch_size, False, whole_only=packed, world=processes)
    iter_per_epoch = len(batches)
    per_epoch = -(-iter_per_epoch // train.accumulation_steps)
    updates, total_steps = per_epoch * train.epochs, iter_per_epoch * train.epochs
    if train.max_steps is not None:
        if train.max_steps < updates:
            whole, rest = divmod(train.max_steps, per_epoch)
            total_steps = whole * iter_per_epoch + rest * train.accumulation_steps
        updates = min(updates, train.max_steps)
    return {
        "rows_per_epoch": batches.used,
        "iter_per_epoch": iter_per_epoch,
        "total_steps": total_steps,
        "updates": updates,
    }


def pieces(batch: int, accumulation: int) -> list[int]:
    """Sizes of micro-batch that make up the same update as `accumulation` of `batch`, largest first."""
    return [rows for rows in range(batch, 0, -1) if batch * accumulation % rows == 0]


def smaller_pieces(train: TrainConfig) -> str:
    """The flags that make the same updates in pieces of about half the size."""
    batch, accumulation = train.batch_size, train.accumulation_steps
    smaller = next(rows for rows in pieces(batch, accumulation) if rows <= max(1, batch // 2))
    return f"--batch_size {smaller} --accumulation_steps {batch * accumulation // smaller}"


def with_batch(plan: RunPlan, batch_size: int, accumulation_steps: int, why: str) -> RunPlan:
    """The plan with other pieces of an update, and a note on why."""
    train = replace(plan.train, batch_size=batch_size, accumulation_steps=accumulation_steps)
    note = (
        f"Micro-batch: {batch_size} rows × {accumulation_steps} instead of {plan.train.batch_size} × "
        f"{plan.train.accumulation_steps}, since {why}."
    )
    lengths = _lengths(train, len(plan.train_set), plan.processes)
    return replace(plan, train=train, notes=(*plan.notes, note), fitted=True, **lengths)


def _fill_in(
    given: dict[str, Any], device: torch.device, name: str | None, notes: list[str]
) -> tuple[ModelConfig, TrainConfig, int]:
    """Configurations from the profile or the seed's defaults with the given fields on top; the sample's epochs."""
    by_profile = "dim" not in given and "n_layers" not in given
    profile = (profile_named(name) if name else profile_for(str(device))) if by_profile else None
    if profile:
        why = "as asked" if name else "which suits this device (give --dim or --n_layers for another model)"
        notes.append(f"Profile: {profile.name}, {why}.")
    base_model = profile.model if profile else ModelConfig()
    base_train = profile.train if profile else TrainConfig()
    names = {f.name for f in fields(ModelConfig)}
    unknown = set(given) - names - {f.name for f in fields(TrainConfig)}
    if unknown:
        raise ConfigError(f"unknown setting {', '.join(sorted(unknown))}.")
    model = ModelConfig.from_dict(base_model.to_dict() | {k: v for k, v in given.items() if k in names})
    train = TrainConfig.from_dict(base_train.to_dict() | {k: v for k, v in given.items() if k not in names})
    return model, train, profile.sample_epochs if profile else 1


def _pick_corpus(train: TrainConfig, notes: list[str]) -> Path:
    if train.data_path:
        notes.append(f"Corpus: {shown(train.data_path)}, as asked.")
        return existing_file(train.data_path)
    path, why = default_corpus()
    notes.append(f"Corpus: {shown(path)}: {why}.")
    return path


def _pick_tokenizer(train: TrainConfig, model: ModelConfig, corpus: Path, notes: list[str]) -> Tokenizer:
    if train.tokenizer:
        tokenizer, why = load_tokenizer(train.tokenizer), f"{shown(train.tokenizer)}, as asked"
    else:
        tokenizer, why = tokenizer_for(corpus, model.vocab_size)
    notes.append(f"Tokenizer: {tokenizer.get_vocab_size()} tokens, {why}.")
    return tokenizer


def _pick_rows(
    train: TrainConfig, model: ModelConfig, corpus: EncodedCorpus, path: Path, tokenizer: Tokenizer, notes: list[str]
) -> tuple[PretrainDataset | PackedDataset, PretrainDataset | None]:
    """The training rows, padded or packed, and the held-out rows, which are always of the default kind."""
    recipe, split, held_out = RECIPES[train.recipe], "all", None
    if train.valid_path or path.resolve() == SAMPLE.resolve():
        valid = existing_file(train.valid_path or SAMPLE_VALID)
        held_out = PretrainDataset(valid, tokenizer, model.max_seq_len)
        notes.append(f"Held out: {len(held_out)} rows of {shown(valid)}.")
    elif train.recipe == "fast" and len(corpus) >= 10:
        split = "train"
        held_out = PretrainDataset(corpus, tokenizer, model.max_seq_len, split="held_out")
        notes.append(f"Held out: {len(held_out):,} rows of the corpus, chosen by a hash of their text, not trained on.")
    else:
        notes.append("Held out: nothing (give --valid_path to judge the model on text that it has not seen).")
    if recipe.rows == "padded":
        rows = PretrainDataset(corpus, tokenizer, model.max_seq_len, as_minimind=True, split=split)
    else:
        rows = PackedDataset(corpus, tokenizer, model.max_seq_len - 1, split=split, seed=train.seed)
    return rows, held_out


def profile_named(name: str):
    """A profile by its name, or ConfigError with the names that there are."""
    if name not in PROFILES:
        raise ConfigError(f"profile={name!r}: allowed are {', '.join(PROFILES)}.")
    return PROFILES[name]
