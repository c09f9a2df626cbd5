"""Trainer: the hooks that make the plain loop a run. It logs, judges, saves, stops gently, and goes on where it was.

The loop itself is training.train_epoch. State is taken after optimizer updates only, so no half accumulation needs
keeping; a run that is stopped in between goes back to the last update. Taught in notebook 06.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from . import checkpoint
from .clock import Clock, peak_memory_mib
from .dataset import EpochBatches
from .distributed import World
from .errors import TrainingError
from .evaluation import HeldOut, held_out_loss
from .interrupts import gentle_stop
from .model import MiniMindLM
from .optim import build_optimizer
from .paths import shown
from .plan import RunPlan
from .precision import autocast_context, make_scaler
from .run_files import RunFiles
from .run_state import facts_of, restore, state_of
from .training import Hooks, train_epoch

SAVE_SHARE = 0.02  # of the time that saving may take when no interval is given
SNAPSHOT_SHARES = (0.05, 0.15, 0.35, 0.65)


@dataclass(frozen=True)
class RunResult:
    """How a run ended: updates done, last losses, where its weights are, and whether it is complete."""

    step: int
    complete: bool
    loss: float
    held_out: HeldOut | None
    best_held_out: float | None
    best_step: int | None
    seconds: float
    weights: Path


class Trainer(Hooks):
    """One run of a RunPlan. `fit()` trains to the end, or until it is stopped, and can be called again to go on.

    `on_update(row)` and `on_held_out(row)` receive each metrics line as it is written, for live curves. `say` prints
    what a person should read; it goes to train.log as well.
    """

    def __init__(
        self,
        plan: RunPlan,
        model: MiniMindLM | None = None,
        world: World | None = None,
        say: Callable[[str], None] = print,
        on_update: Callable[[dict], None] | None = None,
        on_held_out: Callable[[dict], None] | None = None,
        bar: bool = True,
    ) -> None:
        recipe, train = plan.recipe, plan.train
        warmup = train.warmup_iters if train.warmup_iters is not None else round(recipe.warmup * plan.total_steps)
        super().__init__(
            plan.iter_per_epoch,
            train.epochs,
            train.learning_rate * recipe.lr_scale,
            train.accumulation_steps,
            train.grad_clip,
            recipe.schedule,
            warmup,
            plan.device,
            world,
        )
        self.total_steps = plan.total_steps
        self.plan, self.on_update, self.on_held_out = plan, on_update, on_held_out
        self.bar = bar
        self.files = RunFiles(plan.weights, plan.tokenizer, say, active=self.world.is_main)
        self.folder, self.say = self.files.folder, self.files.say
        torch.manual_seed(train.seed)
        self.model = (model or MiniMindLM(plan.model)).to(plan.device)
        self.optimizer = build_optimizer(self.model, recipe, self.lr)
        self.scaler = make_scaler(plan.device, plan.dtype)
        self.context = autocast_context(plan.device, plan.dtype)
        self.batches = EpochBatches(
            len(plan.train_set),
            train.batch_size,
            recipe.shuffle,
            train.seed,
            whole_only=recipe.rows == "packed",
            rank=self.world.rank,
            world=self.world.size,
        )
        self.epoch = self.step = self.micro_step = self.tokens = 0
        self.best: tuple[float, int] | None = None
        self.last_held_out: HeldOut | None = None
        self.last_loss = math.nan
        self.seconds = 0.0
        self.save_seconds: float | None = None
        self.last_saved_step = -1
        self._window: list[tuple[Tensor, Tensor, Tensor]] = []
        self.log_losses: list[float] = []
        self._updating = False
        self.random_states: dict[str, Tensor] | None = None  # as they were after the last update
        self._eval_every = train.eval_interval or max(1, plan.updates // 20)
        self._snapshots = {max(1, round(plan.updates * share)) for share in SNAPSHOT_SHARES}

    # --- the run -----------------------------------------------------------------------------------------------

    def fit(self) -> RunResult:
        """Train until the run is complete or stopped (Ctrl-C, the stop button, `stop()`); then save and say so."""
        self.should_stop = False
        resumed = self._resume() if self.plan.train.resume and self.step == 0 else self._go_on()
        if self.step >= self.plan.updates:
            self.say(f"This run is complete: {self.step} updates; its weights are in {shown(self.plan.weights)}.")
            return self._result()
        self._open_files(resumed)
        self.clock = Clock(self.micro_step)
        try:
            with gentle_stop(lambda: self.should_stop, self.stop), self._progress():
                self._first_look()
                while self.step < self.plan.updates and not self.should_stop:
                    train_epoch(self.epoch, self.model, self._loader(), self.optimizer, self.scaler, self.context, self)
                    if not self.should_stop and self.first_step >= self.iter_per_epoch:
                        self.epoch, self.first_step = self.epoch + 1, 0
        finally:
            self.optimizer.zero_grad(set_to_none=True)
            self._window.clear()
            self._close_files()
            self.seconds += self.clock.elapsed()
        return self._result()

    def stop(self) -> None:
        """Ask the run to stop after the micro-step that it is in; what it has learned is saved."""
        self.should_stop = True

    def _loader(self) -> DataLoader:
        if hasattr(self.plan.train_set, "set_epoch"):
            self.plan.train_set.set_epoch(self.epoch)
        self.batches.set_epoch(self.epoch, self.first_step)
        return DataLoader(
            self.plan.train_set,
            batch_sampler=self.batches,
            num_workers=self.plan.train.num_workers,
            pin_memory=self.device.type == "cuda",
        )

    def _first_look(self) -> None:
        if self.random_states is None:
            self._remember_boundary()
            self._judge()

    # --- hooks of the loop --------------------------------------------------------------------------------------

    def after_backward(self, epoch: int, step: int, ce: Tensor, aux_loss: Tensor, tokens: Tensor) -> None:
        self._window.append((ce, aux_loss, tokens))
        self.clock.tick()
        if self.progress is not None:
            self.progress.update(1)
        if step % self.plan.train.log_interval == 0 and not self.closes_window(step):
            self._log_line(epoch, step, float(ce + aux_loss))

    def before_update(self, epoch: int, step: int, lr: float, grad_norm: Tensor) -> None:
        window = torch.stack([torch.stack([ce, aux]) for ce, aux, _ in self._window])
        ce, aux = self.world.total(window).unbind(1)  # each process holds its share of the losses
        ce, aux = ce.tolist(), aux.tolist()
        tokens = torch.stack([count for _, _, count in self._window]).tolist()
        self._row = {
            "ce": sum(ce) / len(ce),
            "aux_loss": sum(aux) / len(aux),
            "lr": lr,
            "grad_norm": float(grad_norm),
        }
        self._micro_loss = ce[-1] + aux[-1]
        self._new_tokens = int(sum(tokens))
        loss = self._row["ce"] + self._row["aux_loss"]
        if not math.isfinite(loss) or (not math.isfinite(self._row["grad_norm"]) and not self.scaler.is_enabled()):
            kept = f"the weights of update {self.step}" if self._weights_are_finite() else "those of the last save"
            raise TrainingError(
                f"update {self.step + 1} (epoch {epoch + 1}, micro-step {step}): loss {loss}, learning rate {lr:.6g}, "
                f"gradient norm {self._row['grad_norm']}. The run stopped before this update was applied; {kept} "
                f"are kept. Try a lower --learning_rate, and look at the text that it was "
                f"made of: {self._rows_of_update(step)}."
            )
        self._updating = True

    def _weights_are_finite(self) -> bool:
        return all(bool(torch.isfinite(p).all()) for p in self.model.parameters())

    def _rows_of_update(self, step: int) -> str:
        """The corpus rows in the micro-batches of the update that ends with micro-step `step`, in words."""
        order = self.batches.order()
        first = step - step % self.accumulation_steps
        items = [item for number in range(first, step + 1) for item in self.batches.batch(order, number)]
        rows = sorted({row for item in items for row in self.plan.train_set.corpus_rows(item)})
        shown_rows = ", ".join(map(str, rows[:40])) + (f" and {len(rows) - 40} more" if len(rows) > 40 else "")
        return f"rows {shown_rows} of {shown(self.plan.corpus.path)}"

    def after_update(self, epoch: int, step: int) -> None:
        self._updating = False
        self.step += 1
        self._micro_step_before = self.micro_step
        self.micro_step = epoch * self.iter_per_epoch + step + 1
        self.first_step = step + 1
        self.tokens += self._new_tokens
        self._window.clear()
        self.last_loss = self._row["ce"] + self._row["aux_loss"]
        row = {
            "step": self.step,
            "micro_step": self.micro_step,
            "epoch": epoch + 1,
            "loss": self.last_loss,
            **self._row,
            "tokens": self.tokens,
            "time": round(self.clock.elapsed() + self.seconds, 3),
            "tokens_per_s": round(self.clock.rate(self._new_tokens), 1),
            "memory": peak_memory_mib(self.device),
        }
        self.log_losses.append(self.last_loss)
        self.files.write(row)
        if self.on_update:
            self.on_update(row)
        if step % self.plan.train.log_interval == 0 or self.step == self.plan.updates:
            self._log_line(epoch, step, self._micro_loss)
        self._remember_boundary()
        done = self.step >= self.plan.updates
        if self.step % self._eval_every == 0 or done:
            self._judge()
        if self.step in self._snapshots:
            self.files.snapshot(f"step-{self.step:08d}", self.model, facts_of(self))
        if done:
            self.should_stop = True
        elif self._save_is_due():
            self._save()

    # --- judging and logging --------------------------------------------------------------------------------------

    def _judge(self) -> None:
        """Held-out loss now; on the main process alone."""
        if self.plan.held_out is None or not self.world.is_main:
            return
        paused = time.perf_counter()
        self.last_held_out = held_out_loss(self.model, self.plan.held_out, self.plan.tokenizer, context=self.context)
        row = {
            "step": self.step,
            "held_out_loss": self.last_held_out.loss,
            "perplexity": self.last_held_out.perplexity,
            "bits_per_byte": self.last_held_out.bits_per_byte,
            "tokens": self.tokens,
        }
        if self.best is None or self.last_held_out.loss < self.best[0]:
            self.best = (self.last_held_out.loss, self.step)
            if self.step:
                self.files.snapshot("best", self.model, facts_of(self))
        self.files.write(row)
        if self.on_held_out:
            self.on_held_out(row)
        self.clock.pause(time.perf_counter() - paused)

    def _log_line(self, epoch: int, step: int, micro_loss: float) -> None:
        """The seed's line. The fast recipe logs the mean since the last line, the seed one micro-batch."""
        loss = micro_loss
        if self.plan.recipe.window_loss and self.log_losses:
            loss = sum(self.log_losses) / len(self.log_losses)
        self.log_losses.clear()
        lr = self.learning_rate(epoch, step)
        minutes = self.clock.left(self.total_steps) // 60
        self.say(
            f"Epoch:[{epoch + 1}/{self.epochs}]({step}/{self.iter_per_epoch}) loss:{loss:.3f} lr:{lr:.12f} "
            f"epoch_Time:{minutes}min:"
        )

    # --- saving and resuming --------------------------------------------------------------------------------------

    def _remember_boundary(self) -> None:
        """Random states after an update; a stop in mid-accumulation goes back to them."""
        self.random_states = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda" and self.plan.model.dropout:
            self.random_states["cuda"] = torch.cuda.get_rng_state(self.device)

    def _save_is_due(self) -> bool:
        interval = self.plan.train.save_interval
        if interval:
            return self.micro_step // interval > self._micro_step_before // interval
        if self.save_seconds is None:
            return self.step >= 10
        return self.clock.elapsed() - self._saved_at > max(self.save_seconds / SAVE_SHARE, 20)

    def _save(self) -> None:
        """Weights, facts and the state to resume from; takes the time, by which the next save is due."""
        if self.last_saved_step == self.step:
            return
        if not self._weights_are_finite():
            self.say(f"The weights of update {self.step} are not finite and were not saved; the save before is kept.")
            return
        started = time.perf_counter()
        if self.files.save(self.model, facts_of(self), self.step, state_of(self)):
            self.last_saved_step = self.step
        self.save_seconds = time.perf_counter() - started
        self._saved_at = self.clock.elapsed()
        self.clock.pause(self.save_seconds)

    def _resume(self) -> bool:
        """Go back to the newest state of this run; says so, and says when there is none."""
        state = checkpoint.read_newest_state(self.folder, self.say)
        if state is None:
            self.say(f"Nothing to resume in {shown(self.folder)}: the run starts afresh.")
            return False
        restore(self, state)
        self.last_saved_step = self.step
        self.say(f"Resumed after update {self.step} of {self.plan.updates}.")
        return True

    def _go_on(self) -> bool:
        """In the same process: back to the last update, where an earlier `fit` stopped."""
        if self.random_states is None:
            return False
        self.set_random(self.random_states)
        self.micro_step = self.epoch * self.iter_per_epoch + self.first_step
        return True

    def set_random(self, states: dict[str, Tensor]) -> None:
        torch.set_rng_state(states["cpu"])
        if "cuda" in states:
            torch.cuda.set_rng_state(states["cuda"], self.device)
        self.random_states = states

    def _open_files(self, resumed: bool) -> None:
        self.files.open(self.step if resumed else None)
        if self.plan.train.use_wandb:
            config = {"model": self.plan.model.to_dict(), "train": self.plan.train.to_dict()}
            self.files.mirror_to_wandb(self.plan.train.wandb_project, config)

    def _close_files(self) -> None:
        try:
            if not self._updating:  # interrupted inside an update, the weights are neither old nor new
                self._save()
        finally:
            self.files.close()
        saved = self.last_saved_step == self.step or not self.world.is_main
        if self.step >= self.plan.updates:
            kept = f"weights in {shown(self.plan.weights)}" if saved else "its weights could NOT be saved"
            self.say(f"Done: {self.step} updates, loss {self.last_loss:.3f}; {kept}.")
        elif self.should_stop:
            kept = "saved" if saved else "NOT saved"
            self.say(f"Stopped after update {self.step} of {self.plan.updates}, loss {self.last_loss:.3f}: {kept}.")

    def _result(self) -> RunResult:
        best = self.best or (None, None)
        return RunResult(
            self.step,
            self.step >= self.plan.updates,
            self.last_loss,
            self.last_held_out,
            *best,
            self.seconds,
            self.plan.weights,
        )

    # --- surroundings ---------------------------------------------------------------------------------------------

    @contextmanager
    def _progress(self):
        self.progress = None
        if self.bar and self.world.is_main:
            self.progress = tqdm(
                total=self.total_steps, initial=self.micro_step, unit="step", dynamic_ncols=True, leave=False
            )
        try:
            yield
        finally:
            if self.progress is not None:
                self.progress.close()
            self.progress = None
