"""The loop: the loss over a mask, accumulation against one big batch, hooks, and the reference's run step by step."""

from __future__ import annotations

import copy
import math
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from minimind_core import (
    RECIPES,
    ConfigError,
    Hooks,
    autocast_context,
    build_optimizer,
    describe_device,
    make_scaler,
    masked_cross_entropy,
    pick_device,
    pick_dtype,
    precision,
    train_epoch,
)
from minimind_core.distributed import World

CPU = torch.device("cpu")


def run(model, batches, hooks, optimizer=None, epoch: int = 0):
    """One epoch without mixed precision; returns the optimizer."""
    optimizer = optimizer or build_optimizer(model, RECIPES["seed"], hooks.lr)
    scaler = make_scaler(CPU, torch.float32)
    train_epoch(epoch, model.train(), batches, optimizer, scaler, nullcontext(), hooks)
    return optimizer


class Watching(Hooks):
    """Hooks that keep a copy of the gradients at each update, before the optimizer uses them."""

    model: nn.Module

    def __init__(self, model: nn.Module, *args, **kwargs) -> None:
        super().__init__(*args, grad_clip=1e9, **kwargs)
        self.model, self.gradients, self.updates = model, [], []

    def before_update(self, epoch, step, lr, grad_norm):
        super().before_update(epoch, step, lr, grad_norm)
        self.gradients.append({name: p.grad.clone() for name, p in self.model.named_parameters()})

    def after_update(self, epoch, step):
        self.updates.append((epoch, step))


def random_batches(count: int, rows: int = 4, length: int = 12, vocab: int = 50, seed: int = 5):
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        tokens = torch.randint(vocab, (rows, length + 1), generator=generator)
        found.append((tokens[:, :-1], tokens[:, 1:], torch.ones(rows, length, dtype=torch.int64)))
    return found


def joined(batches):
    return tuple(torch.cat(parts) for parts in zip(*batches, strict=True))


# --- the loss -----------------------------------------------------------------------------------------------------


def test_masked_cross_entropy_is_the_mean_over_the_masked_positions_worked_by_hand():
    logits = torch.log(torch.tensor([[[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]], [[0.25, 0.5, 0.25], [0.2, 0.2, 0.6]]]))
    targets = torch.tensor([[0, 2], [1, 0]])
    found = masked_cross_entropy(logits, targets, torch.tensor([[1, 1], [1, 0]]))
    assert found.item() == pytest.approx(-(math.log(0.7) + math.log(0.3) + math.log(0.5)) / 3, rel=1e-6)


def test_an_empty_mask_gives_zero_and_gradients_of_zero():
    logits = torch.randn(2, 3, 5, requires_grad=True)
    loss = masked_cross_entropy(logits, torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 3, dtype=torch.int64))
    loss.backward()
    assert loss.item() == 0 and not logits.grad.any()


def test_a_given_total_replaces_the_number_of_positions():
    logits, targets, mask = torch.randn(2, 3, 5), torch.randint(5, (2, 3)), torch.ones(2, 3, dtype=torch.int64)
    mean = masked_cross_entropy(logits, targets, mask)
    torch.testing.assert_close(masked_cross_entropy(logits, targets, mask, torch.tensor(12)), mean / 2)


def test_the_loss_of_half_precision_logits_is_computed_in_float32():
    logits = torch.randn(2, 3, 5)
    targets, mask = torch.randint(5, (2, 3)), torch.ones(2, 3, dtype=torch.int64)
    found = masked_cross_entropy(logits.bfloat16(), targets, mask)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, masked_cross_entropy(logits.bfloat16().float(), targets, mask))


# --- the reference's run ------------------------------------------------------------------------------------------


def test_twelve_training_steps_are_the_references(golden):
    figures, tensors = golden.figures["train"], golden.tensors
    # The reference rounds its experts' output to float16 while training.
    tolerance = 2e-2 if golden.config.use_moe else 1e-3
    model = golden.model()
    batches = [(b[:, :-1], b[:, 1:], m) for b, m in zip(tensors["train_batches"], tensors["train_masks"], strict=True)]
    accumulation = figures["accumulation_steps"]
    hooks = Hooks(12, lr=figures["lr"], accumulation_steps=accumulation, grad_clip=figures["grad_clip"])
    run(model, batches, hooks)
    assert hooks.losses == pytest.approx(figures["losses"], abs=tolerance)
    assert [hooks.learning_rate(0, step) for step in range(12)] == pytest.approx(figures["lrs"], rel=1e-12)
    assert hooks.lrs == pytest.approx(figures["lrs"][accumulation - 1 :: accumulation], rel=1e-12)
    assert hooks.grad_norms == pytest.approx(figures["grad_norms"], abs=tolerance)
    with torch.no_grad():
        logits = model.eval()(tensors["input_ids"]).logits
    torch.testing.assert_close(logits, tensors["logits_after_training"], atol=tolerance, rtol=0)


