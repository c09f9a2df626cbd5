"""Lesson 05: clipping by hand and the usual wrong ways, a spike's picture, and what forward keeps for backward."""

from __future__ import annotations

import math
import re

import pytest
import torch
from conftest import drawn

pytest.importorskip("matplotlib")
pytest.importorskip("ipywidgets")
nbformat = pytest.importorskip("nbformat")


from minimind_core import MiniMindLM, ModelConfig, autocast_context, masked_cross_entropy, parameter_count  # noqa: E402
from minimind_core.checks import precision as checks  # noqa: E402
from minimind_core.checks.clipping import check_clip, gradients_of  # noqa: E402
from minimind_core.lessons import LESSONS  # noqa: E402
from minimind_core.plots import precision as plots  # noqa: E402
from minimind_core.plots import training_step as steps  # noqa: E402
from minimind_core.preflight import training_memory  # noqa: E402

CPU = torch.device("cpu")


def cut(norm_of=None, longer=False, returns="norm", factor_of=None):
    """An answer to the exercise: its norm, whether it lengthens, what it returns, and a tensor's own factor."""

    def answer(gradients, limit):
        norm = norm_of(gradients) if norm_of else torch.cat([g.flatten() for g in gradients]).norm()
        factor = limit / norm if norm > limit or longer else torch.tensor(1.0)
        for g in gradients:
            g *= factor_of(g, limit) if factor_of else factor
        after = torch.cat([g.flatten() for g in gradients]).norm()
        return {"norm": norm, "nothing": None, "after": after, "words": "long"}[returns]

    return answer


def by_value(gradients, limit):
    norm = torch.stack([g.norm() for g in gradients]).norm()
    for g in gradients:
        g.clamp_(-limit, limit)
    return norm


def not_in_place(gradients, limit):
    norm = torch.stack([g.norm() for g in gradients]).norm()
    for g in gradients:
        g = g * min(1.0, limit / norm)
    return norm


def nothing_returned_for_short_ones(gradients, limit):
    return cut()(gradients, limit) if torch.stack([g.norm() for g in gradients]).norm() > limit else None


RIGHT_CUTS = {
    "one factor": cut(),
    "norm of norms": cut(lambda gs: torch.stack([g.norm() for g in gs]).norm()),
    "plain number": lambda gs, limit: cut()(gs, limit).item(),
}
WRONG_CUTS = {
    "each tensor is cut alone": cut(factor_of=lambda g, limit: min(1.0, limit / g.norm().clamp(min=1e-9).item())),
    "each tensor alone is brought to the limit": cut(factor_of=lambda g, limit: limit / g.norm()),
    "short ones too": cut(longer=True),
    "clipping by value": by_value,
    "norms of the tensors are added up": cut(lambda gs: torch.stack([g.norm() for g in gs]).sum()),
    "the root is missing": cut(lambda gs: sum(g.square().sum() for g in gs)),
    "the largest number": cut(lambda gs: max(g.abs().max() for g in gs)),
    "mean square": cut(lambda gs: torch.cat([g.flatten() for g in gs]).square().mean().sqrt()),
    "the last tensor only": cut(lambda gs: gs[-1].norm()),
    "the first tensor only": cut(lambda gs: gs[0].norm()),
    "in place": not_in_place,
    "comes out as": cut(factor_of=lambda g, limit: 0.01),
    "return the norm before clipping": cut(returns="nothing"),
    "which a run wants to log": nothing_returned_for_short_ones,
    "*before* clipping": cut(returns="after"),
    "the tensors are right": cut(returns="words"),
    "divides by 0": lambda gs, limit: (
        cut(factor_of=lambda g, m: min(1.0, m / gs[0].norm().item()))(gs, limit)
        if not any(g.any() for g in gs)
        else cut()(gs, limit)
    ),
}


@pytest.mark.parametrize("name", RIGHT_CUTS)
def test_clipping_by_hand_is_right(name):
    assert check_clip(RIGHT_CUTS[name])


def test_torchs_own_clipping_passes_the_check():
    def torchs(gradients, limit):
        parameters = [torch.zeros_like(g, requires_grad=True) for g in gradients]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        return torch.nn.utils.clip_grad_norm_(parameters, limit)

    assert check_clip(torchs)


