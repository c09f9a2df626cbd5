"""Lesson 03: checks name every typical slip, hand-built classes equal minimind_core's, viewers say what is."""

from __future__ import annotations

import ast
import json
import math
import re

import matplotlib
import matplotlib.pyplot as plt
import pytest
import torch
import torch.nn.functional as F
from conftest import tiny_config

import minimind_core as core
from minimind_core import MiniMindLM
from minimind_core.checks.experts import check_balance, check_route
from minimind_core.checks.model import check_attention, check_rms_norm, check_rotary, prove_equal
from minimind_core.errors import InputError
from minimind_core.lessons import LESSONS
from minimind_core.plots import attention as heads
from minimind_core.plots import model as look
from minimind_core.plots import model_inside as look_inside
from minimind_core.plots.model_map import plot_model_map
from minimind_core.plots.style import use_course_style
from minimind_core.widgets import model as viewers
from minimind_core.widgets import model_costs

CELLS = json.loads(LESSONS[2].path.read_text(encoding="utf-8"))["cells"]


def stub(*inputs): ...


def raises(*inputs):
    raise ValueError("that went wrong")


# --- checks -------------------------------------------------------------------------------------------------------

CHECKS = [check_rms_norm, check_rotary, check_attention, check_route, check_balance]


@pytest.mark.parametrize("check", CHECKS)
def test_a_stub_is_open_and_an_error_is_told(check) -> None:
    assert check(stub).ok is None and "○ not answered yet" in repr(check(stub))
    assert check(...).ok is None
    assert check(raises).ok is False and "ValueError: that went wrong" in repr(check(raises))


@pytest.mark.parametrize("check", CHECKS)
def test_what_is_no_tensor_of_the_right_shape_is_told(check) -> None:
    assert check(lambda *inputs: 1.5).ok is False
    assert check(lambda *inputs: torch.zeros(1)).ok is False


def rms(x, weight, eps):
    return weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)


RMS_SLIPS = {
    "subtract the mean": lambda x, w, eps: rms(x - x.mean(-1, keepdim=True), w, eps),
    "that is LayerNorm": lambda x, w, eps: F.layer_norm(x, x.shape[-1:], w, None, eps),
    "standard deviation": lambda x, w, eps: w * x / (x.std(-1, keepdim=True) + eps),
    "weight is missing": lambda x, w, eps: rms(x, 1.0, eps),
    "eps is missing": lambda x, w, eps: rms(x, w, 0.0),
    "inside the square root": lambda x, w, eps: w * x / (x.pow(2).mean(-1, keepdim=True).sqrt() + eps),
    "square root is missing": lambda x, w, eps: w * x / (x.pow(2).mean(-1, keepdim=True) + eps),
    "you divide by the vector's length": lambda x, w, eps: w * x / x.norm(dim=-1, keepdim=True),
    "smaller by √D": lambda x, w, eps: w * x / (x.norm(dim=-1, keepdim=True) + eps),
    "with keepdim=True it stays": lambda x, w, eps: w * x * torch.rsqrt(x.pow(2).mean(-1) + eps),
    "divide by D": lambda x, w, eps: w * x * torch.rsqrt(x.pow(2).sum(-1, keepdim=True) + eps),
    "each vector alone": lambda x, w, eps: w * x * torch.rsqrt(x.pow(2).mean() + eps),
    "over the tokens": lambda x, w, eps: w * x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + eps),
    "instead of dividing": lambda x, w, eps: w * x * (x.pow(2).mean(-1, keepdim=True) + eps).sqrt(),
    "no gradient flows back to x": lambda x, w, eps: rms(x.detach(), w, eps),
    "gradient of x is not": lambda x, w, eps: w * x * torch.rsqrt(x.detach().pow(2).mean(-1, keepdim=True) + eps),
    "the values are not": lambda x, w, eps: 3 * rms(x, w, eps),
    "infinite or NaN": lambda x, w, eps: rms(x, w, eps) / 0,
    "shape should be": lambda x, w, eps: rms(x, w, eps)[0],
}


@pytest.mark.parametrize("message", RMS_SLIPS)
def test_rms_norm_slips_are_named(message: str) -> None:
    verdict = check_rms_norm(RMS_SLIPS[message])
    assert verdict.ok is False and message in verdict.message


def test_rms_norm_right_answers_pass() -> None:
    assert check_rms_norm(rms)
    assert check_rms_norm(lambda x, weight, eps: F.rms_norm(x, x.shape[-1:], weight, eps))


def rotate(x, cos, sin):
    a, b = x[..., 0::2], x[..., 1::2]
    cos, sin = cos[:, None], sin[:, None]
    return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)