# --- accumulation -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"use_moe": True}], ids=["dense", "experts"])
def test_four_times_eight_rows_give_the_gradients_of_thirty_two(changes, tiny_model):
    small = random_batches(4, rows=8)
    gradients = []
    for batches in (small, [joined(small)]):
        model = tiny_model(**changes)
        hooks = Watching(model, len(batches), accumulation_steps=len(batches))
        run(model, batches, hooks)
        gradients += hooks.gradients
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-6, rtol=1e-4)


def test_rows_of_unequal_length_make_accumulation_a_mean_of_means(tiny_model):
    small = random_batches(2, rows=2)
    small[0][2][:, 3:] = 0  # the first micro-batch counts 6 positions, the second 24
    model = tiny_model()
    wanted = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for X, Y, mask in small:
        model.zero_grad()
        masked_cross_entropy(model(X).logits, Y, mask).backward()
        for name, parameter in model.named_parameters():
            wanted[name] += parameter.grad / 2
    model.zero_grad(set_to_none=True)
    hooks = Watching(model, 2, accumulation_steps=2)
    run(model, small, hooks)
    torch.testing.assert_close(hooks.gradients[0], wanted, atol=1e-6, rtol=1e-4)


def test_the_last_incomplete_window_is_divided_by_what_it_holds(tiny_model):
    batches = random_batches(5)
    model = tiny_model()
    hooks = Watching(model, 5, accumulation_steps=3, lr=0.0)  # both windows see the same weights
    run(model, batches, hooks)
    assert hooks.updates == [(0, 2), (0, 4)]
    for found, part in zip(hooks.gradients, (batches[:3], batches[3:]), strict=True):
        alone = tiny_model()
        once = Watching(alone, 1, accumulation_steps=1)
        run(alone, [joined(part)], once)
        torch.testing.assert_close(found, once.gradients[0], atol=1e-6, rtol=1e-4)


def test_a_micro_batch_without_anything_to_learn_does_no_harm(tiny_model):
    batches = random_batches(2)
    batches[0][2].zero_()
    model = tiny_model()
    hooks = Watching(model, 2, accumulation_steps=2)
    run(model, batches, hooks)
    assert hooks.losses[0] == 0 and all(math.isfinite(x) for x in hooks.losses + hooks.grad_norms)
    assert all(torch.isfinite(p).all() for p in model.parameters())


@pytest.mark.parametrize(
    ("steps", "accumulation", "windows", "closes"),
    [
        (5, 3, [3, 3, 3, 2, 2], [2, 4]),
        (6, 3, [3] * 6, [2, 5]),
        (4, 1, [1] * 4, [0, 1, 2, 3]),
        (3, 8, [3, 3, 3], [2]),
        (7, 6, [6] * 6 + [1], [5, 6]),
        (1, 1, [1], [0]),
    ],
)
def test_windows_close_after_so_many_micro_steps_or_with_the_epoch(steps, accumulation, windows, closes):
    hooks = Hooks(steps, accumulation_steps=accumulation)
    assert [hooks.window(step) for step in range(steps)] == windows
    assert [step for step in range(steps) if hooks.closes_window(step)] == closes


# --- the loop -----------------------------------------------------------------------------------------------------


def test_the_rate_of_each_micro_step_follows_the_schedule_over_all_epochs(tiny_model):
    hooks = Hooks(4, epochs=2, lr=1e-3, accumulation_steps=1, schedule="linear", warmup_steps=2)
    optimizer = run(tiny_model(), random_batches(4), hooks, epoch=1)
    wanted = [1e-3 * (1 - 0.9 * step / 8) for step in range(4, 8)]
    assert hooks.lrs == pytest.approx(wanted)
    assert optimizer.param_groups[0]["lr"] == hooks.lrs[-1]


def test_gradients_longer_than_the_clip_are_scaled_down_to_it(tiny_model):
    model = tiny_model()
    before = copy.deepcopy(model)
    hooks = Hooks(1, lr=1.0, accumulation_steps=1, grad_clip=0.01, schedule="constant")
    run(model, random_batches(1), hooks, torch.optim.SGD(model.parameters(), lr=1.0))
    moved = sum(((a - b) ** 2).sum() for a, b in zip(model.parameters(), before.parameters(), strict=True)).sqrt()
    assert hooks.grad_norms[0] > 0.1 and moved.item() == pytest.approx(0.01, rel=1e-3)


def test_gradients_are_forgotten_after_an_update(tiny_model):
    model = tiny_model()
    run(model, random_batches(2), Hooks(2, accumulation_steps=2))
    assert all(p.grad is None for p in model.parameters())


def test_the_loop_can_start_in_the_middle_of_an_epoch(tiny_model):
    hooks = Watching(tiny_model(), 6, accumulation_steps=2)
    hooks.first_step = 2
    run(hooks.model, random_batches(6)[2:], hooks)
    assert hooks.updates == [(0, 3), (0, 5)] and len(hooks.losses) == 4
    assert hooks.lrs == pytest.approx([hooks.learning_rate(0, 3), hooks.learning_rate(0, 5)])


