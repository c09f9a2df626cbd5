"""The learning rate over a run: the seed's cosine, and the shapes that it is compared with in notebook 04.

Every schedule is a plain function of (step, total steps, peak rate); the training loop asks it before each micro-step.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from .errors import ConfigError

Schedule = Callable[[int, int, float], float]


def get_lr(current_step: int, total_steps: int, lr: float) -> float:
    """The seed's schedule: lr/10 + lr/2 · (1 + cos(π · step / total)).

    Falls from 1.1 · lr at step 0 to 0.1 · lr at the end: the floor is added to the cosine, so the start lies above
    `lr`. Source: MiniMind's train_pretrain.py.
    """
    return lr / 10 + 0.5 * lr * (1 + math.cos(math.pi * current_step / total_steps))


def constant(current_step: int, total_steps: int, lr: float) -> float:
    """`lr` throughout."""
    return lr


def linear(current_step: int, total_steps: int, lr: float) -> float:
    """A straight line from `lr` down to lr/10."""
    return lr * (1 - 0.9 * current_step / total_steps)


def cosine(current_step: int, total_steps: int, lr: float) -> float:
    """Half a cosine from `lr` down to lr/10: the seed's shape without its start above the peak."""
    return lr * (0.1 + 0.45 * (1 + math.cos(math.pi * current_step / total_steps)))


def warmup_stable_decay(current_step: int, total_steps: int, lr: float, decay: float = 0.3) -> float:
    """`lr` until the last `decay` of the run, then a straight line to lr/10. Hu et al. 2024, arXiv:2404.06395."""
    left = (total_steps - current_step) / (decay * total_steps)
    return lr * (0.1 + 0.9 * min(1.0, left))


def warmup(current_step: int, warmup_steps: int) -> float:
    """The factor that a rate is multiplied by while it rises: (step + 1) / warmup_steps, then 1."""
    return min(1.0, (current_step + 1) / warmup_steps) if warmup_steps else 1.0


SCHEDULES: dict[str, Schedule] = {
    "seed": get_lr,
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
    "wsd": warmup_stable_decay,
}


def learning_rate(name: str, current_step: int, total_steps: int, lr: float, warmup_steps: int = 0) -> float:
    """The rate of schedule `name` at `current_step` of `total_steps`, with `warmup_steps` of linear warm-up.

    Raises ConfigError for a name that is not in SCHEDULES.
    """
    if name not in SCHEDULES:
        raise ConfigError(f"schedule={name!r}: allowed are {', '.join(SCHEDULES)}.")
    return SCHEDULES[name](current_step, total_steps, lr) * warmup(current_step, warmup_steps)