def rotate_halves(x, cos, sin):
    a, b = x.chunk(2, dim=-1)
    cos, sin = torch.cat((cos, cos), -1)[:, None], torch.cat((sin, sin), -1)[:, None]
    return x * cos + torch.cat((-b, a), -1) * sin


def rotate_and_leave_apart(x, cos, sin):
    return torch.cat((rotate(x, cos, sin)[..., 0::2], rotate(x, cos, sin)[..., 1::2]), -1)


def signs(x, cos, sin, first, second):
    a, b = x[..., 0::2], x[..., 1::2]
    cos, sin = cos[:, None], sin[:, None]
    return torch.stack((a * cos + first * b * sin, second * a * sin + b * cos), dim=-1).flatten(-2)


def rotate_in_place(x, cos, sin, keep=False):
    a, b, cos, sin = x[..., 0::2], x[..., 1::2], cos[:, None], sin[:, None]
    a, b = (a.clone(), b.clone()) if keep else (a, b)
    x[..., 0::2] = a * cos - b * sin
    x[..., 1::2] = a * sin + b * cos
    return x


def rotate_in_place_from_behind(x, cos, sin):
    cos, sin = cos[:, None], sin[:, None]
    x[..., 1::2] = x[..., 0::2] * sin + x[..., 1::2] * cos
    x[..., 0::2] = x[..., 0::2] * cos - x[..., 1::2] * sin
    return x


ROTARY_SLIPS = {
    "first elements were overwritten": rotate_in_place,
    "second elements were overwritten": rotate_in_place_from_behind,
    "a dimension for the heads": lambda x, cos, sin: x[..., 0::2] * cos,
    "(halves)": rotate_halves,
    "must be neighbours again": rotate_and_leave_apart,
    "turn the other way": lambda x, cos, sin: rotate(x, cos, -sin),
    "a sign: odd'": lambda x, cos, sin: signs(x, cos, sin, -1, -1),
    "a sign: even'": lambda x, cos, sin: signs(x, cos, sin, 1, 1),
    "unturned": lambda x, cos, sin: x,
    "sine's half is missing": lambda x, cos, sin: rotate(x, cos, 0 * sin),
    "no gradient flows back to x": lambda x, cos, sin: rotate(x.detach(), cos, sin),
}


@pytest.mark.parametrize("message", ROTARY_SLIPS)
def test_rotary_slips_are_named(message: str) -> None:
    verdict = check_rotary(ROTARY_SLIPS[message])
    assert verdict.ok is False and message in verdict.message


def test_rotary_right_answers_pass() -> None:
    assert check_rotary(rotate) and check_rotary(core.apply_rotary)
    assert check_rotary(lambda x, cos, sin: rotate_in_place(x, cos, sin, keep=True))


def attend(
    q,
    k,
    v,
    scale=None,
    shift=True,
    strict=0,
    repeat=torch.Tensor.repeat_interleave,
    axis=-1,
    late=False,
    hide=-torch.inf,
):
    group, (T, S) = q.shape[1] // k.shape[1], (q.shape[2], k.shape[2])
    k, v = (repeat(each, group, dim=1) for each in (k, v))
    scores = q @ k.transpose(-2, -1) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    mask = torch.ones(T, S, dtype=torch.bool).tril((S - T if shift else 0) - strict)
    if late:
        return (scores.softmax(axis) * mask) @ v
    return scores.masked_fill(~mask, hide).softmax(axis) @ v


def in_turn(each, times, dim):
    return each.repeat(1, times, 1, 1)


ATTENTION_SLIPS = {
    "not divided by √Dh": {"scale": 1.0},
    "where √Dh is meant": {"scale": 1 / 16},
    "multiplied by √Dh": {"scale": 4.0},
    "align it to the bottom right": {"shift": False},
    "must see itself too": {"strict": 1},
    "look into the future": {"strict": -5},
    "after the softmax": {"late": True},
    "set to 0, but": {"hide": 0.0},
    "repeat_interleave": {"repeat": in_turn},
    "over the queries": {"axis": -2},
}


@pytest.mark.parametrize("message", ATTENTION_SLIPS)
def test_attention_slips_are_named(message: str) -> None:
    verdict = check_attention(lambda q, k, v: attend(q, k, v, **ATTENTION_SLIPS[message]))
    assert verdict.ok is False and message in verdict.message
    others = [other for other in ATTENTION_SLIPS if other != message]
    assert not any(other in verdict.message for other in others), "only the slip that was made is named"