@pytest.mark.parametrize("words", WRONG_CUTS)
def test_wrong_cuts_are_recognised(words):
    verdict = check_clip(WRONG_CUTS[words])
    assert verdict.ok is False and words in verdict.message, verdict


def test_a_stub_of_clipping_is_open_and_an_error_is_named():
    for unanswered in (lambda gradients, limit: None, None, ...):
        assert "not answered yet" in repr(check_clip(unanswered))
    assert "ZeroDivisionError" in repr(check_clip(lambda gradients, limit: 1 / 0))


def test_the_gradients_of_the_check_are_as_long_as_they_say():
    parts = gradients_of(8.0)
    assert torch.cat([part.flatten() for part in parts]).norm().item() == pytest.approx(8.0)
    assert sum(part.norm().item() for part in gradients_of(0.9)) > 1.0, "else a sum of norms would pass as a norm"


def test_unscaling_inside_the_loop_is_named():
    def answer(model, optimizer, scaler, batches, grad_clip):
        for X, Y, mask in batches:
            scaler.scale(masked_cross_entropy(model(X).logits, Y, mask) / len(batches)).backward()
            scaler.unscale_(optimizer)

    assert "once per micro-batch: unscale_" in checks.check_update(answer).message


def window_gradient(together):
    """Exercise 2 with one backward at the end: losses added up, or rows in one batch; else one for each."""

    def answer(model, batches):
        total = sum(mask.sum() for *_, mask in batches)
        if together == "rows":
            batches = [[torch.cat(parts) for parts in zip(*batches, strict=True)]]
        losses = [masked_cross_entropy(model(X).logits, Y, mask, total=total) for X, Y, mask in batches]
        for loss in [sum(losses)] if together == "losses" else losses:
            loss.backward()
        return int(total)

    return answer


@pytest.mark.parametrize("together", ["losses", "rows"])
def test_a_window_kept_whole_until_one_backward_is_named(together):
    verdict = checks.check_window_gradient(window_gradient(together))
    assert verdict.ok is False and "backward ran 1 time(s) for 3" in verdict.message
    assert checks.check_window_gradient(window_gradient(""))


@pytest.mark.parametrize("unscaled", [False, True])
def test_clipping_scaled_gradients_is_named_in_a_whole_sentence(unscaled):
    def answer(model, optimizer, scaler, batches, grad_clip):
        for X, Y, mask in batches:
            scaler.scale(masked_cross_entropy(model(X).logits, Y, mask) / len(batches)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), grad_clip)
        if unscaled:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    message = checks.check_update(answer).message
    assert "clipping: clipping" in message or message.startswith("clipped before unscaling: clipping sees gradients")
    assert "clipping sees gradients that are still 1,024 times too long" in message


def update_under(dtype, divided=True, clipped=True, whole=False, drop=0, returns="norm"):
    """Exercise 4 with forward under autocast, the loss too if `whole`; the first `drop` micro-batches are left out."""

    def answer(model, optimizer, scaler, batches, grad_clip):
        for X, Y, mask in batches[drop:]:
            with autocast_context(CPU, dtype):
                logits = model(X).logits
                loss = masked_cross_entropy(logits, Y, mask) if whole else None
            loss = masked_cross_entropy(logits, Y, mask) if loss is None else loss
            scaler.scale(loss / (len(batches) if divided else 1)).backward()
        scaler.unscale_(optimizer)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), grad_clip if clipped else 1e9)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        return norm if returns == "norm" else 1.0

    return answer


SIXTEEN_BITS = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)


@SIXTEEN_BITS
@pytest.mark.parametrize("whole", [False, True])
def test_an_update_under_autocast_is_right(dtype, whole):
    verdict = checks.check_update(update_under(dtype, whole=whole))
    assert verdict, verdict


@SIXTEEN_BITS
@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        ("not clipped", {"clipped": False}),
        ("not divided by the number", {"divided": False}),
        ("before clipping", {"returns": "one"}),
        ("it should be", {"drop": 1}),
    ],
)
def test_wrong_updates_are_recognised_under_autocast(dtype, words, wrong):
    verdict = checks.check_update(update_under(dtype, **wrong))
    assert verdict.ok is False and words in verdict.message, verdict


