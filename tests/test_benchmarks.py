"""The baseline that the benchmarks compare with is what it claims to be, and the benchmarks run."""

from __future__ import annotations

import sys

import pytest
import torch

from minimind_core import PretrainDataset, get_lr
from minimind_core.paths import PROJECT

sys.path.insert(0, str(PROJECT / "benchmarks"))

import minimind_way


@pytest.fixture
def baseline(golden):
    """MiniMind's way with the reference's initial weights."""
    model = minimind_way.Model(golden.config)
    model.load_state_dict(golden.model().state_dict())
    return model


def test_the_baselines_logits_are_the_references(golden, baseline):
    with torch.no_grad():
        logits, _, _ = baseline.eval()(golden.tensors["input_ids"])
    torch.testing.assert_close(logits, golden.tensors["eval_logits"], atol=1e-5, rtol=0)


def test_the_baselines_training_run_is_the_references(golden, baseline):
    figures, tensors = golden.figures["train"], golden.tensors
    optimizer, losses = torch.optim.AdamW(baseline.parameters(), lr=figures["lr"]), []
    for step, (rows, mask) in enumerate(zip(tensors["train_batches"], tensors["train_masks"], strict=True)):
        for group in optimizer.param_groups:
            group["lr"] = get_lr(step, 12, figures["lr"])
        ce, aux_loss = minimind_way.loss_of(baseline.train(), rows[:, :-1], rows[:, 1:], mask)
        ((ce + aux_loss) / figures["accumulation_steps"]).backward()
        losses.append(float(ce + aux_loss))
        if (step + 1) % figures["accumulation_steps"] == 0:
            torch.nn.utils.clip_grad_norm_(baseline.parameters(), figures["grad_clip"])
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    assert losses == pytest.approx(figures["losses"], abs=2e-6)
    with torch.no_grad():
        logits, _, _ = baseline.eval()(tensors["input_ids"])
    torch.testing.assert_close(logits, tensors["logits_after_training"], atol=1e-4, rtol=0)


def test_the_baselines_greedy_tokens_are_the_references(golden, baseline):
    prompt = golden.tensors["input_ids"][:1, :6]
    found = minimind_way.generate(baseline.eval(), prompt, 20, temperature=1e-6, top_p=1.0, penalty=1.0)
    assert found[:, 6:].tolist() == golden.tensors["greedy_ids"].tolist()


def test_the_baselines_rows_are_minimind_s(corpus, tiny_tokenizer):
    path = corpus(["<s>一号山是什么颜色？</s> <s>红色</s>", "没有标记的一行", "<s>" + "长" * 90 + "</s>"])
    ours = PretrainDataset(path, tiny_tokenizer, max_length=40, as_minimind=True)
    theirs = minimind_way.Rows(path, tiny_tokenizer, max_length=40)
    assert len(ours) == len(theirs) == 3
    for number in range(3):
        for one, other in zip(ours[number], theirs[number], strict=True):
            assert torch.equal(one, other)