def test_a_mask_the_wrong_way_round_is_named() -> None:
    def upside_down(q, k, v):
        k, v = (each.repeat_interleave(2, dim=1) for each in (k, v))
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(k.shape[2] - q.shape[2])
        return scores.masked_fill(~mask, -torch.inf).softmax(-1) @ v

    assert "wrong way round" in check_attention(upside_down).message


@pytest.mark.parametrize("values_too", [False, True])
def test_heads_that_are_not_repeated_are_named(values_too: bool) -> None:
    def answer(q, k, v):
        k = k.repeat_interleave(2, dim=1) if values_too else k
        return (q @ k.transpose(-2, -1)).softmax(-1) @ v

    message = check_attention(answer).message
    assert "RuntimeError" in message and "its own copy" in message and "repeat_interleave" in message


def test_minus_a_billion_hides_as_well_as_minus_infinity() -> None:
    assert check_attention(lambda q, k, v: attend(q, k, v, hide=-1e9))


def test_two_attention_slips_at_once_are_both_named() -> None:
    verdict = check_attention(lambda q, k, v: attend(q, k, v, scale=1.0, repeat=in_turn))
    assert "not divided by √Dh" in verdict.message and "repeat_interleave" in verdict.message


def test_attention_right_answers_pass_and_the_gradient_is_looked_at() -> None:
    assert check_attention(attend)
    cut = check_attention(lambda q, k, v: attend(q.detach(), k, v))
    assert cut.ok is False and "no gradient flows back to the queries" in cut.message


def torch_attends(q, k, v):
    mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril(k.shape[2] - q.shape[2])
    return F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=True)


@pytest.mark.parametrize("answer", [torch_attends, core.causal_attention, F.scaled_dot_product_attention])
def test_attention_in_one_call_is_not_allowed(answer) -> None:
    verdict = check_attention(answer)
    assert verdict.ok is False and "scaled_dot_product_attention" in verdict.message
    assert "not allowed" in verdict.message


def test_watching_an_answer_leaves_torch_as_it_was() -> None:
    kept = F.scaled_dot_product_attention
    check_attention(torch_attends), check_attention(raises)
    assert F.scaled_dot_product_attention is kept
    assert check_attention(attend), "what one answer called is not held against the next"


def route(logits, k, normalise):
    weights, indices = logits.softmax(-1).topk(k, dim=-1)
    return indices, weights / weights.sum(-1, keepdim=True) if normalise and k > 1 else weights


def with_weights(change):
    """A route whose weights are made by `change(logits, indices, k, normalise)`."""

    def run(logits, k, normalise):
        indices, _ = route(logits, k, normalise)
        return indices, change(logits, indices, k, normalise)

    return run


def shares(logits, indices):
    return logits.softmax(-1).gather(1, indices)


def divided_before(logits, k):
    scores = logits.softmax(-1)
    weights, indices = (scores / scores.sum(-1, keepdim=True)).topk(k, dim=-1)
    return indices, weights


ROUTE_SLIPS = {
    "do not add up to 1": with_weights(lambda x, i, k, n: shares(x, i)),
    "dividing before top-k changes nothing": lambda x, k, n: divided_before(x, k),
    "softmax after top-k": with_weights(lambda x, i, k, n: x.gather(1, i).softmax(-1)),
    "a second softmax": with_weights(lambda x, i, k, n: shares(x, i).softmax(-1)),
    "although normalise is False": with_weights(lambda x, i, k, n: shares(x, i) / shares(x, i).sum(-1, keepdim=True)),
    "gate gets no gradient": with_weights(
        lambda x, i, k, n: shares(x, i) / shares(x, i).sum(-1, keepdim=True) if n else shares(x, i)
    ),
    "raw logits": with_weights(lambda x, i, k, n: x.gather(1, i)),
    "over the tokens": with_weights(lambda x, i, k, n: x.softmax(0).gather(1, i)),
    "indices come first": lambda x, k, n: route(x, k, n)[::-1],
    "lowest scores": lambda x, k, n: (x.topk(k, largest=False).indices, route(x, k, n)[1]),
    "other experts are wanted": lambda x, k, n: ((route(x, k, n)[0] + 1) % 5, route(x, k, n)[1]),
    "two things are wanted": lambda x, k, n: route(x, k, n)[1],
    "no gradient flows back to the logits": lambda x, k, n: route(x.detach(), k, n),
}


@pytest.mark.parametrize("message", ROUTE_SLIPS)
def test_route_slips_are_named(message: str) -> None:
    verdict = check_route(ROUTE_SLIPS[message])
    if message == "although normalise is False":  # the same numbers as the softmax over the chosen: either name will do
        message = "add up to 1 though nobody asked"
    assert verdict.ok is False and message in verdict.message


