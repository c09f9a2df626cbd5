"""What a model is and how a run goes: two dataclasses that refuse nonsense, two recipes, and named profiles.

Nothing here imports torch, so a wrong flag is answered at once. The command line is made from the fields below: a field
that is added here is a flag there. Explained in notebooks 03 (ModelConfig) and 06 (TrainConfig, recipes, profiles).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from numbers import Integral, Real
from pathlib import PurePath
from typing import Any

from .errors import ConfigError


def _note(default: Any, help_text: str):
    """A dataclass field with its one-line explanation, which is also the flag's help text."""
    return field(default=default, metadata={"help": help_text})


def _said(value: Any) -> str:
    """A value as a message shows it: short, whatever it is."""
    try:
        text = repr(value)
    except ValueError:  # a whole number of thousands of digits
        text = "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:77]}…"


def _whole(name: str, value: Any, low: int, high: int) -> int:
    """`value` as an int within [low, high], or a ConfigError that says what was given and what is allowed."""
    if isinstance(value, bool) or not isinstance(value, Integral):  # numpy's whole numbers are Integral too
        raise ConfigError(f"{name}={_said(value)}: a whole number is needed, this is a {type(value).__name__}.")
    if value < low or value > high:
        raise ConfigError(f"{name}={_said(value)}: allowed is {low} or more, at most {high:,}.")
    return int(value)


def _number(name: str, value: Any, low: float, high: float, open_low: bool = False) -> float:
    """`value` as a float within [low, high] (or (low, high]), or a ConfigError."""
    if isinstance(value, bool) or not isinstance(value, Real) or value != value:
        raise ConfigError(f"{name}={_said(value)}: a finite number is needed, this is a {type(value).__name__}.")
    if value < low or value > high or (open_low and value == low):
        bounds = f"above {low:g}" if open_low else f"{low:g} or more"
        raise ConfigError(f"{name}={_said(value)}: allowed is {bounds}, at most {high:g}.")
    return float(value)


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"{name}={_said(value)}: True or False is needed, this is a {type(value).__name__}.")
    return value


def _text(name: str, value: Any) -> str:
    """`value` as text; a path is taken too."""
    if not isinstance(value, (str, PurePath)):
        raise ConfigError(f"{name}={_said(value)}: a text or a path is needed, this is a {type(value).__name__}.")
    if not str(value) or "\0" in str(value):
        raise ConfigError(f"{name}={_said(value)}: a name is needed, that is not empty and has no NUL character.")
    return str(value)


