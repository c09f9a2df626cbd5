"""Checks of lesson 04's exercises: they know the usual wrong schedules and say which one they see."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..schedule import cosine, get_lr, warmup
from .verdict import Verdict, attempt

CASES = (  # step, total, start, end: the seed's schedule at four steps, then one that rises
    *((step, 44160, 5.5e-4, 5e-5) for step in (0, 11040, 22080, 44100)), (7, 100, 1e-4, 2e-3),
)  # fmt: skip
RUNS = ((44160, 5e-4), (1000, 2e-3), (7, 1.0))


def _same(found: Sequence[float], wanted: Sequence[float]) -> bool:
    return all(math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-15) for a, b in zip(found, wanted, strict=True))


def _named(found: Sequence[float], wrong: Mapping[str, Sequence[float]]) -> Verdict | None:
    """The Verdict of the first usual mistake that gives exactly these numbers, else None."""
    return next((Verdict.wrong(words) for words, numbers in wrong.items() if _same(found, numbers)), None)


def _numbers(answer: Callable, cases: Sequence[tuple]) -> list[float] | Verdict:
    """The answers to all cases as floats, or a Verdict."""
    found: list[float] = []
    for case in cases:
        value: Any = attempt(answer, *case)
        if isinstance(value, Verdict):
            return value
        try:
            found.append(float(value))
        except (TypeError, ValueError):
            return Verdict.wrong(f"one number is needed, for {case} yours gives a {type(value).__name__}.")
    return found


def half_cosine(step: int, total: int, start: float, end: float) -> float:
    """Half a cosine from `start` at step 0 to `end` at step `total`."""
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * step / total))


def check_half_cosine(answer: Callable[[int, int, float, float], float]) -> Verdict:
    """Exercise 1: a rate on half a cosine between any two rates, `answer(step, total, start, end)`."""
    found = _numbers(answer, CASES)
    if isinstance(found, Verdict):
        return found

    def each(formula: Callable[[float, float, float], float]) -> list[float]:
        return [formula(step / total, start, end) for step, total, start, end in CASES]

    def wave(share: float, turn: float = math.pi) -> float:
        return 0.5 * (1 + math.cos(turn * share))

    wrong = {
        "`end` is missing: at the end of the run yours is 0.": each(lambda x, s, e: (s - e) * wave(x)),
        "yours begins at start + end, as the seed's formula adds its floor to a whole lr. Only start - end lies "
        "between the two.": each(lambda x, s, e: e + s * wave(x)),
        "the 0.5 is missing: cos goes from 1 to -1, so 1 + cos goes from 2 to 0.": each(
            lambda x, s, e: e + 2 * (s - e) * wave(x)
        ),
        "the π is missing: cos(step/total) alone never comes near -1.": each(lambda x, s, e: e + (s - e) * wave(x, 1)),
        "2π is a whole turn: yours goes and comes back. Half a turn, π, goes from 1 to -1.": each(
            lambda x, s, e: e + (s - e) * wave(x, 2 * math.pi)
        ),
        "degrees? math.cos takes radians: half a turn is math.pi, not 180.": each(
            lambda x, s, e: e + (s - e) * wave(x, 180)
        ),
        "// cuts step/total down to 0: use /.": each(lambda x, s, e: e + (s - e) * wave(x // 1)),
        "yours goes the other way round, from end to start: 1 - cos, or start and end exchanged.": each(
            lambda x, s, e: s + (e - s) * wave(x)
        ),
        "that is a straight line: where is the cosine?": each(lambda x, s, e: s + (e - s) * x),
        "only the wave counts, `end` is neither added nor taken from its height: at the end yours is 0.": each(
            lambda x, s, e: s * wave(x)
        ),
        "right downwards, but the curve may rise as well: no max or min.": each(
            lambda x, s, e: max(s, e) + (min(s, e) - max(s, e)) * (1 - wave(x))
        ),
        "right downwards, but the curve may rise as well: no abs.": each(lambda x, s, e: e + abs(s - e) * wave(x)),
    }
    if (verdict := _named(found, wrong)) is not None:
        return verdict
    for case, value in zip(CASES, found, strict=True):
        if not _same([value], [half_cosine(*case)]):
            step, total, start, end = case
            return Verdict.wrong(
                f"at step {step} of {total} from {start:g} to {end:g} the rate is {half_cosine(*case):.12f}, yours is "
                f"{value:.12f}."
            )
    return Verdict.right(f"from 1.1 · lr to lr/10 it is the seed's schedule: {found[3]:.12f}, as in MiniMind's log.")


def half_step(total: int, lr: float) -> int:
    """The first step at which the seed's rate is at most half of its rate at step 0."""
    return next(step for step in range(total + 1) if get_lr(step, total, lr) <= get_lr(0, total, lr) / 2)


