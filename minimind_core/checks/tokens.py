"""Checks of lesson 02's exercises: X and Y, a padded row with its mask, the masked loss, and text out of pieces.

Each goes from shape to value to gradient and names the mistake it recognises: a shift in the wrong place, a mask that
stayed where X is, a mask taken from the id, a mean that padding takes part in, half a character shown.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..tokenizer import BOS_ID, EOS_ID, PAD_ID
from ..training import masked_cross_entropy
from .verdict import Verdict, attempt, wrong_shape

# N tokens of a row · B batch · T positions · V vocabulary


def _tensors(found: object, names: tuple[str, ...]) -> Verdict | None:
    """A Verdict when `found` is not as many tensors as there are names, else None."""
    if not isinstance(found, (tuple, list)) or len(found) != len(names):
        given = f"{len(found)} values" if isinstance(found, (tuple, list)) else f"a {type(found).__name__}"
        return Verdict.wrong(f"{', '.join(names)} are asked, in this order; you return {given}.")
    for name, value in zip(names, found, strict=True):
        if not isinstance(value, Tensor):
            return Verdict.wrong(f"{name} should be a tensor, it is a {type(value).__name__}.")
    return None


def check_xy(answer: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Verdict:
    """`answer(ids)` should give what the model reads and what it should say: ids (N,) → X, Y, each (N - 1,)."""
    for ids in (torch.tensor([BOS_ID, 11, 12, 13, EOS_ID]), torch.tensor([BOS_ID, EOS_ID])):
        found = attempt(answer, ids)
        problem = found if isinstance(found, Verdict) else _xy_problem(ids, found)
        if problem is not None:
            return problem
    return Verdict.right("Y is X, one token further on.")


def _xy_problem(ids: Tensor, found: object) -> Verdict | None:
    problem = _tensors(found, ("X", "Y"))
    if problem is not None:
        return problem
    X, Y = found
    if torch.equal(X, ids[:-1]) and torch.equal(Y, ids[1:]):
        return None
    if torch.equal(X, Y):
        return Verdict.wrong("X and Y are the same: the model would only have to copy. Y stands one token further on.")
    if torch.equal(X, ids[1:]) and torch.equal(Y, ids[:-1]):
        return Verdict.wrong("X and Y are exchanged: the model would have to say the token before the one it reads.")
    if torch.equal(X, ids) and torch.equal(Y, torch.roll(ids, -1)):
        return Verdict.wrong("roll brings the first token round to the end: after </s> the model should not say <s>.")
    if torch.equal(Y, ids[2:]) or torch.equal(X, ids[:-2]):
        return Verdict.wrong("X and Y are two tokens apart: off by one.")
    for name, value in (("X", X), ("Y", Y)):
        problem = wrong_shape(value, (len(ids) - 1,))
        if problem is not None:
            return Verdict.wrong(f"{name}: {problem.message} A row of N tokens has N - 1 pairs.")
    which, wanted, value = ("X", ids[:-1], X) if not torch.equal(X, ids[:-1]) else ("Y", ids[1:], Y)
    return Verdict.wrong(f"for ids {ids.tolist()} {which} should be {wanted.tolist()}, yours is {value.tolist()}.")


def check_item(answer: Callable[[list[int], int], tuple[Tensor, Tensor, Tensor]]) -> Verdict:
    """`answer(ids, max_length)` should give X, Y, loss_mask, each int64 (max_length - 1,), padded with id 0."""
    row = [BOS_ID, 11, 12, 13, EOS_ID]
    literal = [BOS_ID, 11, PAD_ID, 13, EOS_ID]  # the text itself holds an <unk>
    for ids, length in ((row, 9), (literal, 9), (row, 5), (row, 6), ([BOS_ID, 7, 8, 9, 10, 11, EOS_ID], 5)):
        found = attempt(answer, list(ids), length)
        problem = found if isinstance(found, Verdict) else _item_problem(ids, length, found)
        if problem is not None:
            return problem
    return Verdict.right("the mask follows the row's length, moves with Y, and </s> counts.")


def item(ids: list[int], max_length: int) -> tuple[Tensor, Tensor, Tensor]:
    """X, Y, loss_mask of one row, each int64 (max_length - 1,), as the course's own loader makes them."""
    length = min(len(ids), max_length)
    padded = torch.full((max_length,), PAD_ID)
    padded[:length] = torch.tensor(ids[:length])
    if length < len(ids):
        padded[-1] = EOS_ID
    mask = (torch.arange(max_length) < length).long()
    return padded[:-1], padded[1:], mask[1:]