def test_route_right_answers_pass_in_any_order() -> None:
    assert check_route(route)
    assert check_route(lambda x, k, n: tuple(each.flip(-1) for each in route(x, k, n)))


def balance(scores, chosen, alpha):
    share = F.one_hot(chosen, scores.shape[-1]).float().mean((1, 2))
    return alpha * scores.shape[-1] * (share * scores.mean(1)).sum(-1).mean()


def counts(chosen, experts):
    return F.one_hot(chosen, experts).float().sum((1, 2))  # (B, E) assignments


BALANCE_SLIPS = {
    "the factor E is missing": lambda s, c, a: balance(s, c, a) / s.shape[-1],
    "mean over the experts": lambda s, c, a: a * 7 * ((counts(c, 7) / c[0].numel()) * s.mean(1)).mean(),
    "you count tokens where": lambda s, c, a: a * 7 * ((counts(c, 7) / s.shape[1]) * s.mean(1)).sum(-1).mean(),
    "counts, not shares": lambda s, c, a: a * 7 * (counts(c, 7) * s.mean(1)).sum(-1).mean(),
    "scores are summed": lambda s, c, a: balance(s, c, a) * s.shape[1],
    "rows are summed": lambda s, c, a: balance(s, c, a) * s.shape[0],
    "alpha is missing": lambda s, c, a: balance(s, c, 1.0),
    "row by row": lambda s, c, a: balance(s.flatten(0, 1)[None], c.flatten(0, 1)[None], a),
    "only each token's first choice": lambda s, c, a: balance(s, c[..., :1], a),
    "the shares are squared": lambda s, c, a: a * 7 * (counts(c, 7) / c[0].numel()).pow(2).sum(-1).mean(),
    "the scores are squared": lambda s, c, a: a * 7 * s.mean(1).pow(2).sum(-1).mean(),
    "added where they should": lambda s, c, a: a * 7 * (counts(c, 7) / c[0].numel() + s.mean(1)).sum(-1).mean(),
    "no gradient flows back to the scores": lambda s, c, a: balance(s.detach(), c, a),
    "shape should be ()": lambda s, c, a: balance(s, c, a)[None],
    "a tensor of shape ()": lambda s, c, a: balance(s, c, a).item(),
}


@pytest.mark.parametrize("message", BALANCE_SLIPS)
def test_balance_slips_are_named(message: str) -> None:
    verdict = check_balance(BALANCE_SLIPS[message])
    assert verdict.ok is False and message in verdict.message


def test_two_balance_slips_at_once_are_both_named_and_the_right_answer_passes() -> None:
    verdict = check_balance(lambda s, c, a: balance(s, c, 1.0) / 7)
    assert "factor E is missing" in verdict.message and "alpha is missing" in verdict.message
    assert check_balance(balance)


def test_prove_equal_prints_or_stops(capsys) -> None:
    x = torch.randn(2, 3)
    prove_equal("part", x, x + 1e-7)
    assert re.fullmatch(r"part \(2, 3\): largest difference \S+ → equal\.\n", capsys.readouterr().out)
    for other in (x + 1e-3, x[:1], x * torch.nan):
        with pytest.raises(AssertionError, match="part"):
            prove_equal("part", x, other)


# --- the notebook's own code --------------------------------------------------------------------------------------


def lesson_code() -> dict:
    """What the notebook defines, without running its cells: classes and functions, exercise stubs left out."""
    found: list[ast.stmt] = []
    for cell in CELLS:
        if cell["cell_type"] == "code":
            for node in ast.parse("".join(cell["source"])).body:
                wanted = isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.Import, ast.ImportFrom))
                if wanted and not getattr(node, "name", "").startswith("my_"):
                    found.append(node)
    space: dict = {}
    exec(compile(ast.Module(found, []), "lesson 03", "exec"), space)
    return space


SHAPES = [
    {},
    {"n_kv_heads": 4},
    {"n_kv_heads": 1, "n_layers": 3},
    {"use_moe": True},
    {"use_moe": True, "num_experts_per_tok": 1, "n_routed_experts": 3},
    {"use_moe": True, "norm_topk_prob": False, "num_experts_per_tok": 3},
]


