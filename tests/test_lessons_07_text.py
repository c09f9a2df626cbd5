"""Lesson 07's text and what chooses its examples: an open prompt, kinds of tokens shared with lesson 03, imports."""

from __future__ import annotations

import ast
import json
import re
from collections import Counter

import pytest
import torch

import minimind_core
from minimind_core import PROMPTS, SAMPLE, iter_texts, pieces, train_tokenizer
from minimind_core.lessons import LESSONS
from minimind_core.plots import loss_parts, token_kinds

pytest.importorskip("ipywidgets")

from minimind_core.widgets import model as lesson_03
from minimind_core.widgets import sampling as bars

CELLS = json.loads(LESSONS[6].path.read_text(encoding="utf-8"))["cells"]
PROSE = "\n".join("".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "markdown")
SIZE = 400


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([*PROMPTS, "天空是蓝色的，大海也是蓝色的。In 2024 x = 7"] * 3, 300)


def logits_of(*large: float) -> torch.Tensor:
    """Logits whose likeliest probabilities are `large`; the rest is shared out evenly."""
    rest = torch.full((SIZE - len(large),), (1 - sum(large)) / (SIZE - len(large)))
    return torch.cat((torch.tensor(large), rest)).log()


def choose(monkeypatch, **prompts: torch.Tensor) -> str:
    """What `undecided_prompt` takes of prompts with these logits, in both orders."""
    nothing_seen = torch.zeros(SIZE, dtype=torch.bool)
    monkeypatch.setattr(bars, "next_logits", lambda model, tokenizer, prompt: (prompts[prompt], nothing_seen))
    chosen = {bars.undecided_prompt(None, None, order) for order in ([*prompts], [*prompts][::-1])}
    assert len(chosen) == 1
    return chosen.pop()


def test_one_strong_token_and_a_long_tail_is_no_open_question(monkeypatch):
    strong, open_one = logits_of(0.65), logits_of(*[0.3, 0.2, 0.15, 0.1, 0.1, 0.05])
    assert abs(bars.bits(strong.softmax(-1)) - 4) < abs(bars.bits(open_one.softmax(-1)) - 4), "bits alone would err"
    assert choose(monkeypatch, strong=strong, open_one=open_one) == "open_one"
    assert choose(monkeypatch, strong=strong, even=torch.zeros(SIZE)) == "even", "no token stands out there"


def test_where_every_prompt_is_dominated_the_one_near_four_bits_is_taken(monkeypatch):
    assert choose(monkeypatch, sure=logits_of(0.99), less=logits_of(0.65)) == "less"


def test_both_lessons_sort_tokens_by_one_notion(tokenizer):
    coarse = {
        loss_parts.WORD: "Chinese",
        loss_parts.CHARACTER: "Chinese",
        loss_parts.PART: "part of a character",
        loss_parts.OTHER: "the rest",
        loss_parts.PUNCTUATION: "punctuation, space",
    }
    met = Counter()
    for number, piece in enumerate(pieces(tokenizer, range(300))):
        kind = loss_parts.kind_of(tokenizer, number)
        met[kind] += 1
        blank = "punctuation, space" if not piece.strip() else "marker"  # lesson 07 counts blanks among the markers
        assert lesson_03.kind_for_experts(piece) == coarse.get(kind, blank), piece
    assert set(met) == set(loss_parts.KINDS)


@pytest.mark.parametrize(
    ("piece", "kind"),
    [
        ("<unk>", token_kinds.MARKER),
        ("⟨id 9?⟩", token_kinds.MARKER),
        ("\n", token_kinds.BLANK),
        ("⟨e4⟩⟨ba⟩", token_kinds.PART),
        (" 山", token_kinds.CHARACTER),
        ("高山", token_kinds.WORD),
        ("山，", token_kinds.OTHER),
        ("，“", token_kinds.PUNCTUATION),
    ],
)
def test_a_piece_has_one_of_seven_kinds(piece, kind):
    assert token_kinds.token_kind(piece) == kind


def test_functions_that_the_text_recommends_are_imported_where_it_says():
    code = [ast.parse("".join(cell["source"])) for cell in CELLS if cell["cell_type"] == "code"]
    imports = [node for tree in code for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    known = {alias.asname or alias.name for node in imports for alias in node.names}
    for imported in re.findall(r"`from minimind_core import (\w+)`", PROSE):
        assert hasattr(minimind_core, imported)
        known.add(imported)
    for called in re.findall(r"`(\w+)\([^`]+\)`", PROSE):
        if hasattr(minimind_core, called):
            assert called in known, f"{called} is used in the text, and imported nowhere"
    assert "minimind_core." not in re.sub(r"`from minimind_core[^`]*`|\]\([^)]*\)|minimind_core\.\w+`", "", PROSE)


def test_the_bigram_model_is_built_by_hand_and_sums_are_judged():
    source = "\n".join("".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code")
    assert "by hand and fit_bigram differ" in source
    outputs = [output for cell in CELLS for output in cell.get("outputs", [])]
    printed = "".join("".join(output.get("text", "")) for output in outputs)
    rows = list(iter_texts(SAMPLE))
    assert [match[0] for match in re.finditer("3加5等于.", "".join(rows))] == ["3加5等于多", "3加5等于8"]
    assert "3加5等于" in rows[0] and not any("4加3等于" in row for row in rows), "the text says so: choose other sums"
    for prompt in ("3加5等于", "4加3等于"):
        assert re.search(rf"^{prompt} \(.*→[^←]* ← (right|wrong)$", printed, re.MULTILINE), prompt


def test_rows_are_judged_within_the_models_window():
    """Places that no training reached would tell of the window, and not of what was learned."""
    (code,) = [source for cell in CELLS if "-ln p and token_losses differ" in (source := "".join(cell["source"]))]
    assert "window = model.config.max_seq_len" in code and "whole[:window]" in code and "[:, :window]" in code


def test_the_best_weights_are_among_the_ages():
    outputs = [output for cell in CELLS for output in cell.get("outputs", [])]
    printed = "".join("".join(output.get("text", "")) for output in outputs)
    best = re.findall(r"^ *(\d+) +([\d.]+) +[\d.]+ → .*?(← the best of its run)?$", printed, re.MULTILINE)
    assert [float(loss) for _, loss, mark in best if mark] == [min(float(loss) for _, loss, _ in best)]