def _item_problem(ids: list[int], max_length: int, found: object) -> Verdict | None:
    problem = _tensors(found, ("X", "Y", "loss_mask"))
    if problem is not None:
        return problem
    X, Y, mask = found
    wanted = item(ids, max_length)
    length, here = len(ids), f"for ids {ids} and max_length {max_length}"
    for name, value in (("X", X), ("Y", Y), ("loss_mask", mask)):
        problem = wrong_shape(value, (max_length - 1,))
        if problem is not None:
            return Verdict.wrong(f"{name}, {here}: {problem.message}")
        if value.dtype != torch.int64:
            return Verdict.wrong(f"{name} holds {value.dtype}; ids and the mask are int64: .long() makes them so.")
    if torch.equal(Y, X) or not torch.equal(Y[:-1], X[1:]):
        return Verdict.wrong(f"Y is not X one token further on, {here}: X {X.tolist()}, Y {Y.tolist()}.")
    if not torch.equal(X, wanted[0]) or not torch.equal(Y, wanted[1]):
        if length > max_length and Y[-1] != EOS_ID:
            return Verdict.wrong(f"a row that is cut loses its </s>, {here}: put id {EOS_ID} in the last place kept.")
        which, value, right = ("X", X, wanted[0]) if not torch.equal(X, wanted[0]) else ("Y", Y, wanted[1])
        return Verdict.wrong(f"{which} should be {right.tolist()} {here}, yours is {value.tolist()}.")
    if torch.equal(mask, wanted[2]):
        return None
    full = (torch.arange(max_length) < min(length, max_length)).long()
    if torch.equal(mask, full[:-1]):
        return Verdict.wrong(
            "the mask stands where X is: it was not shifted with Y, so the first padding token counts."
        )
    if PAD_ID in ids and any(torch.equal(mask, (value != PAD_ID).long()) for value in (Y, X)):
        return Verdict.wrong(
            "the mask is taken from the id: a literal <unk> in the text has id 0 as well, and falls out of the loss. "
            "Take the mask from the row's length."
        )
    if torch.equal(mask, wanted[2] * (Y != EOS_ID)):
        return Verdict.wrong("the closing </s> does not count in your mask: then the model never learns to stop.")
    if torch.equal(mask, torch.ones_like(mask)):
        return Verdict.wrong("your mask counts every position, padding too.")
    if torch.equal(mask, 1 - wanted[2]):
        return Verdict.wrong("your mask is upside down: 1 means that a position counts.")
    return Verdict.wrong(f"the mask should be {wanted[2].tolist()} {here}, yours is {mask.tolist()}.")


def check_loss(answer: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Verdict:
    """`answer(logits, Y, mask)` should give the mean loss over what counts: (B, T, V), (B, T), (B, T) → scalar."""
    make = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 6, 5, generator=make).requires_grad_()
    Y = torch.randint(5, (2, 6), generator=make)
    mask = torch.tensor([[1, 1, 1, 1, 1, 0], [1, 1, 0, 0, 0, 0]])
    found = attempt(answer, logits, Y, mask)
    if isinstance(found, Verdict) and "Expected target size" in found.message:  # cross_entropy's own words
        return Verdict.wrong(
            f"{found.message} cross_entropy looks for the classes in dimension 1: flatten to (B·T, V) and (B·T,)."
        )
    problem = found if isinstance(found, Verdict) else _loss_problem(found, logits, Y, mask)
    if problem is not None:
        return problem
    empty = attempt(answer, logits, Y, torch.zeros_like(mask))
    if isinstance(empty, Verdict):
        return empty
    if isinstance(empty, (int, float)) or (isinstance(empty, Tensor) and not empty.requires_grad):
        return Verdict.wrong(
            "where nothing counts you return a new number or tensor, without a gradient: backward() would raise. "
            "Divide by at least 1 instead."
        )
    problem = wrong_shape(empty, ())
    if problem is not None:
        return Verdict.wrong(f"a batch where nothing counts: {problem.message}")
    if not torch.isfinite(empty):
        return Verdict.wrong("a batch where nothing counts gives 0 / 0 = nan: divide by at least 1.")
    if empty.abs() > 1e-6:
        return Verdict.wrong(f"a batch where nothing counts should give 0, yours gives {empty.item():.4f}.")
    return Verdict.right("a mean over the positions that count, with a gradient for those alone.")


