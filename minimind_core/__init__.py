"""minimind_core: the small package that the seven notebooks import. One row of text flows through it, top to bottom.

The names below are the public ones. They are loaded on first use, so that `python -m minimind_core.download` and
`--help` don't wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

_HOME = {
    "config": "ModelConfig TrainConfig Recipe RECIPES Profile PROFILES profile_for with_changes",
    "errors": "CourseError ConfigError CorpusError TokenizerError CheckpointError InputError TrainingError",
    "paths": "SAMPLE SAMPLE_VALID dataset_dir out_dir",
    "corpus": "iter_rows iter_texts describe split_segments normalise_markers marker_edition default_corpus",
    "tokenizer": "train_tokenizer load_tokenizer save_tokenizer pieces TextStream",
    "corpus_tokenizer": "tokenizer_for",
    "encoding": "encode_corpus EncodedCorpus",
    "dataset": "PretrainDataset PackedDataset",
    "batches": "EpochBatches",
    "layers": "RMSNorm Attention FeedForward rotary_angles apply_rotary causal_attention",
    "moe": "MoEGate MoEFeedForward",
    "model": "MiniMindLM MiniMindBlock ModelOutput parameter_count active_parameter_count",
    "schedule": "get_lr learning_rate SCHEDULES",
    "optim": "Muon orthogonalize build_optimizer",
    "precision": "pick_device pick_dtype describe_device autocast_context make_scaler",
    "training": "train_epoch masked_cross_entropy Hooks",
    "plan": "plan_run RunPlan",
    "trainer": "Trainer RunResult",
    "checkpoint": "save_weights load_model load_run",
    "generation": "generate stream continue_text encode_prompt next_token_logits",
    "evaluation": "held_out_loss HeldOut fit_bigram bigram_rows bigram_baseline token_losses recalled",
    "tracking": "read_metrics",
    "preflight": "estimate",
    "doctor": "examine Finding",
    "runs": "start_run begin_or_attach resume_run stop_run kill_run wait_for wait_beside",
    "runs_on_disk": "list_runs run_of attach",
    "run_status": "status_of RunStatus",
    "quick": "quick_model QuickModel",
    "eval_model": "PROMPTS PROMPT_SUBJECTS",
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names.split()}
__all__ = sorted(_MODULE_OF)

if TYPE_CHECKING:
    from .config import ModelConfig, TrainConfig  # noqa: F401
    from .model import MiniMindLM  # noqa: F401


def __getattr__(name: str):
    if name not in _MODULE_OF:
        raise AttributeError(f"minimind_core has no {name!r}")
    value = getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