@pytest.mark.parametrize("changes", SHAPES)
def test_the_class_that_the_notebook_builds_is_the_class_that_trains(changes: dict) -> None:
    code, config = lesson_code(), tiny_config(**changes)
    theirs = MiniMindLM(config).eval()
    for name, weight in theirs.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(weight, 0.5, 1.5)
    mine = code["Model"](config, code["Experts"] if config.use_moe else code["FeedForward"])
    assert list(dict(mine.named_parameters())) and set(mine.state_dict()) == set(theirs.state_dict())
    mine.load_state_dict(theirs.state_dict())
    ids = torch.randint(config.vocab_size, (3, 20))
    torch.testing.assert_close(mine(ids), theirs(ids).logits)
    targets = torch.randint(config.vocab_size, (3 * 20,))
    for model_logits in (mine(ids), theirs(ids).logits):
        F.cross_entropy(model_logits.flatten(0, 1), targets).backward()
    grads = dict(theirs.named_parameters())
    for name, parameter in mine.named_parameters():
        torch.testing.assert_close(parameter.grad, grads[name].grad, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("changes", SHAPES)
def test_the_parameter_table_counts_the_real_model(changes: dict) -> None:
    config = tiny_config(**changes)
    table = lesson_code()["parameter_table"](config)
    model = MiniMindLM(config)
    assert sum(table.values()) == core.parameter_count(model)
    assert sum(table.values()) - table.get("idle experts", 0) == core.active_parameter_count(model)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_balancing_loss_of_the_notebook_is_the_gates(k: int) -> None:
    config = tiny_config(use_moe=True, num_experts_per_tok=k)
    gate, x = core.MoEGate(config), torch.randn(3, 7, config.dim)
    indices, _, aux_loss = gate(x)
    scores = F.linear(x, gate.weight).softmax(-1)
    by_hand = lesson_code()["balance"](scores, indices.view(3, 7, k), config.aux_loss_alpha)
    torch.testing.assert_close(by_hand, aux_loss)


SOLUTIONS = {
    "my_rms_norm": check_rms_norm,
    "my_rotate": check_rotary,
    "my_attention": check_attention,
    "my_route": check_route,
    "my_balance": check_balance,
}


def test_every_exercise_has_a_stub_a_check_and_a_solution_that_passes() -> None:
    prose = "\n".join("".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "markdown")
    code = "\n".join("".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code")
    solutions = [block for block in re.findall(r"```python\n(.*?)```", prose, re.S) if "def my_" in block]
    space: dict = {"torch": torch, "math": math, "Tensor": torch.Tensor, "F": F}
    for solution in solutions:
        exec(solution, space)
    assert len(solutions) == len(SOLUTIONS)
    for name, check in SOLUTIONS.items():
        assert f"{check.__name__}({name})" in code
        assert check(space[name]), name
    assert re.findall(r"· (★+) · \d+ minutes", prose)


def test_the_folded_cell_on_halves_shows_that_an_order_is_all_there_is_to_it(capsys) -> None:
    prose = "\n".join("".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "markdown")
    [snippet] = [block for block in re.findall(r"```python\n(.*?)```", prose, re.S) if "def halves" in block]
    exec(snippet, lesson_code())
    assert float(re.search(r"tensor\(([\d.e-]+)\)", capsys.readouterr().out)[1]) < 1e-4


def test_the_folded_cell_on_the_auxiliary_loss_shows_its_least_and_nearly_its_most(capsys) -> None:
    prose = "\n".join("".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "markdown")
    [snippet] = [block for block in re.findall(r"```python\n(.*?)```", prose, re.S) if "collapsed" in block]
    exec(snippet, lesson_code())
    even, collapsed = map(float, re.findall(r"auxiliary loss ([\d.]+) with", capsys.readouterr().out))
    assert even == pytest.approx(0.1, abs=1e-3) and 0.19 < collapsed < 0.2, "E / k times alpha at most"


@pytest.mark.parametrize("changes", SHAPES)
def test_flops_by_hand_are_those_that_are_counted(changes: dict) -> None:
    code, config = lesson_code(), tiny_config(**changes)
    model = code["Model"](config, code["Experts"] if config.use_moe else code["FeedForward"])
    ids = torch.randint(config.vocab_size, (2, 20))
    norms = 2 * sum(weight.numel() for weight in model.parameters() if weight.dim() == 1)
    assert code["counted"](model, ids, False) == code["by_hand"](config, 20) - norms
    assert code["counted"](model, ids, True) == 3 * (code["by_hand"](config, 20) - norms)
    assert 1e6 * model_costs.model_costs(config, 20)["million FLOPs a token"] == pytest.approx(
        3 * code["by_hand"](config, 20)
    )


# --- looking into a model -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"n_kv_heads": 1}, {"use_moe": True}])
def test_attention_maps_are_what_attention_does(tiny_model, changes: dict) -> None:
    model = tiny_model(**changes)
    ids = torch.randint(50, (1, 9))
    maps = viewers.attention_maps(model.train(), ids)
    assert maps.shape == (2, 4, 9, 9) and model.training and not model.layers[0].attention._forward_pre_hooks
    torch.testing.assert_close(maps.sum(-1), torch.ones(2, 4, 9))
    assert not maps.triu(1).any()
    # Values mixed by the map of the first layer, then wo: what that layer's attention gives.
    attention = model.eval().layers[0].attention
    x = model.layers[0].attention_norm(model.tok_embeddings(ids))
    values = attention.wv(x).unflatten(-1, (attention.n_kv_heads, attention.head_dim)).transpose(1, 2)
    mixed = maps[:1, :] @ values.repeat_interleave(4 // attention.n_kv_heads, dim=1)
    expected, _ = attention(x, *model._rotary(0, 9))
    torch.testing.assert_close(attention.wo(mixed[0].transpose(0, 1).flatten(1))[None], expected)


def test_attention_habits_of_clear_cut_heads() -> None:
    labels = ["<s>", "山", "，", "</s>", "<s>", "山"]
    before = torch.diag(torch.ones(5), -1)
    before[0, 0] = 1
    first = torch.zeros(6, 6)
    first[:, 0] = 1
    habits = viewers.attention_habits(torch.stack((before, first, torch.eye(6)))[None], labels)
    shares = {name: [round(share, 4) for share in habit.shares[0].tolist()] for name, habit in habits.items()}
    assert shares["the token before"] == [1, 0.2, 0]
    assert shares["the 8 tokens before"] == [1, 1, 0]
    assert shares["its own segment"] == [0.8, 0.6, 1]  # the second <s> looks back over the border
    assert shares["<s> and </s>"] == [0.6, 1, 0]
    assert shares["punctuation"] == [pytest.approx(1 / 3, abs=1e-4), 0, 0]  # three tokens have a comma before them
    assert shares["the same token, earlier"] == [0, 0.5, 0]  # the second <s> and the second 山
    assert habits["the token before"].even == pytest.approx(sum(1 / n for n in range(2, 7)) / 5)
    assert habits["the same token, earlier"].even == pytest.approx((1 / 5 + 1 / 6) / 2)


def test_even_attention_is_once_an_even_share_and_no_habit() -> None:
    labels = ["<s>", "山", "，", "山", "</s>"]
    even = torch.ones(5, 5).tril() / torch.arange(1, 6)[:, None]
    torch.testing.assert_close(heads.times_even(even), torch.ones(5, 5).tril())
    for shares, expected in viewers.attention_habits(even[None, None], labels).values():
        assert shares.item() == pytest.approx(expected)
    assert "punctuation" not in viewers.attention_habits(torch.eye(2)[None, None], ["<s>", "山"])


def test_routing_is_what_the_gate_chose(tiny_model) -> None:
    model = tiny_model(use_moe=True)
    ids = torch.randint(50, (1, 9))
    routing = viewers.routing_of(model, ids)
    assert routing.shape == (2, 9, 4)
    assert ((routing > 0).sum(-1) == 2).all()
    torch.testing.assert_close(routing.sum(-1), torch.ones(2, 9))


@pytest.mark.parametrize("changes", [{}, {"use_moe": True}])
def test_stream_sizes_are_those_on_the_way(tiny_model, changes: dict) -> None:
    model = tiny_model(**changes).eval()
    ids = torch.randint(50, (1, 9))
    sizes = viewers.stream_sizes(model, ids)
    assert {name: tuple(each.shape) for name, each in sizes.items()} == {
        "stream": (3, 9),
        "attention": (2, 9),
        "feed-forward": (2, 9),
    }
    with torch.no_grad():
        x = model.tok_embeddings(ids)
        layer = model.layers[0]
        added, _ = layer.attention(layer.attention_norm(x), *model._rotary(0, 9))
        found = layer.feed_forward(layer.ffn_norm(x + added))
        found = found[0] if isinstance(found, tuple) else found
    for name, place, vectors in (
        ("stream", 0, x),
        ("attention", 0, added),
        ("feed-forward", 0, found),
        ("stream", 1, x + added + found),
    ):
        torch.testing.assert_close(sizes[name][place], vectors[0].pow(2).mean(-1).sqrt())


KIND_OF = {
    "<s>": "marker",
    "</s>": "marker",
    "，": "punctuation, space",
    " ": "punctuation, space",
    "”。": "punctuation, space",
    "山": "Chinese",
    "自己": "Chinese",
    "⟨e8⟩⟨80⟩": "part of a character",
    "84": "the rest",
    " a": "the rest",
    "山，": "the rest",
}


@pytest.mark.parametrize("piece", KIND_OF)
def test_every_piece_has_a_kind(piece: str) -> None:
    assert viewers.kind_for_experts(piece) == KIND_OF[piece] and KIND_OF[piece] in viewers.KINDS


def test_routing_by_kind_adds_up_and_keeps_kinds_apart(tiny_model) -> None:
    model = tiny_model(use_moe=True)
    labels = ["<s>", "山", "，", "山"]
    texts = [(torch.tensor([[1, 7, 9, 8]]), labels), (torch.tensor([[1, 8, 9, 7]]), labels)]
    shares = viewers.routing_by_kind(model, texts)
    assert list(shares) == ["marker", "punctuation, space", "Chinese"]
    for table in shares.values():
        assert table.shape == (2, 4)
        torch.testing.assert_close(table.sum(-1), torch.ones(2))
    marker = viewers.routing_of(model, texts[0][0])[:, 0] > 0  # <s> comes first in both: the same experts
    torch.testing.assert_close(shares["marker"], marker.float() / 2)


@pytest.mark.parametrize("changes", SHAPES)
def test_costs_are_those_of_the_real_model(changes: dict) -> None:
    config = tiny_config(**changes)
    model, costs = MiniMindLM(config).eval(), model_costs.model_costs(config, 24)
    assert costs["parameters"] == core.parameter_count(model)
    assert costs["at work"] == core.active_parameter_count(model)
    cache = model(torch.randint(50, (1, 24)), use_cache=True).past_key_values
    assert costs["cache of one text, MiB"] * 2**20 == 2 * sum(
        each.numel() for layer in cache for each in layer.window()
    )


def test_the_costs_viewer_follows_its_controls_and_sets_both_colours() -> None:
    controls, words = model_costs.costs_viewer().children
    dim, _, heads, tokens, moe = controls.children
    assert words.value.count("× 1<") == 7 and "25,829,888" in words.value
    tokens.value = 1024
    assert "× 2<" in words.value
    moe.value = True
    assert "95,052,288" in words.value
    for width in range(dim.min, dim.max + 1, dim.step):  # every place of the sliders is a model
        dim.value = width
        assert "25,829,888" in words.value or "this model" in words.value
    for style in re.findall(r'style="([^"]*background[^"]*)"', words.value):
        assert re.search(r"(^|;)color:#", style)


def test_what_cannot_be_shown_is_said(tiny_model) -> None:
    with pytest.raises(InputError, match="no experts"):
        viewers.routing_of(tiny_model(), torch.ones(1, 3, dtype=torch.int64))
    with pytest.raises(InputError, match="one text"):
        viewers.attention_maps(tiny_model(), torch.ones(2, 3, dtype=torch.int64))
    for reader in (viewers.stream_sizes,):
        with pytest.raises(InputError, match="one text"):
            reader(tiny_model(), torch.ones(2, 3, dtype=torch.int64))


def test_words_escape_the_text_and_set_both_colours() -> None:
    labels = ["<s>", "<b>&", "山"]
    maps = torch.tensor([[[[1.0, 0, 0], [0.5, 0.5, 0], [0.2, 0.7, 0.1]]]])
    words = viewers.attention_words(maps, labels, 0, 0, 2)
    assert words.index("70 %") < words.index("20 %") < words.index("10 %")
    assert "&lt;b&gt;&amp;" in words and "<b>&amp;" not in words and "(itself)" in words
    routing = torch.tensor([[[0.6, 0.4, 0], [0.0, 0.3, 0.7], [0.5, 0, 0.5]]])
    tokens = viewers.routing_words(routing, labels, 0)
    assert "&lt;b&gt;&amp;" in tokens and "<s>" not in tokens
    assert "expert 0: 33 % of the work" in tokens
    for html in (words, tokens):
        for style in re.findall(r'style="([^"]*background[^"]*)"', html):
            assert re.search(r"(^|;)color:#", style), "a background without a text colour is unreadable in one theme"


def test_viewers_redraw_once_a_change_and_show_errors(tiny_model, monkeypatch) -> None:
    maps = viewers.attention_maps(tiny_model(), torch.randint(50, (1, 5)))
    labels = list("abcde")
    drawn = []
    real = viewers.plot_attention
    monkeypatch.setattr(viewers, "plot_attention", lambda *inputs: drawn.append(inputs[2:]) or real(*inputs))
    viewer = viewers.attention_viewer(maps, labels)
    sliders, words, picture = viewer.children
    layer, head, token = sliders.children
    before = bytes(picture.value)
    layer.value, token.value = 1, 2
    assert drawn == [(0, 0, 4), (1, 0, 4), (1, 0, 2)]
    assert bytes(picture.value) != before and bytes(picture.value).startswith(b"\x89PNG") and "(token 2)" in words.value
    kept = viewer._repr_mimebundle_()["image/png"]  # for where widgets cannot be shown
    assert isinstance(kept, bytes) and kept == bytes(picture.value), "the kernel encodes bytes alone"
    assert not plt.get_fignums()

    def broken(*inputs):
        raise RuntimeError("no <ink>")

    monkeypatch.setattr(viewers, "plot_attention", broken)
    head.value = 1
    assert "RuntimeError: no &lt;ink&gt;" in words.value


def test_the_router_viewer_follows_its_sliders(tiny_model) -> None:
    routing = viewers.routing_of(tiny_model(use_moe=True), torch.randint(50, (1, 5)))
    sliders, words = viewers.router_viewer(routing, list("abcde")).children
    layer, choice = sliders.children
    first = words.value
    layer.value = 1
    assert words.value == viewers.routing_words(routing, list("abcde"), 1) != first
    choice.value = 1
    assert words.value == viewers.routing_words(routing, list("abcde"), 1, 1)
    assert choice.max == 1
    opened = viewers.router_viewer(routing, list("abcde"), 1)
    assert opened.children[0].children[0].value == 1
    assert opened.children[1].value == viewers.routing_words(routing, list("abcde"), 1)


@pytest.mark.parametrize("experts", [1, 4, 9])
def test_the_router_viewer_copes_with_any_number_of_experts(tiny_model, experts: int) -> None:
    model = tiny_model(use_moe=True, n_routed_experts=experts, num_experts_per_tok=1)
    routing = viewers.routing_of(model, torch.randint(50, (1, 5)))
    viewers.router_viewer(routing, list("abcde"))
    look.plot_routing(routing, list("abcde"), 0)
    assert not plt.get_fignums()


@pytest.fixture
def course_style():
    with matplotlib.rc_context():
        use_course_style()
        yield


def test_every_picture_is_a_closed_figure(tiny_model, course_style, recwarn) -> None:
    config, labels = tiny_config(), ["<s>", "世界上最高的山峰", "⏎", " a", "$x_$"]
    model = tiny_model(use_moe=True)
    maps, routing = (read(model, torch.arange(5)[None]) for read in (viewers.attention_maps, viewers.routing_of))
    pictures = [
        plot_model_map(config, 2, 31),
        plot_model_map(tiny_config(use_moe=True), 2, 31),
        look.plot_norms(torch.randn(5, 16), torch.ones(5, 16), labels),
        look.plot_rotary_pairs(32, 1e6),
        look.plot_rotary_pairs(4, 1e4),
        look.plot_rotary_distance(torch.randn(40, 40)),
        look.plot_masks(torch.ones(3, 3).tril().bool(), torch.ones(2, 5).tril(3).bool(), labels),
        look.plot_grouped_heads(8, 2, {1: 1.0, 2: 2.0, 8: 8.0}),
        look.plot_parameters({"a": {"part": 5_000_000, "rest": 9}, "b": {"part": 10_000_000, "idle parts": 4_000_000}}),
        heads.plot_attention_grid(maps),
        heads.plot_attention_grid(maps, [0, 3]),
        heads.plot_attention(maps, labels, 1, 3, token=2),
        look.plot_routing(routing, labels, 0),
        look.plot_load_history({"alpha = 0": torch.full((30, 4), 0.25)}),
        look.plot_cost({"ms": {"dense": 1.0, "experts": 2.0}}),
        look_inside.plot_one_look(labels[:3], *torch.randn(2, 3), torch.randn(3, 2), torch.randn(2)),
        look_inside.plot_match_by_distance({"a": torch.rand(300)}, torch.randn(2, 300)),
        look_inside.plot_cache_growth({8: 0.02, 2: 0.005}, 50.0, 4096),
        look_inside.plot_gates(torch.randn(5, 8)),
        look_inside.plot_gates(9 * torch.randn(5, 8)),
        look_inside.plot_stream(viewers.stream_sizes(model, torch.arange(5)[None])),
        look_inside.plot_kinds({"before": torch.full((2, 4), 0.25), "now": torch.eye(2, 4)}, ["marker", "山"]),
    ]
    for figure in pictures:
        assert viewers.png(figure).startswith(b"\x89PNG")
        titles = [ax.get_title(loc) for ax in figure.axes for loc in ("left", "center")]
        assert figure.get_suptitle() or any(titles), "a picture has a title"
    assert not plt.get_fignums()
    assert not [str(w.message) for w in recwarn if "Glyph" in str(w.message)]