def _loss_problem(found: object, logits: Tensor, Y: Tensor, mask: Tensor) -> Verdict | None:
    if isinstance(found, (int, float)):
        return Verdict.wrong("that is a number without a gradient; return the tensor, without .item().")
    problem = wrong_shape(found, ())
    if problem is not None:
        return problem
    with torch.no_grad():
        each = F.cross_entropy(logits.flatten(0, 1), Y.flatten(), reduction="none").view(Y.shape)
        kept = each * mask
        by_row = (kept.sum(1) / mask.sum(1)).mean()
        moved = (each[:, 1:] * mask[:, :-1]).sum() / mask[:, :-1].sum()
        wrong = (
            (each.mean(), "you take the mean over all positions: the mask is not used"),
            (kept.mean(), "the sum is masked, but you divide by all positions: padding takes part in the mean"),
            (kept.sum(), "that is the sum; divide it by the number of positions that count"),
            (by_row, "you take a mean of row means, so a token of a short row weighs more; count over the whole batch"),
            ((each * (1 - mask)).sum() / (1 - mask).sum(), "the mask is upside down: 1 means that a position counts"),
            (moved, "the mask is shifted once more; it comes with Y and fits it as it is"),
            (-masked_cross_entropy(logits, Y, mask), "the sign is wrong: the loss is -log p"),
        )
        right = masked_cross_entropy(logits, Y, mask)
    if not torch.allclose(found.detach().float(), right, atol=1e-5):
        why = next((text for value, text in wrong if torch.allclose(found.detach().float(), value, atol=1e-5)), None)
        return Verdict.wrong(
            f"the loss should be {right:.4f}, yours is {found.item():.4f}" + (f": {why}." if why else ".")
        )
    if not found.requires_grad:
        return Verdict.wrong("the value is right, but it has no gradient: no .detach(), .item() or no_grad on the way.")
    (gradient,) = torch.autograd.grad(found, logits)
    (wanted,) = torch.autograd.grad(masked_cross_entropy(logits, Y, mask), logits)
    if gradient[mask == 0].abs().max() > 1e-6:
        return Verdict.wrong("the value is right, but padding gets a gradient.")
    if not torch.allclose(gradient, wanted, atol=1e-5):
        return Verdict.wrong("the value is right, but the gradient is not: is a part of it detached?")
    return None


def check_stream(answer: Callable[[list[bytes]], list[str]]) -> Verdict:
    """`answer(tokens)` should give the text that becomes certain with each token: tokens' bytes → as many strings."""
    text = "山龘🙂a"
    raw = text.encode("utf-8")
    cuts = [raw[:3], raw[3:4], raw[4:6], raw[6:8], raw[8:9], raw[9:10], raw[10:]]
    for tokens, wanted in (
        (cuts, ["山", "", "龘", "", "", "🙂", "a"]),
        ([raw[:4], raw[4:6], raw[6:]], ["山", "龘", "🙂a"]),
        ([b"ok"], ["ok"]),
    ):
        found = attempt(answer, list(tokens))
        if isinstance(found, Verdict):
            return found
        if not isinstance(found, list) or not all(isinstance(piece, str) for piece in found):
            return Verdict.wrong(f"a list of strings is needed, one for each token; this is {str(found)[:60]}.")
        if len(found) != len(tokens):
            return Verdict.wrong(
                f"{len(tokens)} tokens should give {len(tokens)} strings (some empty), not {len(found)}."
            )
        if found == wanted:
            continue
        if any("\ufffd" in piece for piece in found):
            return Verdict.wrong(
                "� in your text: a token that ends inside a character was decoded. Hold those bytes back."
            )
        if found == [token.decode("utf-8", "ignore") for token in tokens]:
            return Verdict.wrong(
                "characters that lie in two tokens are lost: errors='ignore' throws their halves away."
            )
        if "".join(found) != "".join(wanted):
            return Verdict.wrong(f"joined, your pieces are {''.join(found)!r}, the text is {''.join(wanted)!r}.")
        given = "[" + ", ".join(token.hex(" ") for token in tokens) + "]"
        if found == _held_back(tokens):
            return Verdict.wrong(
                "you hold everything back until all bytes decode. A token may end a character and begin the next: give "
                f"the finished one at once, keep only the rest. For the tokens {given} {wanted} is right, not {found}."
            )
        return Verdict.wrong(
            f"the text is right, but comes late or early: {found} instead of {wanted}, for the tokens {given}."
        )
    return Verdict.right("no half character is shown, and none is lost.")


def _held_back(tokens: list[bytes]) -> list[str]:
    """The usual wrong answer: nothing is given while any byte is left over."""
    texts, rest = [], b""
    for token in tokens:
        rest += token
        try:
            texts.append(rest.decode("utf-8"))
            rest = b""
        except UnicodeDecodeError:
            texts.append("")
    return texts
