"""Weights files that MiniMind can load too, and the facts kept beside them.

`pretrain_512.pth` is a plain state_dict; the folder `pretrain_512/` beside it holds config.json, tokenizer.json and the
rest of the run. Files are written whole or not at all, and read without executing anything in them. Taught in notebooks
06 and 07. Left out: what a run needs to go on (run_state.py).
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from .config import ModelConfig
from .errors import CheckpointError, ConfigError
from .files import atomic_write, file_sha256, staged, write_torch
from .model import MiniMindLM, weight_shapes
from .paths import shown
from .tokenizer import load_tokenizer, save_tokenizer

FORMAT = 1
_NUMBERS = ("step", "updates", "tokens", "loss", "held_out_loss", "bits_per_byte", "best_held_out_loss", "seconds")


def unwrapped(model: nn.Module) -> MiniMindLM:
    """The model itself, out of torch.compile's or DataParallel's wrapping."""
    while hasattr(model, "_orig_mod") or isinstance(getattr(model, "module", None), nn.Module):
        model = getattr(model, "_orig_mod", None) or model.module
    return model


def run_folder(weights: str | Path) -> Path:
    """The folder that belongs to a weights file: out/pretrain_512.pth → out/pretrain_512."""
    return Path(weights).with_suffix("")


def weights_path(folder: str | Path, dim: int, use_moe: bool = False) -> Path:
    """Where a run's weights go: FOLDER/pretrain_{dim}.pth, with `_moe` for a mixture of experts, as in MiniMind."""
    return Path(folder) / f"pretrain_{dim}{'_moe' if use_moe else ''}.pth"


def save_weights(
    model: nn.Module, path: str | Path, facts: dict[str, Any] | None = None, tokenizer: Tokenizer | None = None
) -> None:
    """Write the model's state_dict (float32, on CPU) to `path`, which MiniMind's eval_model.py loads as it is.

    The configuration, a sha256 of the file and `facts` go to config.json in the folder beside it, the tokenizer too.
    Both are on the disk before either is renamed, and config.json names the old weights' sum as well, so the pair is
    valid at any moment.
    """
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(f"{shown(path)} is a folder; a weights file is meant to be written there.")
    model = unwrapped(model)
    weights = {key: value.detach().to("cpu", torch.float32) for key, value in model.state_dict().items()}
    if tokenizer is not None:
        save_tokenizer(tokenizer, run_folder(path))
    with staged(path, lambda file: write_torch(weights, file)) as sha256:
        about = {
            **(facts or {}),
            "format": FORMAT,
            "model": model.config.to_dict(),
            "weights_sha256": sha256.hex(),
            "previous_weights_sha256": file_sha256(path) if path.exists() else None,
        }
        atomic_write(run_folder(path) / "config.json", json.dumps(about, indent=1, ensure_ascii=False).encode())


def read_facts(weights: str | Path) -> dict[str, Any] | None:
    """config.json of a weights file, or None where there is none. Raises CheckpointError when it is broken."""
    path = run_folder(weights) / "config.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{shown(path)} cannot be read: {error}.") from None
    if not isinstance(facts, dict) or not isinstance(facts.get("model"), dict):
        raise CheckpointError(f"{shown(path)} is not a run's configuration: it has no table named model.")
    for name in _NUMBERS:
        if facts.get(name) is not None and type(facts[name]) not in (int, float):
            raise CheckpointError(f"{shown(path)}: {name} is {facts[name]!r:.40}, where a number is needed.")
    try:
        ModelConfig.from_dict(facts["model"])
    except ConfigError as error:
        raise CheckpointError(f"{shown(path)}: {error}") from None
    return facts