@pytest.mark.parametrize("apart", [0.0005, 0.005])
def test_a_step_a_little_beside_the_right_one_is_not_called_unclipped(apart):
    def answer(model, optimizer, scaler, batches, grad_clip):
        for X, Y, mask in batches:
            scaler.scale(masked_cross_entropy(model(X).logits, Y, mask) / len(batches)).backward()
        scaler.unscale_(optimizer)
        generator = torch.Generator().manual_seed(1)
        for p in model.parameters():
            p.grad += (
                apart
                * p.grad.norm()
                * torch.nn.functional.normalize(torch.randn(p.shape, generator=generator).flatten(), dim=0).view_as(p)
            )
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), grad_clip)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        return norm

    message = checks.check_update(answer).message
    assert "direction is another one" in message and "clip" not in message


@SIXTEEN_BITS
def test_a_windows_gradient_under_autocast_is_right(dtype):
    def answer(model, batches):
        total = sum(mask.sum() for *_, mask in batches)
        for X, Y, mask in batches:
            with autocast_context(CPU, dtype):
                loss = masked_cross_entropy(model(X).logits, Y, mask, total=total)
            loss.backward()
        return int(total)

    verdict = checks.check_window_gradient(answer)
    assert verdict, verdict


# --- what forward keeps ------------------------------------------------------------------------------------------

SMALL = ModelConfig(dim=64, n_layers=2, n_heads=4, n_kv_heads=2, vocab_size=800, max_seq_len=64)


def batch_of(rows, config=SMALL):
    ids = torch.randint(3, config.vocab_size, (rows, config.max_seq_len - 1))
    return ids, ids.clone(), torch.ones_like(ids)


def kept_in_all(model, batch):
    found = {}

    def remember(tensor):
        found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        loss = masked_cross_entropy(model(batch[0]).logits, *batch[1:])
    for parameter in model.parameters():
        found.pop(parameter.untyped_storage().data_ptr(), None)
    return sum(memory.nbytes() for memory in found.values()), loss


def test_the_parts_add_up_to_all_that_is_kept_and_leave_no_hook_behind():
    model, batch = MiniMindLM(SMALL), batch_of(3)
    parts = steps.kept_by_part(model, batch)
    assert sum(parts.values()) == kept_in_all(model, batch)[0]
    assert list(parts.values()) == sorted(parts.values(), reverse=True) and set(parts) <= set(steps.PARTS)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_each_part_keeps_what_the_lesson_says():
    parts = steps.kept_by_part(MiniMindLM(SMALL), batch_of(4))
    tokens = 4 * 63
    swiglu = SMALL.n_layers * tokens * 4 * (4 * SMALL.ffn_dim + SMALL.dim)  # four of its width, and what went in
    assert parts["SwiGLU"] == swiglu
    assert parts["attention, its shares"] == SMALL.n_layers * 4 * SMALL.n_heads * 63 * 63 * 4
    assert parts["scores"] == pytest.approx(tokens * 4 * (SMALL.vocab_size + SMALL.dim), rel=0.01)
    assert parts["token ids"] == tokens * 8


@pytest.mark.parametrize("rows", [1, 4])
def test_the_reckoning_of_a_run_lies_near_what_is_kept(rows):
    model = MiniMindLM(SMALL)
    weights = parameter_count(model)
    reckoned = training_memory(SMALL, weights, rows, torch.float32) - 2**29 - 16 * weights
    assert 0.6 < sum(steps.kept_by_part(model, batch_of(rows)).values()) / reckoned < 1.1


def test_16_bits_keep_less_but_not_half():
    model, batch = MiniMindLM(SMALL), batch_of(4)
    full = sum(steps.kept_by_part(model, batch).values())
    half = steps.kept_by_part(model, batch, autocast_context(CPU, torch.float16))
    assert 0.5 < sum(half.values()) / full < 0.85
    assert "attention, its shares" not in half, "torch's fused attention makes them again in backward"


