"""The training loop: one pass over the corpus, readable as in the seed. Everything else hangs on its hooks.

Taught line by line in notebook 05 and run in notebook 06. There is one loop; every run uses it, in notebook and command
line. Left out: what makes a run safe and visible (trainer.py) and which files it needs (plan.py).
"""

# B batch · T tokens · V vocabulary

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .distributed import World
from .schedule import learning_rate


def masked_cross_entropy(logits: Tensor, targets: Tensor, loss_mask: Tensor, total: Tensor | None = None) -> Tensor:
    """Mean of -log p(target) over the positions where `loss_mask` is 1; a scalar, 0 where the mask is empty.

    logits (B, T, V), targets and loss_mask (B, T). `total` replaces the number of positions that the sum is divided by.
    """
    losses = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none")
    mask = loss_mask.flatten().to(losses.dtype)
    return (losses * mask).sum() / (mask.sum() if total is None else total).clamp(min=1)


class Hooks:
    """What the loop asks and tells while it runs. The plain version does the seed's run and remembers its numbers.

    A micro-step is one forward and backward; an update follows `accumulation_steps` of them, or the last micro-step of
    an epoch.
    """

    def __init__(
        self,
        iter_per_epoch: int,
        epochs: int = 1,
        lr: float = 5e-4,
        accumulation_steps: int = 8,
        grad_clip: float = 1.0,
        schedule: str = "seed",
        warmup_steps: int = 0,
        device: str | torch.device = "cpu",
        world: World | None = None,
    ) -> None:
        self.iter_per_epoch, self.epochs, self.lr = iter_per_epoch, epochs, lr
        self.accumulation_steps, self.grad_clip = accumulation_steps, grad_clip
        self.schedule, self.warmup_steps = schedule, warmup_steps
        self.device, self.world = torch.device(device), world or World()
        self.total_steps = epochs * iter_per_epoch
        self.first_step = 0
        self.should_stop = False
        self.losses: list[float] = []
        self.lrs: list[float] = []
        self.grad_norms: list[float] = []

    def to_device(self, batch: Iterable[Tensor]) -> list[Tensor]:
        """The batch where the model is."""
        return [tensor.to(self.device, non_blocking=True) for tensor in batch]

    def learning_rate(self, epoch: int, step: int) -> float:
        """The rate of micro-step `step` of `epoch`, by the schedule."""
        now = epoch * self.iter_per_epoch + step
        return learning_rate(self.schedule, now, self.total_steps, self.lr, self.warmup_steps)

    def window(self, step: int) -> int:
        """How many micro-batches the accumulation that `step` belongs to holds: fewer at the end of an epoch."""
        start = step - step % self.accumulation_steps
        return min(self.accumulation_steps, self.iter_per_epoch - start)

    def closes_window(self, step: int) -> bool:
        """Whether an update follows micro-step `step`."""
        return (step + 1) % self.accumulation_steps == 0 or step + 1 == self.iter_per_epoch

    def after_backward(self, epoch: int, step: int, ce: Tensor, aux_loss: Tensor, tokens: Tensor) -> None:
        """Told after each micro-step: cross-entropy, auxiliary loss, and how many tokens counted (on the device)."""
        self.losses.append(float(ce + aux_loss))

    def before_update(self, epoch: int, step: int, lr: float, grad_norm: Tensor) -> None:
        """Told before each update, with the gradient's norm before clipping; may raise to refuse it."""
        self.lrs.append(lr)
        self.grad_norms.append(float(grad_norm))

    def after_update(self, epoch: int, step: int) -> None:
        """Told after each update: the only moments at which a run can be saved and resumed."""


def train_epoch(
    epoch: int,
    model: nn.Module,
    train_loader: Iterable,
    optimizer,
    scaler: torch.amp.GradScaler,
    ctx: AbstractContextManager,
    hooks: Hooks,
) -> None:
    """Train `model` on one pass over `train_loader`, whose batches are (X, Y, loss_mask), each (B, T) int64.

    `ctx` is an autocast context, `scaler` is at work for float16 only. Starts at `hooks.first_step`; returns early when
    `hooks.should_stop`.
    """
    for step, batch in enumerate(train_loader, start=hooks.first_step):
        X, Y, loss_mask = hooks.to_device(batch)

        lr = hooks.learning_rate(epoch, step)
        for param_group in optimizer.param_groups:
            param_group["lr"] = lr

        tokens, share = hooks.world.counted(loss_mask)
        with ctx:
            output = model(X)
            ce = masked_cross_entropy(output.logits, Y, loss_mask, total=tokens)
            aux_loss = output.aux_loss * share
            loss = (ce + aux_loss) / hooks.window(step)

        scaler.scale(loss).backward()
        hooks.after_backward(epoch, step, ce.detach(), aux_loss.detach(), tokens)

        if hooks.closes_window(step):
            hooks.world.add_gradients(model)
            scaler.unscale_(optimizer)
            grad_norm = nn.utils.clip_grad_norm_(model.parameters(), hooks.grad_clip)
            hooks.before_update(epoch, step, lr, grad_norm)

            scaler.step(optimizer)
            scaler.update()

            optimizer.zero_grad(set_to_none=True)
            hooks.after_update(epoch, step)

        if hooks.should_stop:
            return