def check_half_step(answer: Callable[[int, float], int]) -> Verdict:
    """Exercise 2: the first step whose rate is at most half of the first rate, `answer(total, lr)`."""
    found = _numbers(answer, RUNS)
    if isinstance(found, Verdict):
        return found
    right = [half_step(total, lr) for total, lr in RUNS]
    half_of_lr = [next(s for s in range(t + 1) if get_lr(s, t, lr) <= lr / 2) for t, lr in RUNS]
    wrong = {
        "that is the middle of the run. There the rate is 0.6 · lr, and half of the start, 1.1 · lr, is 0.55 · lr.": [
            total // 2 for total, _ in RUNS
        ],
        "that is where the rate reaches half of `lr`. It starts at 1.1 · lr: half of that is asked.": half_of_lr,
        "one step too early: there the rate is still above the half. Round up.": [step - 1 for step in right],
        "one step too late: the rate was at most the half one step before.": [step + 1 for step in right],
        "yours counts updates of 8 micro-steps; the schedule counts micro-steps.": [step // 8 for step in right],
        "degrees? math.acos answers in radians: the whole run is math.pi, not 180.": [
            math.ceil(total * math.acos(-0.1) / 180) for total, _ in RUNS
        ],
    }
    if (verdict := _named(found, wrong)) is not None:
        return verdict
    for (total, lr), value, wanted in zip(RUNS, found, right, strict=True):
        if value != wanted and abs(value - wanted) < 1:
            return Verdict.wrong(f"a step is a whole number; yours is {value:.4f}. Round up.")
        if value != wanted:
            rate = get_lr(min(max(round(value), 0), total), total, lr) / lr
            return Verdict.wrong(
                f"of {total} steps yours is {value:g}; there the rate is {rate:.3f} · lr, 0.55 · lr is looked for."
            )
    return Verdict.right(f"step {right[0]:,} of {RUNS[0][0]:,}.")


def check_warmup_cosine(answer: Callable[[int, int, float, int], float]) -> Verdict:
    """Exercise 3: cosine from lr to lr/10, times a warm-up factor, `answer(step, total, lr, warmup_steps)`."""
    cases = [(step, 200, 1e-3, 20) for step in (0, 1, 9, 18, 19, 20, 21, 100, 199, 200)]
    found = _numbers(answer, cases)
    if isinstance(found, Verdict):
        return found

    def each(shape: Callable[[int, int, float], float], factor: Callable[[int, int], float]) -> list[float]:
        return [shape(step, total, lr) * factor(step, w) for step, total, lr, w in cases]

    wrong = {
        "no warm-up to be seen: the rate at step 0 is already lr.": each(cosine, lambda s, w: 1.0),
        "step 0 gets the rate 0, so its batch is wasted: the factor is (step + 1) / warmup_steps.": each(
            cosine, lambda s, w: min(1.0, s / w)
        ),
        "one step late: your factor reaches 1 at step warmup_steps. Step 0 has 1/warmup_steps, so step "
        "warmup_steps - 1 has 1.": each(cosine, lambda s, w: min(1.0, (s + 1) / (w + 1))),
        "step 0 gets the rate 0 and its batch is wasted; the factor is (step + 1) / warmup_steps.": each(
            cosine, lambda s, w: min(1.0, s / (w - 1))
        ),
        "// cuts your factor down to 0 until the warm-up is over: use /.": each(
            cosine, lambda s, w: min(1, (s + 1) // w)
        ),
        "your factor goes on rising behind the warm-up: it must stop at 1, with min(1, …).": each(
            cosine, lambda s, w: (s + 1) / w
        ),
        "this is the seed's cosine: it starts above lr. Asked is one that goes from lr to lr/10.": each(get_lr, warmup),
        "degrees? math.cos takes radians: half a turn is math.pi, not 180.": each(
            lambda s, t, lr: lr * (0.1 + 0.45 * (1 + math.cos(180 * s / t))), warmup
        ),
        "// cuts step/total down to 0 until the end: use /.": each(
            lambda s, t, lr: lr * (0.1 + 0.45 * (1 + math.cos(math.pi * (s // t)))), warmup
        ),
        "your cosine ends at 0: asked is an end at lr/10.": each(
            lambda s, t, lr: 0.5 * lr * (1 + math.cos(math.pi * s / t)), warmup
        ),
        "your cosine begins behind the warm-up. People do that too; here it counts from step 0, and the warm-up is a "
        "factor on it.": [lr * (s + 1) / w if s < w else cosine(s - w, t - w, lr) for s, t, lr, w in cases],
    }
    if (verdict := _named(found, wrong)) is not None:
        return verdict
    for case, value, wanted in zip(cases, found, each(cosine, warmup), strict=True):
        if not _same([value], [wanted]):
            return Verdict.wrong(
                f"at step {case[0]} of 200 (lr=0.001, warm-up 20) it is {wanted:.6f}, yours is {value:.6f}."
            )
    try:
        without = float(answer(50, 200, 1e-3, 0))
    except ZeroDivisionError:
        return Verdict.wrong("warmup_steps may be 0 (the seed's case); yours divides by it.")
    if not _same([without], [cosine(50, 200, 1e-3)]):
        return Verdict.wrong(f"with warmup_steps=0 the factor is 1; yours gives {without:.6f} at step 50 of 200.")
    return Verdict.right("it rises in even steps, meets the cosine, and warm-up 0 works too.")


def update_rates(micro_steps: int, accumulation: int, lr: float) -> list[float]:
    """The rates that the optimizer uses in the seed's run: those of the micro-steps that close a window."""
    closing = [s for s in range(micro_steps) if (s + 1) % accumulation == 0 or s + 1 == micro_steps]
    return [get_lr(step, micro_steps, lr) for step in closing]


def check_update_rates(answer: Callable[[int, int, float], list[float]]) -> Verdict:
    """Exercise 4: the rate of each update, `answer(micro_steps, accumulation, lr)`."""
    micro_steps, accumulation, lr = 163, 8, 5e-4
    found: Any = attempt(answer, micro_steps, accumulation, lr)
    if isinstance(found, Verdict):
        return found
    try:
        found = [float(rate) for rate in found]
    except (TypeError, ValueError):
        return Verdict.wrong(f"a list of numbers is needed, yours gives a {type(found).__name__}.")
    right = update_rates(micro_steps, accumulation, lr)
    whole = micro_steps // accumulation
    if len(found) == micro_steps:
        return Verdict.wrong(
            "that is one rate per micro-step; only the closing micro-step of a window makes an update."
        )
    if len(found) == whole:
        partial = micro_steps % accumulation
        what = "the last update is missing: {} micro-steps are {} windows of {} and one of {}, which counts too."
        missing = what.format(micro_steps, whole, accumulation, partial)
        if _same(found, right[:-1]):
            return Verdict.wrong(missing)
        found = [*found, math.nan]
    if len(found) != len(right):
        return Verdict.wrong(f"{micro_steps} micro-steps make {len(right)} updates, your list has {len(found)}.")
    # NaN stands where a last update is missing: compare what is there.
    known = [i for i, rate in enumerate(found) if not math.isnan(rate)]
    updates = len(right)
    both = "you now count both in updates: nearly right; the seed reads the rate at the last micro-step of each window."
    wrong = [
        (
            f"still the mistake: the number of the update is divided by the number of micro-steps, so after "
            f"{micro_steps} micro-steps only an eighth of the curve has been walked and the rate has hardly fallen.",
            [get_lr(n, micro_steps, lr) for n in range(updates)],
        ),
        *((both, [get_lr(n, of, lr) for n in range(updates)]) for of in (updates, whole)),
        *((f"counted from 1, {both}", [get_lr(n + 1, of, lr) for n in range(updates)]) for of in (updates, whole)),
        (
            "those are the rates of each window's first micro-step; the optimizer steps at its last.",
            [get_lr(n * accumulation, micro_steps, lr) for n in range(updates)],
        ),
        (
            "one step too far: the closing micro-step of the first window is number 7, counted from 0.",
            [get_lr(min((n + 1) * accumulation, micro_steps), micro_steps, lr) for n in range(updates)],
        ),
    ]
    for words, numbers in wrong:
        if _same([found[i] for i in known], [numbers[i] for i in known]):
            return Verdict.wrong(words)
    for number in known:
        if not _same([found[number]], [right[number]]):
            return Verdict.wrong(
                f"update {number + 1} uses the rate {right[number]:.9f}, yours is {found[number]:.9f}."
            )
    return Verdict.right(f"{len(right)} updates, the last one at {right[-1]:.9f}.")


def layer_factor(name: str, n_layers: int, decay: float) -> float:
    """What a layer-wise schedule multiplies the rate of parameter `name` by: 1 at the top, `decay` less per layer."""
    if name.startswith("tok_embeddings"):
        return decay**n_layers
    return decay ** (n_layers - 1 - int(name.split(".")[1])) if name.startswith("layers.") else 1.0


FACTOR_CASES = [
    (name, n_layers, decay)
    for n_layers, decay in ((12, 0.5), (2, 0.9))
    for name in (
        "tok_embeddings.weight",
        "layers.0.attention.wq.weight",
        "layers.1.ffn_norm.weight",
        *(f"layers.{block}.feed_forward.w2.weight" for block in (3, 10, 11) if block < n_layers),
        "norm.weight",
    )
]


def _block_mistakes(blocks: Sequence[tuple[str, int, float]]) -> dict[str, list[float]]:
    """Usual wrong factors of parameters inside blocks, as words → numbers."""

    def each(power: Callable[[int, int], float]) -> list[float]:
        return [decay ** power(int(name.split(".")[1]), n) for name, n, decay in blocks]

    distance = [(n - 1 - int(name.split(".")[1]), decay) for name, n, decay in blocks]
    return {
        "all blocks get 1: that is no layer-wise rate yet. A block's distance to the last one is the power.": each(
            lambda i, n: 0
        ),
        "all blocks get one factor: decay must be taken to a power, the distance to the last block.": each(
            lambda i, n: 1
        ),
        "upside down: yours is 1 at the first block. The last one gets 1, the first one the least.": each(
            lambda i, n: i
        ),
        "one too far: the last block, number n_layers - 1, should get 1; yours gets decay.": each(lambda i, n: n - i),
        "multiplied: decay × distance gives the last block 0. It is a power, decay ** distance.": [
            decay * far for far, decay in distance
        ],
        "layers.10 and layers.11 count as block 1 in yours: numbers may have two digits. name.split('.')[1] is the "
        "whole number.": each(lambda i, n: n - 1 - int(str(i)[0])),
        "a norm inside a block belongs to its block; only the last one, norm.weight, stands behind them all.": [
            1.0 if "norm" in name else decay**far for (far, decay), (name, *_) in zip(distance, blocks, strict=True)
        ],
    }


def check_layer_factor(answer: Callable[[str, int, float], float]) -> Verdict:
    """Exercise 5: the factor of a parameter's rate by its name, `answer(name, n_layers, decay)`."""
    found = _numbers(answer, FACTOR_CASES)
    if isinstance(found, Verdict):
        return found
    by_case = dict(zip(FACTOR_CASES, found, strict=True))
    blocks = [case for case in FACTOR_CASES if case[0].startswith("layers.")]
    if (verdict := _named([by_case[case] for case in blocks], _block_mistakes(blocks))) is not None:
        return verdict
    for case in [*blocks, *(case for case in FACTOR_CASES if case not in blocks)]:
        name, n_layers, decay = case
        value, wanted = by_case[case], layer_factor(*case)
        if _same([value], [wanted]):
            continue
        if name.startswith("tok_embeddings"):
            first = decay ** (n_layers - 1)
            if _same([value], [first]):
                return Verdict.wrong("the embedding lies before block 0: its power is one higher, n_layers.")
            if _same([value], [1.0]):
                return Verdict.wrong("the embedding gets 1 in yours: it lies before block 0 and gets the least.")
        if name.startswith("norm") and value < 1:
            return Verdict.wrong("the last norm, norm.weight, stands behind the last block: it gets 1.")
        return Verdict.wrong(f"{name} of {n_layers} blocks, decay {decay}: {wanted:g}, yours is {value:g}.")
    return Verdict.right("the last block and the last norm 1, the embedding least, and block 10 is not block 1.")
