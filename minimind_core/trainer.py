"""Trainer: the hooks that make the plain loop a run. It logs, judges, saves, stops gently, and goes on where it was.

The loop itself is training.train_epoch. State is taken after optimizer updates only, so no half accumulation needs
keeping; a run that is stopped in between goes back to the last update. Taught in notebook 06.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from . import reporting, run_state
from .batches import EpochBatches, batch_loader
from .clock import Clock
from .compiling import compiled
from .distributed import World
from .errors import TrainingError
from .evaluation import HeldOut
from .faults import check_numbers, in_words
from .fitting import fitted
from .interrupts import gentle_stop, undisturbed_by_children
from .model import MiniMindLM
from .moe import MoEGate
from .optim import build_optimizer
from .paths import shown
from .plan import RunPlan
from .precision import autocast_context, make_scaler
from .prefetch import ahead
from .progress import Progress
from .run_files import RunFiles
from .saver import Saver, facts_on_disk
from .training import Hooks, train_epoch


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
    saved: bool  # whether `weights` are those of the last update


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
        given, plan = plan, fitted(plan, world)
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
        for note in plan.notes[len(given.notes) :]:
            self.say(note)
        torch.manual_seed(train.seed)
        self.model = (model or MiniMindLM(plan.model)).to(plan.device)
        self._tell_the_model_of_others()
        self.optimizer = build_optimizer(self.model, recipe, self.lr)
        self.forward: Callable = self.model  # compiled, where that is wanted, when the run begins
        self.prefetches = plan.device.type == "cuda"
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
        self.skips = [0, 0]  # updates that a gradient scaler skipped: in all, and in a row
        self.best: tuple[float, int] | None = None
        self.last_held_out: HeldOut | None = None
        self.last_loss = math.nan
        self.log_losses: list[float] = []
        self.seconds = 0.0
        self.random_states: list[dict[str, Tensor]] | None = None  # after the last update, of each process
        self._window: list[tuple[Tensor, Tensor, Tensor]] = []
        self._updating = self._asked_to_stop = self.saving = False
        self._eval_every = train.eval_interval or max(1, plan.updates // 20)
        self.saver = Saver(self.files, plan.parameters, plan.updates, train.save_interval)

    def _tell_the_model_of_others(self) -> None:
        """Of several processes, one may be left without a row, and gates sum over all."""
        self.model.may_have_no_rows = self.world.size > 1
        for module in self.model.modules():
            if isinstance(module, MoEGate):
                module.total = self.world.total

    # --- the run -----------------------------------------------------------------------------------------------

    def fit(self) -> RunResult:
        """Train until the run is complete or stopped (Ctrl-C, the stop button, `stop()`); then save and say so.

        Raises TrainingError when it had to stop, or another process trains this run; StorageError, before it starts,
        when its files cannot be written.
        """
        self.files.check(self.plan.parameters, goes_on=self.plan.train.resume or self._is_under_way())
        with self.files.lock():
            self.should_stop = self._asked_to_stop = False
            self._agree()
            resumed = self._go_on() if self._is_under_way() else self.plan.train.resume and self._resume()
            if self.step >= self.plan.updates and self.saver.is_saved(self) and not self._look_is_due():
                weights = shown(self.plan.weights)
                self.say(f"This run is complete: {self.step} updates; its weights are in {weights}.", log=False)
                return self._result()
            if self.forward is self.model:  # before anything is written: an interrupt is harmless here
                self.forward = compiled(self.model, self.plan, lambda text: self.say(text, log=False))
            self._open_files(resumed)
            self.clock = Clock(self.micro_step)
            self.saver.start()
            self.progress = Progress(self.total_steps, self.micro_step, self.bar and self.world.is_main)
            with gentle_stop(self._is_stopping, self.stop, lambda: self.saving):
                try:
                    with in_words(self):
                        self._look_again()
                        self._epochs()
                finally:
                    self.saving = True
                    with undisturbed_by_children():
                        self.progress.close()
                        self.optimizer.zero_grad(set_to_none=True)
                        self._window.clear()
                        self._close_files()
                        self.seconds += self.clock.elapsed()
                    self.saving = False
            return self._result()

    def _epochs(self) -> None:
        while self.step < self.plan.updates and not self.should_stop:
            with self._batches() as batches:
                train_epoch(self.epoch, self.forward, batches, self.optimizer, self.scaler, self.context, self)
            if not self.should_stop and self.first_step >= self.iter_per_epoch:
                self.epoch, self.first_step = self.epoch + 1, 0

    def _is_stopping(self) -> bool:
        return self.should_stop or self._asked_to_stop

    def stop(self) -> None:
        """Ask the run to stop after the micro-step that it is in; what it has learned is saved.

        Several processes stop after the update that they are in, so that none waits for another.
        """
        self._asked_to_stop = True
        self.should_stop = self.world.size == 1

    def _agree(self) -> None:
        """All processes must be about to train the same run."""
        found = self.world.gathered(self.plan.identity())
        for rank, other in enumerate(found):
            differ = [name for name in found[0] if found[0][name] != other[name]]
            if differ:
                raise TrainingError(
                    f"process {rank} has another {differ[0]} ({other[differ[0]]}) than the main process "
                    f"({found[0][differ[0]]}): start all with the same flags, files and version."
                )

    def _batches(self) -> AbstractContextManager[Iterable]:
        """The epoch's micro-batches; where the device works on its own, made and sent ahead of their time."""
        loader = self._loader()
        return closing(ahead(loader, self._to_device_early)) if self.prefetches else nullcontext(loader)

    def _to_device_early(self, batch: Iterable[Tensor]) -> list[Tensor]:
        pinned = self.device.type == "cuda"  # only from pinned memory does a copy run beside the computation
        return self.to_device(tensor.pin_memory() if pinned else tensor for tensor in batch)

    def _loader(self) -> DataLoader:
        if hasattr(self.plan.train_set, "set_epoch"):
            self.plan.train_set.set_epoch(self.epoch)
        self.batches.set_epoch(self.epoch, self.first_step)
        workers = self.plan.train.num_workers
        return batch_loader(self.plan.train_set, self.batches, workers)

    def _look_is_due(self) -> bool:
        """Whether this update's held-out loss belongs into the metrics and is not there, as after an interrupt."""
        due = self.step % self._eval_every == 0 or self.step >= self.plan.updates
        return due and self.plan.held_out is not None and self.files.lacks_look(self.step)

    def _look_again(self) -> None:
        if self.random_states is None:
            self._remember_boundary()
        if self._look_is_due():
            reporting.judge(self)

    # --- hooks of the loop --------------------------------------------------------------------------------------

    def after_backward(self, epoch: int, step: int, ce: Tensor, aux_loss: Tensor, tokens: Tensor) -> None:
        self._window.append((ce, aux_loss, tokens))
        self.clock.tick()
        self.progress.step()
        if self.files.wants_stop():
            self.stop()
        if step % self.plan.train.log_interval == 0 and not self.closes_window(step):
            reporting.log_line(self, epoch, step, float(self.world.total(ce + aux_loss)))

    def before_update(self, epoch: int, step: int, lr: float, grad_norm: Tensor) -> None:
        ce, aux, tokens, norm, stops = self._numbers(grad_norm)
        self.row = {
            "ce": sum(ce) / len(ce),
            "aux_loss": sum(aux) / len(aux),
            "lr": lr,
            "grad_norm": norm,
        }
        self._micro_loss = ce[-1] + aux[-1]
        self.new_tokens = int(sum(tokens))
        check_numbers(self, step, self.row)
        if stops:
            self.should_stop = True
        self._updating = True

    def _numbers(self, grad_norm: Tensor) -> tuple[list[float], list[float], list[float], float, bool]:
        """Of the micro-steps of an update: cross-entropies, auxiliary losses, tokens; the gradient's norm; whether any
        process is to stop. All in one copy from the device, the only time in an update that it is waited for.
        """
        ce, aux, tokens = zip(*self._window, strict=True)
        stops = self._asked_to_stop or self.world.is_orphan
        shares = self.world.total(torch.stack([*ce, *aux, ce[0].new_tensor(float(stops))]))  # each has its share
        exact = torch.float32 if self.device.type == "mps" else torch.float64
        *found, norm = torch.cat([shares.to(exact), torch.stack([*tokens, grad_norm]).to(exact)]).tolist()
        n = len(ce)
        return found[:n], found[n : 2 * n], found[2 * n + 1 :], norm, bool(found[2 * n])

    def after_update(self, epoch: int, step: int) -> None:
        before = self.micro_step
        self.step += 1
        self.micro_step = epoch * self.iter_per_epoch + step + 1
        self.first_step = step + 1
        self.tokens += self.new_tokens
        self._window.clear()
        loss = self.row["ce"] + self.row["aux_loss"]
        if math.isfinite(loss):  # a skipped update's need not be
            self.last_loss = loss
            self.log_losses.append(loss)
        self._remember_boundary()
        row = reporting.metrics_row(self, epoch, loss)
        self.files.write(row)
        self._updating = False  # weights, position and metrics belong together again
        if self.on_update:
            self.on_update(row)
        if step % self.plan.train.log_interval == 0 or self.step == self.plan.updates:
            reporting.log_line(self, epoch, step, self._micro_loss)
        done = self.step >= self.plan.updates
        if self.step % self._eval_every == 0 or done:
            reporting.judge(self)
        if done:
            self.should_stop = True
        self.saver.after_update(self, before)

    # --- saving and resuming --------------------------------------------------------------------------------------

    def _remember_boundary(self) -> None:
        """Random states after an update; a stop in mid-accumulation goes back to them. Only dropout draws from them."""
        mine = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda" and self.plan.model.dropout:
            mine["cuda"] = torch.cuda.get_rng_state(self.device)
        self.random_states = self.world.gathered(mine) if self.plan.model.dropout else [mine]

    def weights_are_finite(self) -> bool:
        """Whether no weight has become nan or infinite."""
        return all(bool(torch.isfinite(p).all()) for p in self.model.parameters())

    def _resume(self) -> bool:
        """Go back to the newest state of this run; says so, and says when there is none."""
        state = self.world.from_main(lambda: run_state.state_of_this_run(self.plan, self.folder, self.say))
        if state is None:
            return self._find_complete()
        run_state.restore(self, state)
        self._updating = False
        self.saver.resumed(self)
        if self.step < self.plan.updates:
            self.say(f"Resumed after update {self.step} of {self.plan.updates}.")
        return True

    def _find_complete(self) -> bool:
        """Without a state: weights of this very run that are complete need none."""
        facts = facts_on_disk(self.plan.weights)
        complete = facts.get("complete") is True and facts.get("identity") == self.plan.identity()
        if complete and self.plan.weights.is_file() and self.world.size == 1:
            run_state.restore_complete(self, facts)
            self.saver.resumed(self)
            return True
        self.say(f"Nothing to resume in {shown(self.folder)}: the run starts afresh.")
        return False

    def _is_under_way(self) -> bool:
        return self.random_states is not None

    def _go_on(self) -> bool:
        """In the same process: back to the last update, where an earlier `fit` stopped."""
        if not self._updating:
            self.saver.refuse_if_gone_on(self)
        elif not self._resume():  # interrupted inside an update, the weights are neither old nor new
            raise TrainingError(
                "the run was interrupted inside its first updates, before anything was saved: make a new Trainer."
            )
        self.set_random(self.random_states)
        self.micro_step = self.epoch * self.iter_per_epoch + self.first_step
        return True

    def set_random(self, states: list[dict[str, Tensor]]) -> None:
        """Put torch's random numbers where they were; `states` is one for all processes, or one for each."""
        mine = states[self.world.rank if len(states) > 1 else 0]
        torch.set_rng_state(mine["cpu"])
        if "cuda" in mine and self.device.type == "cuda":
            torch.cuda.set_rng_state(mine["cuda"], self.device)
        self.random_states = states

    def _open_files(self, resumed: bool) -> None:
        self.files.open(self.step if resumed else None)
        self.files.note_start(self.plan.flags(), self.plan.updates, str(self.device))
        if self.plan.train.use_wandb:
            config = {"model": self.plan.model.to_dict(), "train": self.plan.train.to_dict()}
            self.files.mirror_to_wandb(self.plan.train.wandb_project, config, resumed)

    def _close_files(self) -> None:
        """The last save of this `fit`, and a word on how it ended."""
        kept = self.saver.finish(self, whole=not self._updating)
        if self.step >= self.plan.updates:
            self.say(f"Done: {self.step} updates, loss {self.last_loss:.3f}; {kept}.")
        elif self.should_stop:
            self.say(f"Stopped after update {self.step} of {self.plan.updates}, loss {self.last_loss:.3f}; {kept}.")

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
            self.saver.is_saved(self),
        )
