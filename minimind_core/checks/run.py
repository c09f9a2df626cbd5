"""Checks of lesson 06's exercises: a run's cost, which snapshot to keep, how often to save, what a state must hold."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from .verdict import Verdict, attempt


def _number(found: Any) -> Verdict | None:
    """A Verdict when `found` is no number, else None."""
    if isinstance(found, (int, float)) and not isinstance(found, bool):
        return None
    return Verdict.wrong(f"a number is needed, this is a {type(found).__name__}.")


def _wrong(found: float, typical: dict[str, float], otherwise: str) -> Verdict:
    """The Verdict of the typical wrong answer that gives `found`; `otherwise` where none does."""
    known = (message for message, value in typical.items() if math.isclose(found, value, rel_tol=1e-6))
    return Verdict.wrong(next(known, otherwise))


def check_cost(answer: Callable) -> Verdict:
    """`answer(tokens, tokens_per_s, price_per_hour)` returns what a run costs, in the price's currency."""
    found = attempt(answer, 415_000_000, 150_000, 1.8)
    if isinstance(found, Verdict):
        return found
    right = 415_000_000 / 150_000 / 3600 * 1.8
    if (problem := _number(found)) is not None:
        return problem
    if math.isclose(found, right, rel_tol=1e-6):
        return Verdict.right("seconds are tokens over tokens per second; the price is per hour.")
    typical = {
        "tokens over speed are seconds; the price is per hour: divide by 3600.": right * 3600,
        "that took minutes for hours: divide the seconds by 3600, not by 60.": right * 60,
    }
    told = f"for 415M tokens at 150,000 a second and 1.80 an hour it is {right:.2f}, yours is {found}."
    return _wrong(found, typical, told)


def check_snapshot(answer: Callable) -> Verdict:
    """`answer(lines, kept)` returns the update with the lowest held-out loss among those of which weights were kept.

    `lines` are those of a metrics file, `kept` the updates, at some of which the model was not judged.
    """
    looks, kept = {0: 8.0, 10: 5.1, 20: 5.0, 30: 4.9, 40: 5.4, 50: 5.6, 60: 5.9}, [0, 10, 40, 55, 60]
    found = attempt(answer, _lines(looks), list(kept))
    if isinstance(found, Verdict):
        judged = [at for at in kept if at in looks]
        if found.ok is False and attempt(answer, _lines(looks), judged) == 10:
            return Verdict.wrong("the model was not judged at each update in `kept`: leave out those without a look.")
        return found
    if (problem := _number(found)) is not None:
        return problem
    known = {
        30: "there the held-out loss is lowest, but no weights were kept at update 30: look at the snapshots alone.",
        40: "that is the snapshot nearest to the lowest loss; after the turn losses rise, and another one is better.",
        55: "no look was made at update 55, so nothing is known of its weights: leave out what was not judged.",
        60: "that is the last one, with the lowest training loss: the held-out lines have the key held_out_loss.",
        0: "that is the first one, before any training: `min` compares what its `key` gives.",
        1: "that is a position in the list; the update itself is asked for.",
        5.1: "that is the loss; the update at which it was measured is asked for.",
    }
    if found == 10:
        later = attempt(answer, _lines(looks | {10: 5.5, 40: 5.0}), list(kept))
        if isinstance(later, Verdict):
            return later
        if later != 40:
            return Verdict.wrong("the one before the turn is not always the best: compare the losses of those kept.")
        return Verdict.right("the best that was kept. Snapshots that are taken too rarely miss the turn.")
    return Verdict.wrong(known.get(found, f"for the test lines it is update 10, yours is {found!r}."))


def _lines(looks: dict[int, float]) -> list[dict[str, float]]:
    """Lines of a metrics file of 60 updates, with the held-out losses of those updates that the model was judged at."""
    lines: list[dict[str, float]] = [{"step": 0, "held_out_loss": looks[0]}]
    for step in range(1, 61):
        lines.append({"step": step, "loss": 8.0 - step / 8})
        if step in looks:
            lines.append({"step": step, "held_out_loss": looks[step]})
    return lines


def lost_share(interval: int, seconds_per_update: float, seconds_per_save: float, hours_between_kills: float) -> float:
    """Seconds that go, for each second of training, into saving and on average into making again what a kill took.

    Young 1974, "A first order approximation to the optimum checkpoint interval": hours are hours of training, and kills
    during a save are left out.
    """
    between_saves = interval * seconds_per_update
    return seconds_per_save / between_saves + between_saves / 2 / (3600 * hours_between_kills)