def _choice(name: str, value: Any, allowed: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in allowed:
        raise ConfigError(f"{name}={_said(value)}: allowed are {', '.join(allowed)}.")
    return str(value)


def _keep(config: Any, check: Callable, name: str, *bounds: Any, **more: Any) -> None:
    """Check a field of a frozen configuration, and keep it as the plain type that it is meant to have."""
    object.__setattr__(config, name, check(name, getattr(config, name), *bounds, **more))


# What one machine can hold at the very most: beyond it a number is a slip of the finger, and trying would only end in a
# machine without memory.
MOST = {
    "width": 2**16,
    "layers": 1024,
    "tokens": 2**20,
    "length": 2**17,
    "experts": 1024,
    "experts in all": 2**13,
    "parameters": 20 * 10**9,
    "rows": 2**16,
    "steps": 10**12,
    "processes": 1024,
}


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a MiniMind model. Defaults are MiniMind's 25,829,888-parameter dense model.

    Raises ConfigError for values that cannot work together. Field names follow MiniMind's LMConfig (April 2025).
    """

    dim: int = _note(512, "width of the residual stream, D")
    n_layers: int = _note(8, "number of blocks")
    n_heads: int = _note(8, "query heads per block, H; dim must divide by it")
    n_kv_heads: int | None = _note(2, "key/value heads; n_heads must divide by it; None means n_heads")
    vocab_size: int = _note(6400, "rows of the embedding table, V")
    hidden_dim: int | None = _note(
        None, "width inside a feed-forward; None means 8/3 of dim, rounded up to multiple_of"
    )
    multiple_of: int = _note(64, "what the feed-forward's width is rounded up to")
    norm_eps: float = _note(1e-5, "added inside RMSNorm's square root")
    max_seq_len: int = _note(512, "tokens in a training row, before X and Y are cut from it")
    rope_theta: float = _note(1e6, "base of the rotary frequencies")
    dropout: float = _note(0.0, "share of activations zeroed in training")
    use_moe: bool = _note(False, "replace each feed-forward by a mixture of experts")
    num_experts_per_tok: int = _note(2, "experts that each token is sent to (MoE)")
    n_routed_experts: int = _note(4, "experts that the gate chooses from (MoE)")
    n_shared_experts: int | None = _note(1, "experts that every token passes: None, 0, False: none; 1, True: one (MoE)")
    aux_loss_alpha: float = _note(0.1, "weight of the balancing loss (MoE)")
    seq_aux: bool = _note(True, "take the balancing loss row by row; False: over the whole batch (MoE)")
    norm_topk_prob: bool = _note(True, "divide the chosen scores by their sum (MoE)")

    def __post_init__(self) -> None:
        keep = partial(_keep, self)
        keep(_whole, "dim", 1, MOST["width"])
        keep(_whole, "n_layers", 1, MOST["layers"])
        keep(_whole, "n_heads", 1, MOST["width"])
        if self.n_kv_heads is None:
            object.__setattr__(self, "n_kv_heads", self.n_heads)
        keep(_whole, "n_kv_heads", 1, MOST["width"])
        keep(_whole, "vocab_size", 4, MOST["tokens"])
        keep(_whole, "max_seq_len", 2, MOST["length"])
        if self.hidden_dim is not None:
            keep(_whole, "hidden_dim", 1, 8 * MOST["width"])
        keep(_whole, "multiple_of", 1, MOST["width"])
        keep(_whole, "n_routed_experts", 1, MOST["experts"])
        keep(_whole, "num_experts_per_tok", 1, MOST["experts"])
        if not isinstance(self.n_shared_experts, (int, type(None))) or self.n_shared_experts not in (None, 0, 1):
            raise ConfigError(  # False and True are 0 and 1
                f"n_shared_experts={_said(self.n_shared_experts)}: allowed are None, 0, False, 1 and True."
            )
        object.__setattr__(self, "n_shared_experts", int(bool(self.n_shared_experts)))
        for name in ("use_moe", "seq_aux", "norm_topk_prob"):
            keep(_flag, name)
        keep(_number, "norm_eps", 0, 1, open_low=True)
        keep(_number, "rope_theta", 1, 1e15, open_low=True)
        keep(_number, "aux_loss_alpha", 0, 1000)
        keep(_number, "dropout", 0, 1)
        if self.dropout == 1:
            raise ConfigError("dropout=1 would zero everything: allowed is 0 or more and below 1.")
        self._check_heads()
        if self.num_experts_per_tok > self.n_routed_experts:
            raise ConfigError(
                f"num_experts_per_tok={self.num_experts_per_tok}: at most n_routed_experts={self.n_routed_experts}."
            )
        self._check_size()

    def _check_heads(self) -> None:
        if self.dim % self.n_heads:
            near = [h for h in range(1, self.dim + 1) if self.dim % h == 0 and (self.dim // h) % 2 == 0]
            raise ConfigError(
                f"dim={self.dim} does not divide by n_heads={self.n_heads}; "
                f"for this dim n_heads may be {', '.join(map(str, near)) or 'nothing: take an even dim'}."
            )
        if self.head_dim % 2:
            raise ConfigError(
                f"dim={self.dim} / n_heads={self.n_heads} gives heads of {self.head_dim} numbers; rotary "
                "embedding turns pairs, so it must be even: change dim or n_heads."
            )
        if self.n_heads % self.n_kv_heads:
            allowed = ", ".join(str(k) for k in range(1, self.n_heads + 1) if self.n_heads % k == 0)
            raise ConfigError(
                f"n_heads={self.n_heads} does not divide by n_kv_heads={self.n_kv_heads}: "
                f"each key/value head serves the same number of query heads, so n_kv_heads may be {allowed}."
            )

    def _check_size(self) -> None:
        """Refuse what no single machine could hold, before it is tried."""
        experts = self.n_routed_experts + self.n_shared_experts if self.use_moe else 1
        if self.n_layers * experts > MOST["experts in all"]:
            raise ConfigError(
                f"n_layers={self.n_layers} × n_routed_experts={self.n_routed_experts} makes "
                f"{self.n_layers * experts:,} experts: at most {MOST['experts in all']:,} in all are allowed."
            )
        attention = 2 * self.dim * (self.dim + self.n_kv_heads * self.head_dim)
        numbers = self.vocab_size * self.dim + self.n_layers * (attention + 3 * experts * self.dim * self.ffn_dim)
        if numbers > MOST["parameters"]:
            raise ConfigError(
                f"dim={self.dim}, n_layers={self.n_layers}, vocab_size={self.vocab_size}, feed-forward {self.ffn_dim}"
                f"{f', {experts} experts' if self.use_moe else ''}: {numbers / 1e9:,.0f} billion parameters; at most "
                f"{MOST['parameters'] // 10**9} billion are allowed here. Lower one of them (MiniMind: 512, 8, 6400)."
            )

    @property
    def head_dim(self) -> int:
        """Numbers per head, Dh = dim / n_heads."""
        return self.dim // self.n_heads

    @property
    def ffn_dim(self) -> int:
        """Width inside a feed-forward: `hidden_dim`, or 8/3 · dim rounded up to `multiple_of`."""
        if self.hidden_dim is not None:
            return self.hidden_dim
        return -(-(8 * self.dim // 3) // self.multiple_of) * self.multiple_of

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """Rebuild from `to_dict`; unknown keys are an error, missing ones take their default."""
        return cls(**_known(cls, values))


_DEVICE = re.compile("auto|mps(:0)?|cpu(:0)?|cuda(:[0-9]{1,3})?")


@dataclass(frozen=True)
class TrainConfig:
    """How a run goes. Defaults are the seed's; profiles and recipes change some of them.

    Steps: a micro-step is one forward and backward over `batch_size` rows; an update follows every
    `accumulation_steps` micro-steps. Raises ConfigError for what cannot work.
    """

    out_dir: str | None = _note(None, "folder for weights, tokenizer, metrics; default out/")
    epochs: int | None = _note(None, "passes over the corpus; default 1, or the profile's number for the sample")
    batch_size: int = _note(32, "rows in a micro-batch (per process)")
    learning_rate: float = _note(5e-4, "peak learning rate (the seed's schedule starts at 1.1 times it)")
    device: str = _note("auto", "auto, cpu, cuda, cuda:N or mps; auto takes cuda where there is one, else cpu")
    dtype: str = _note("auto", "auto, float32, bfloat16 or float16; what the device cannot do falls back, with a word")
    compile: str = _note("auto", "auto, on or off; auto compiles the model on a GPU in the fast recipe")
    use_wandb: bool = _note(False, "also send metrics to wandb (offline without a key)")
    wandb_project: str = _note("MiniMind-Pretrain", "wandb project name")
    num_workers: int = _note(0, "processes that load batches; 0 loads in the training process")
    accumulation_steps: int = _note(8, "micro-batches whose gradients are added up before an update")
    grad_clip: float = _note(1.0, "largest gradient norm; longer gradients are scaled down to it")
    warmup_iters: int | None = _note(None, "micro-steps of linear warm-up; default: what the recipe does")
    log_interval: int = _note(100, "micro-steps between two log lines")
    save_interval: int | None = _note(None, "micro-steps between two saves; default: from what a save costs")
    data_path: str | None = _note(
        None, "corpus, JSON lines or .txt; default: the full corpus in dataset/, else the sample"
    )
    recipe: str = _note("fast", "seed: what MiniMind does, step for step; fast: the same model, sooner")
    resume: bool = _note(False, "go on from the last saved state of this run")
    valid_path: str | None = _note(
        None, "held-out rows, JSON lines or .txt; default: the sample's, else one row in 1000"
    )
    tokenizer: str | None = _note(None, "folder or file of a tokenizer; default: one is trained on the corpus")
    max_steps: int | None = _note(None, "stop after this many updates; the schedule is fitted to it")
    eval_interval: int | None = _note(None, "updates between two looks at the held-out loss; default: 20 per run")
    seed: int = _note(1337, "seed of the initial weights and of the data order")

    def __post_init__(self) -> None:
        keep = partial(_keep, self)
        keep(_whole, "batch_size", 1, MOST["rows"])
        keep(_whole, "accumulation_steps", 1, MOST["rows"])
        keep(_whole, "log_interval", 1, MOST["steps"])
        keep(_whole, "num_workers", 0, MOST["processes"])
        keep(_whole, "seed", 0, 2**63 - 1)
        for name in ("epochs", "save_interval", "max_steps", "eval_interval"):
            if getattr(self, name) is not None:
                keep(_whole, name, 1, MOST["steps"])
        if self.warmup_iters is not None:
            keep(_whole, "warmup_iters", 0, MOST["steps"])
        keep(_number, "learning_rate", 0, 1, open_low=True)
        keep(_number, "grad_clip", 0, 1e9, open_low=True)
        keep(_choice, "recipe", tuple(RECIPES))
        keep(_choice, "dtype", ("auto", "float32", "bfloat16", "float16"))
        keep(_choice, "compile", ("auto", "on", "off"))
        for name in ("use_wandb", "resume"):
            keep(_flag, name)
        for name in ("out_dir", "data_path", "valid_path", "tokenizer"):
            if getattr(self, name) is not None:
                keep(_text, name)
        keep(_text, "wandb_project")
        if not isinstance(self.device, str) or not _DEVICE.fullmatch(self.device):
            raise ConfigError(
                f"device={_said(self.device)}: allowed are auto, cpu, cuda, cuda:0 (or another number), mps."
            )

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainConfig:
        """Rebuild from `to_dict`; unknown keys are an error, missing ones take their default."""
        return cls(**_known(cls, values))


def _known(cls: type, values: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise ConfigError(f"{cls.__name__} needs a table of named values, not a {type(values).__name__}.")
    names = {f.name for f in fields(cls)}
    unknown = sorted(_said(name).strip("'") for name in values if name not in names)
    if unknown:
        raise ConfigError(f"{cls.__name__} has no field {', '.join(unknown[:8])}; it has {', '.join(sorted(names))}.")
    return values


@dataclass(frozen=True)
class Recipe:
    """What sets two ways of training the same model apart; notebook 06 prints the fields that differ as a table."""

    rows: str = field(metadata={"help": "padded: one row of text per row of a batch; packed: segments back to back"})
    shuffle: bool = field(metadata={"help": "visit the rows in a new, seeded order each epoch"})
    optimizer: str = field(metadata={"help": "adamw: for everything; muon: for hidden matrices, AdamW for the rest"})
    schedule: str = field(metadata={"help": "shape of the learning rate over the run, a name in schedule.SCHEDULES"})
    warmup: float = field(metadata={"help": "share of the run that the learning rate takes to rise"})
    momentum: float = field(metadata={"help": "share that a running mean of gradients keeps (AdamW's first beta)"})
    beta2: float = field(metadata={"help": "the same for AdamW's running mean of squared gradients"})
    weight_decay: float = field(metadata={"help": "pull of the weights towards zero (muon: of matrices alone)"})
    lr_scale: float = field(metadata={"help": "peak rate / --learning_rate; the seed's schedule starts a tenth above"})
    cuda_dtype: str = field(metadata={"help": "what --dtype auto means on a GPU; float16 brings a gradient scaler"})
    window_loss: bool = field(metadata={"help": "log the mean loss since the last line; False: one micro-batch's"})


RECIPES: dict[str, Recipe] = {
    "seed": Recipe(
        rows="padded",
        shuffle=False,
        optimizer="adamw",
        schedule="seed",
        warmup=0.0,
        momentum=0.9,
        beta2=0.999,
        weight_decay=0.01,
        lr_scale=1.0,
        cuda_dtype="float16",
        window_loss=False,
    ),
    # The numbers were chosen with benchmarks/recipes.py. lr_scale: best among half and twice of it at dim 128;
    # short runs of dim 64 like more, long ones less. weight_decay: weights forget over 1 / (rate × decay) updates;
    # at the peak rate of the full run, 415M tokens, these are 830 of 3,200 (such a share carries over: Wang &
    # Aitchison 2024, arXiv:2405.13698).
    "fast": Recipe(
        rows="packed",
        shuffle=True,
        optimizer="muon",
        schedule="linear",
        warmup=0.03,
        momentum=0.9,
        beta2=0.95,
        weight_decay=0.2,
        lr_scale=12.0,
        cuda_dtype="bfloat16",
        window_loss=True,
    ),
}


@dataclass(frozen=True)
class Profile:
    """A model and a way to train it that suit a device. `sample_epochs`: passes when the corpus is the sample."""

    name: str
    model: ModelConfig
    train: TrainConfig
    sample_epochs: int


PROFILES: dict[str, Profile] = {
    "laptop": Profile(
        name="laptop",
        model=ModelConfig(dim=128, n_layers=4, n_heads=4, n_kv_heads=2, vocab_size=2400, max_seq_len=256),
        train=TrainConfig(batch_size=8, accumulation_steps=1, log_interval=50),
        sample_epochs=22,
    ),
    "gpu": Profile(
        name="gpu",
        model=ModelConfig(),
        train=TrainConfig(batch_size=64, accumulation_steps=4),
        sample_epochs=20,
    ),
}


def profile_for(device: str) -> Profile:
    """The profile that suits a device: `gpu` for cuda, `laptop` for everything else."""
    return PROFILES["gpu" if str(device).startswith("cuda") else "laptop"]


def with_changes(config, **changes):
    """A copy of a ModelConfig or TrainConfig with some fields changed, checked again."""
    return replace(config, **_known(type(config), changes))