def read_torch_file(path: str | Path) -> Any:
    """torch.load with weights_only, and a clear error for what is no such file or wants to execute code."""
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(f"{shown(path)} is a folder, where a file is needed.")
    if not path.exists():
        raise CheckpointError(f"{shown(path)} is not there.{_neighbours(path)}")
    if not path.is_file():
        raise CheckpointError(f"{shown(path)} is no regular file (a pipe or a device), where one is needed.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch has to say of a file that is refused anyway
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and torch errors of many kinds
        text = str(error) or type(error).__name__
        if "weights_only" in text or "Unsupported" in text:
            raise CheckpointError(
                f"{shown(path)} holds more than tensors and could execute code when read; it was not read."
            ) from None
        raise CheckpointError(
            f"{shown(path)} is damaged or no torch file ({path.stat().st_size:,} bytes): {text.splitlines()[0][:100]}"
        ) from None


def _neighbours(path: Path) -> str:
    found = sorted(p.name for p in path.parent.glob("*.pth")) if path.parent.is_dir() else []
    return f" In {shown(path.parent)} lie: {', '.join(found)}." if found else f" {shown(path.parent)} has no .pth file."


def load_model(path: str | Path, config: ModelConfig | None = None, device: str | torch.device = "cpu") -> MiniMindLM:
    """The model of a weights file, in eval mode, on `device`.

    Our files carry their configuration; a bare MiniMind file needs `config`. Raises CheckpointError when the file is
    damaged, was changed since its configuration was written, or does not belong to `config`, even where shapes fit.
    """
    path = Path(path)
    state = _plain_state(read_torch_file(path), path)
    facts = read_facts(path)
    if facts is not None:
        config = _kept_config(path, facts, config)
    elif config is None:
        raise CheckpointError(
            f"{shown(path)} has no config.json beside it (a bare weights file). Its shapes say: "
            f"{_spoken(_facts_of(state))}. Shapes don't tell the number of heads: give config=ModelConfig(...)."
        )
    _check_fit(state, config, path)
    model = MiniMindLM(config)
    model.load_state_dict(state)
    if facts is None:
        warnings.warn(
            f"{shown(path)} is a bare weights file: that n_heads={config.n_heads}, rope_theta={config.rope_theta:g}, "
            f"norm_eps={config.norm_eps:g}{', the experts per token' if config.use_moe else ''} and the interleaved "
            "rotary layout (MiniMind before 2025-04-26) are right cannot be checked.",
            stacklevel=2,
        )
    return model.to(device).eval()


def load_run(path: str | Path, device: str | torch.device = "cpu") -> tuple[MiniMindLM, Tokenizer, dict[str, Any]]:
    """Model, tokenizer and facts of one of our weights files."""
    model = load_model(path, device=device)
    return model, load_tokenizer(run_folder(path)), read_facts(path) or {}


def _kept_config(path: Path, facts: dict[str, Any], given: ModelConfig | None) -> ModelConfig:
    kept = ModelConfig.from_dict(facts["model"])
    if given is not None and given != kept:
        theirs, ours = given.to_dict(), kept.to_dict()
        differ = ", ".join(f"{k} is {ours[k]} there, {theirs[k]} was given" for k in ours if ours[k] != theirs[k])
        raise CheckpointError(f"{shown(path)} belongs to another configuration: {differ}.")
    sums = (facts.get("weights_sha256"), facts.get("previous_weights_sha256"))
    if any(sums) and file_sha256(path) not in sums:
        raise CheckpointError(
            f"{shown(path)} is not the file that {shown(run_folder(path))}/config.json describes: it was replaced or "
            "damaged since. Put the old file back, or move that folder away and give the configuration yourself."
        )
    return kept


def _plain_state(state: Any, path: Path) -> dict[str, Tensor]:
    """A state_dict with MiniMind's keys, float32; wrappers' prefixes are stripped."""
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()) or not state:
        raise CheckpointError(f"{shown(path)} is a torch file, but not a state_dict of named tensors.")
    plain = {}
    for key, value in state.items():
        for prefix in ("_orig_mod.", "module."):
            key = str(key).replace(prefix, "")
        plain[key] = value
    plain.pop("pos_cis", None)  # a table that older MiniMind files carry along
    for key, value in plain.items():
        if value.layout != torch.strided or value.is_meta or not value.is_floating_point():
            kind = "no values" if value.is_meta else f"{value.dtype} numbers ({value.layout})"
            raise CheckpointError(f"{shown(path)}: {key} has {kind}; weights are dense tensors of float numbers.")
        plain[key] = value.float()
        if not torch.isfinite(plain[key]).all():
            raise CheckpointError(f"{shown(path)}: {key} holds numbers that are not finite: a run that went wrong.")
    if any(key.startswith("model.layers.") for key in plain):
        raise CheckpointError(
            f"{shown(path)} has the names of MiniMind after 2025-04-26 (model.layers.…): its rotary layout is another "
            "one (halves instead of neighbouring pairs), so its weights don't fit this model."
        )
    if "output.weight" in plain:
        embedding = plain.setdefault("tok_embeddings.weight", plain["output.weight"])
        if embedding.shape == plain["output.weight"].shape and not torch.equal(embedding, plain["output.weight"]):
            raise CheckpointError(
                f"{shown(path)}: tok_embeddings.weight and output.weight differ; this model has one matrix for both."
            )
    return plain


def _facts_of(state: dict[str, Tensor]) -> dict[str, Any]:
    """What shapes say about a model."""
    facts: dict[str, Any] = {}
    if "tok_embeddings.weight" in state and state["tok_embeddings.weight"].dim() == 2:
        facts["vocab_size"], facts["dim"] = state["tok_embeddings.weight"].shape
    layers = {key.split(".")[1] for key in state if key.startswith("layers.") and key.count(".") > 2}
    facts["n_layers"] = len(layers)
    facts["use_moe"] = any(".feed_forward.gate." in key for key in state)
    if facts["use_moe"]:
        experts = {k.split(".experts.")[1].split(".")[0] for k in state if ".feed_forward.experts." in k}
        facts["n_routed_experts"] = len(experts)
        facts["n_shared_experts"] = int(any(".shared_experts." in key for key in state))
    return facts


def _spoken(facts: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in facts.items())


def _check_fit(state: dict[str, Tensor], config: ModelConfig, path: Path) -> None:
    """Raise CheckpointError unless names and shapes are exactly those of a model with this configuration."""
    wanted = weight_shapes(config)
    found = {key: tuple(value.shape) for key, value in state.items()}
    if wanted == found:
        return
    facts = {key: value for key, value in _facts_of(state).items() if getattr(config, key) != value}
    if facts:
        given = {key: getattr(config, key) for key in facts}
        raise CheckpointError(f"{shown(path)} has {_spoken(facts)}; the configuration says {_spoken(given)}.")
    missing, extra = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    odd = [
        f"{k} is {found[k]}, should be {wanted[k]}"
        for k in sorted(wanted.keys() & found.keys())
        if wanted[k] != found[k]
    ]
    parts = [f"missing {', '.join(missing[:3])}"] * bool(missing) + [f"unknown {', '.join(extra[:3])}"] * bool(extra)
    raise CheckpointError(f"{shown(path)} does not fit the configuration: {'; '.join(parts + odd[:2])}.")