def check_lost_share(answer: Callable) -> Verdict:
    """`answer(interval, seconds_per_update, seconds_per_save, hours_between_kills)`: see `lost_share`."""
    interval, update, save, hours = given = (500, 0.4, 3.0, 2.0)
    found = attempt(answer, *given)
    if isinstance(found, Verdict):
        return found
    if (problem := _number(found)) is not None:
        return problem
    right, saving = lost_share(*given), save / (interval * update)
    if math.isclose(found, right, rel_tol=1e-6):
        best = math.sqrt(2 * save * 3600 * hours)
        return Verdict.right(
            f"{100 * right:.1f} % in the test. It is least where both parts are equal, at √(2 · seconds per save · "
            f"seconds between kills): there every {best / update:.0f} updates, {100 * save / best * 2:.1f} %."
        )
    again = right - saving
    typical = {
        "saving is missing: it takes time as well, once in each interval.": again,
        "what a kill takes is missing: on average half of what lies between two saves.": saving,
        "a kill comes at any moment: on average it takes half of what lies between two saves.": saving + 2 * again,
        "seconds meet hours: 3600 seconds are an hour.": saving + 3600 * again,
        "one interval is too many: after a save nothing is lost, before the next one all of it; the mean is half.": (
            saving + 3 * again
        ),
        "the interval counts updates: multiply it by the seconds of one.": save / interval
        + interval / 2 / 3600 / hours,
        "that is in per cent: seconds per second are asked for.": 100 * right,
        "saving is not training: divide by the interval's own seconds, without the save.": (
            save / (interval * update + save) + again
        ),
        "both are counted per second of training: without the save.": (save + again * interval * update)
        / (interval * update + save),
        "those are seconds for each interval: divide by the interval's own seconds.": right * interval * update,
        "to first order hours are hours of training, and a kill during a save is left out.": (
            saving + again * (1 + saving)
        ),
    }
    return _wrong(found, typical, f"for the test's {given} it is {right:.4f}, yours is {found}.")


_UPDATES, _SAVED, _KILLED = 8, 4, 6  # a run's length, when its state is taken, and when it dies


def _things(seed: int) -> tuple[nn.Module, torch.optim.Optimizer, torch.Generator]:
    """A fresh small model, its optimizer, and the generator that draws its rows."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    return model, torch.optim.AdamW(model.parameters(), lr=0.05), torch.Generator().manual_seed(seed)


def _train(
    model: nn.Module, optimizer: torch.optim.Optimizer, generator: torch.Generator, first: int, last: int
) -> None:
    """Updates number `first` to `last` (the end excluded), with a learning rate that falls."""
    for update in range(first, last):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - update / _UPDATES)
        rows = torch.randn(5, 3, generator=generator)
        loss = (model(rows) - rows.sum(1, keepdim=True)).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _numbers(model: nn.Module) -> torch.Tensor:
    """All weights, end to end."""
    return torch.cat([weight.detach().flatten() for weight in model.parameters()]).clone()


def _means(optimizer: torch.optim.Optimizer) -> torch.Tensor | None:
    """AdamW's running means and step counts, end to end; None for an optimizer that has made no step."""
    kept = [state[name].flatten() for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq", "step")]
    return torch.cat(kept).clone() if kept else None


def _same(a: torch.Tensor | None, b: torch.Tensor | None) -> bool:
    """Equal to the last bit (None equals nothing)."""
    return a is not None and b is not None and torch.equal(a, b)


def check_resume(save: Callable, load: Callable) -> Verdict:
    """`save(model, optimizer, generator, update)` returns a dictionary, from which
    `load(state, model, optimizer, generator)` fills fresh ones and returns the number of updates that are done.

    A small run is saved, goes on, dies, and is resumed; it has to end like one that nothing happened to.
    """
    undisturbed, killed, fresh = _things(0), _things(0), _things(1)
    _train(*undisturbed, 0, _UPDATES)
    _train(*killed, 0, _SAVED)
    then = _numbers(killed[0]), _means(killed[1]), killed[2].get_state()
    state = attempt(save, *killed, _SAVED)
    if isinstance(state, Verdict):
        return state
    if not isinstance(state, dict):
        return Verdict.wrong(f"my_save should return a dictionary, this is a {type(state).__name__}.")
    before = _numbers(killed[0]), _means(killed[1]), killed[2].get_state()
    if not all(_same(a, b) for a, b in zip(then, before, strict=True)):
        return Verdict.wrong("my_save changed the run that it should only look at.")
    _train(*killed, _SAVED, _KILLED)
    done = attempt(load, state, *fresh)
    if isinstance(done, Verdict):
        return done if done.ok is False else Verdict.wrong("my_load should return how many updates are done.")
    if (problem := _wrongly_loaded(fresh, then, killed)) is not None:
        return problem
    if done != _SAVED or isinstance(done, bool):
        return Verdict.wrong(
            f"{_SAVED} updates were done when it was saved; my_load says {done!r}, and with it the learning rate and "
            "the end of the run are off."
        )
    _train(*fresh, _SAVED, _UPDATES)
    if not torch.equal(_numbers(fresh[0]), _numbers(undisturbed[0])):
        return Verdict.wrong("after the resume the run went another way; are other settings of the optimizer changed?")
    return Verdict.right("killed and resumed, it ends with the same bits as a run that nothing happened to.")


_LOST = {
    "weights": "the weights did not come back: the model starts anew.",
    "optimizer's means": "the optimizer's state did not come back: AdamW begins its running means at zero again.",
}


def _wrongly_loaded(fresh: tuple, then: tuple, killed: tuple) -> Verdict | None:
    """What of the state at the save did not come back, else None."""
    found, at_death = (_numbers(fresh[0]), _means(fresh[1])), (_numbers(killed[0]), _means(killed[1]))
    for (name, lost), back, wanted, later in zip(_LOST.items(), found, then[:2], at_death, strict=True):
        if _same(back, later):
            return Verdict.wrong(
                f"the {name} are those of the moment it died, {_KILLED - _SAVED} updates too late: state_dict() hands "
                "out the tensors themselves, and training goes on changing them. Keep a copy (copy.deepcopy)."
            )
        if not _same(back, wanted):
            return Verdict.wrong(lost)
    if not torch.equal(fresh[2].get_state(), then[2]):
        return Verdict.wrong("the generator's state did not come back: the resumed run reads other rows.")
    return None