def test_the_loop_stops_after_the_micro_step_in_which_it_was_asked_to(tiny_model):
    hooks = Watching(tiny_model(), 9, accumulation_steps=2)
    hooks.after_update = lambda epoch, step: setattr(hooks, "should_stop", step == 3)
    run(hooks.model, random_batches(9), hooks)
    assert len(hooks.losses) == 4


def test_an_update_refused_by_a_hook_changes_nothing(tiny_model):
    model = tiny_model()
    before = copy.deepcopy(model.state_dict())
    hooks = Hooks(1, accumulation_steps=1)

    def refuse(*_):
        raise RuntimeError("no")

    hooks.before_update = refuse
    with pytest.raises(RuntimeError, match="no"):
        run(model, random_batches(1), hooks)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_loss_falls_when_a_model_sees_the_same_rows_again(tiny_model):
    hooks = Hooks(30, lr=1e-2, accumulation_steps=1)
    run(tiny_model(), random_batches(1) * 30, hooks)
    assert hooks.losses[-1] < hooks.losses[0] - 1


# --- device and format --------------------------------------------------------------------------------------------


def test_without_a_gpu_the_cpu_is_taken_in_float32(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device() == CPU and "CPU" in describe_device(CPU)
    for recipe in RECIPES:
        dtype, why = pick_dtype("auto", CPU, recipe)
        assert dtype == torch.float32 and "float32" in why


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_a_format_that_the_cpu_lacks_runs_as_float32_with_a_word(monkeypatch, name):
    monkeypatch.setattr(precision, "cpu_has", lambda asked: False)
    dtype, why = pick_dtype(name, CPU)
    assert dtype == torch.float32 and name in why and "float32 is used" in why
    monkeypatch.setattr(precision, "cpu_has", lambda asked: True)
    assert pick_dtype(name, CPU)[0] == getattr(torch, name)


def test_recipes_differ_in_their_format_on_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    gpu = torch.device("cuda", 0)
    assert pick_dtype("auto", gpu, "seed")[0] == torch.float16
    assert pick_dtype("auto", gpu, "fast")[0] == torch.bfloat16
    assert pick_dtype("float32", gpu, "seed")[0] == torch.float32
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    dtype, why = pick_dtype("bfloat16", gpu)
    assert dtype == torch.float16 and "no bfloat16" in why and "scaler" in why


@pytest.mark.parametrize("name", ["cuda", "cuda:3", "mps", "xpu", "nonsense"])
def test_a_device_that_is_not_there_is_refused_with_a_way_out(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"(Use --device cpu|allowed are auto, cpu)"):
        pick_device(name)


def test_the_scaler_works_for_float16_only():
    assert [make_scaler(CPU, t).is_enabled() for t in (torch.float32, torch.bfloat16, torch.float16)] == [
        False,
        False,
        True,
    ]


def test_autocast_computes_in_the_format_that_was_asked_for():
    part, x = nn.Linear(4, 4), torch.randn(2, 4)
    for dtype in (torch.float32, torch.bfloat16):
        with autocast_context(CPU, dtype):
            assert part(x).dtype == dtype


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_scaler_skips_the_update_of_an_overflow_and_goes_on(recipe, tiny_model):
    model = tiny_model().train()
    optimizer = build_optimizer(model, RECIPES[recipe], 1e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    before = copy.deepcopy(model.state_dict())
    hooks = Hooks(2, accumulation_steps=1)
    spoiled = random_batches(2)
    original = model.forward

    def overflowing(x):
        output = original(x)
        if len(hooks.losses) == 0:
            output.logits = output.logits * 1e38
        return output

    model.forward = overflowing
    train_epoch(0, model, spoiled[:1], optimizer, scaler, nullcontext(), hooks)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert scaler.get_scale() == 2.0**39
    hooks.first_step = 1
    train_epoch(0, model, spoiled[1:], optimizer, scaler, nullcontext(), hooks)
    assert not all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


class OverflowElsewhere(World):
    """A process whose fellow, with whom it adds up gradients, has met an overflow in its own micro-batch."""

    def add_gradients(self, model: nn.Module) -> None:
        for parameter in model.parameters():
            parameter.grad.fill_(torch.inf)


def test_an_overflow_in_another_process_skips_the_update_in_this_one_too(tiny_model):
    model = tiny_model().train()
    before = copy.deepcopy(model.state_dict())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    hooks = Hooks(1, accumulation_steps=1, world=OverflowElsewhere())
    optimizer = build_optimizer(model, RECIPES["seed"], 1e-3)
    train_epoch(0, model, random_batches(1), optimizer, scaler, nullcontext(), hooks)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert scaler.get_scale() == 2.0**9