def test_an_error_in_forward_leaves_no_hook_behind():
    model, (X, Y, mask) = MiniMindLM(SMALL), batch_of(1)
    with pytest.raises(IndexError):
        steps.kept_by_part(model, (X, Y + 10_000, mask))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_only_a_gpu_has_a_peak_to_tell():
    assert steps.peak_memory(SMALL, 1, torch.float32, CPU) is None


def little_runs(wild):
    calm = {"losses": [6.0 - i / 10 for i in range(6)], "moves": [0.5] * 6}
    return {"SGD": {"no spike": calm, "spike": wild}, "AdamW": {"no spike": calm, "spike": calm}}


FIGURES = {
    "a spike": lambda: steps.spike(little_runs({"losses": [6.0, 5.9, 5.8, 90.0, 7.0, 6.9], "moves": [1.0] * 6}), 2),
    "a spike to nan": lambda: steps.spike(
        little_runs({"losses": [6.0, 5.9, 5.8, 1e9, math.inf, math.nan], "moves": [1, 1, 9, 1e9, math.inf, math.nan]}),
        2,
    ),
    "kept": lambda: steps.kept_over_rows(
        {1: {"SwiGLU": 4e5, "scores": 2e5}, 2: {"SwiGLU": 8e5, "token ids": 9}}, {1: 7e5, 2: 1.4e6}, 2e6
    ),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_drawn_without_a_warning_and_closed(name):
    figure = drawn(FIGURES[name])
    for axes in figure.axes:
        assert axes.get_title(loc="left") or axes.get_title()
        assert axes.get_position().width > 0.2, "the panel collapsed"


def test_the_device_table_says_what_to_do():
    html = plots.device_table().data
    assert html.count("<tr>") == 6 and "what to do" in html
    for device, advice in (
        ("a CPU without", "leave it at auto"),
        ("RTX 4090", "bfloat16: no scaler"),
        ("T4", "skipped"),
    ):
        row = next(row for row in html.split("<tr>") if device in row)
        assert advice in row


@pytest.mark.parametrize(("has", "advice"), [(True, "try bfloat16"), (False, "leave it at auto")])
def test_the_device_table_advises_this_cpu_as_one_that_is_like_it(monkeypatch, has, advice):
    monkeypatch.setattr("minimind_core.precision.cpu_has", lambda name: has)
    rows = plots.device_table().data.split("<tr>")
    here = next(row for row in rows if "this CPU" in row)
    like = next(row for row in rows if ("a CPU with bfloat16" if has else "a CPU without") in row)
    assert advice in here and advice in like


# --- the notebook ------------------------------------------------------------------------------------------------

CELLS = nbformat.read(LESSONS[4].path, as_version=4).cells
TEXT = "\n".join(cell.source for cell in CELLS if cell.cell_type == "markdown")
CODE = [cell.source for cell in CELLS if cell.cell_type == "code"]


def test_cells_are_short_and_no_three_follow_one_text():
    assert 30 <= len(CELLS) <= 60
    for source in CODE[1:]:
        lines = [line for line in source.split("\n") if line.strip()]
        assert len(lines) <= (30 if "class " in source else 18), source
    assert "ccc" not in "".join(cell.cell_type[0] for cell in CELLS[4:])


def test_every_exercise_states_its_stars_and_minutes_and_is_checked():
    titles = re.findall(r"^### Exercise (\d) · .+ · (★{1,3}) · \d+ minutes$", TEXT, re.MULTILINE)
    assert [int(number) for number, _ in titles] == [1, 2, 3, 4]
    stubs = [source for source in CODE if re.search(r"^def my_.+: \.\.\.\n\n\n(checks\.)?check_\w+\(my_\w+\)$", source)]
    assert len(stubs) == TEXT.count("<summary>Hint</summary>") == TEXT.count("<summary>Solution</summary>") == 4


def test_the_product_in_the_prose_has_our_rows_tokens():
    outputs = "".join(output.get("text", "") for cell in CELLS[:5] if "outputs" in cell for output in cell.outputs)
    tokens = re.search(r"Our row so far: (\d+) tokens", outputs)[1]
    assert f"1/(800 · {tokens} · 256)" in TEXT
