"""Judging a model: loss, perplexity and bits per byte worked by hand, and the bigram model that it is compared with."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from conftest import tiny_texts

from minimind_core import (
    HeldOut,
    PretrainDataset,
    bigram_rows,
    encode_corpus,
    fit_bigram,
    held_out_loss,
    masked_cross_entropy,
    token_losses,
    train_tokenizer,
)
from minimind_core.evaluation import bigram_baseline, recalled


@pytest.fixture
def rows(corpus, tiny_tokenizer) -> PretrainDataset:
    """Eleven rows of different lengths, some of them cut."""
    return PretrainDataset(corpus([*tiny_texts(9), "<s>短</s>", "<s>一</s>"]), tiny_tokenizer, 24)


@pytest.fixture
def model(tiny_model, tiny_tokenizer):
    return tiny_model(vocab_size=tiny_tokenizer.get_vocab_size())


def test_a_model_that_knows_nothing_loses_the_logarithm_of_its_vocabulary(rows, model, tiny_tokenizer):
    with torch.no_grad():
        model.output.weight.zero_()
    found = held_out_loss(model, rows, tiny_tokenizer)
    assert found.loss == pytest.approx(math.log(model.config.vocab_size), rel=1e-6)
    assert found.perplexity == pytest.approx(model.config.vocab_size, rel=1e-5)


def test_the_loss_is_the_mean_over_all_tokens_not_over_batches(rows, model, tiny_tokenizer):
    X, Y, mask = (torch.stack(parts) for parts in zip(*(rows[i] for i in range(len(rows))), strict=True))
    with torch.no_grad():
        wanted = masked_cross_entropy(model(X).logits, Y, mask).item()
    for batch_size in (1, 4, 8, 100):
        found = held_out_loss(model, rows, tiny_tokenizer, batch_size)
        assert found.loss == pytest.approx(wanted, rel=1e-5)
        assert found.tokens == int(mask.sum())


def test_bytes_are_those_of_the_text_without_its_markers(corpus, model, tiny_tokenizer):
    rows = PretrainDataset(corpus(["<s>山是a色。</s> <s>水</s>", "没有标记"]), tiny_tokenizer, 60)
    found = held_out_loss(model, rows, tiny_tokenizer)
    assert found.utf8_bytes == len("山是a色。 水没有标记".encode())
    assert found.bits_per_byte == pytest.approx(found.loss * found.tokens / math.log(2) / found.utf8_bytes)


def test_bytes_are_counted_alike_however_text_is_cut_into_tokens(corpus, tiny_model):
    path = corpus(tiny_texts(20))
    knows_nothing = []
    for size in (259, 400):
        tokenizer = train_tokenizer(tiny_texts(20), size)
        rows = PretrainDataset(path, tokenizer, 200)
        knows_nothing.append(held_out_loss(tiny_model(vocab_size=400), rows, tokenizer))
    assert knows_nothing[0].utf8_bytes == knows_nothing[1].utf8_bytes
    assert knows_nothing[0].tokens > knows_nothing[1].tokens


@pytest.mark.parametrize("training", [True, False])
def test_judging_leaves_mode_and_gradients_as_they_were(rows, model, tiny_tokenizer, training):
    model.train(training)
    held_out_loss(model, rows, tiny_tokenizer)
    assert model.training is training and all(p.grad is None for p in model.parameters())


def test_judging_is_the_same_with_dropout_and_experts_that_would_balance(rows, tiny_model, tiny_tokenizer):
    model = tiny_model(vocab_size=tiny_tokenizer.get_vocab_size(), dropout=0.5, use_moe=True).train()
    assert held_out_loss(model, rows, tiny_tokenizer) == held_out_loss(model, rows, tiny_tokenizer)


def test_a_vocabulary_wider_than_the_tokenizer_is_judged_too(rows, tiny_model, tiny_tokenizer):
    assert math.isfinite(held_out_loss(tiny_model(vocab_size=500), rows, tiny_tokenizer).loss)


def test_figures_of_a_judgement_follow_from_loss_tokens_and_bytes():
    judged = HeldOut(loss=2.0, tokens=300, utf8_bytes=1000)
    assert judged.perplexity == math.exp(2) and judged.bits_per_byte == pytest.approx(600 / math.log(2) / 1000)
    for words in ("2.000 nats", "perplexity 7.4", "0.866 bits per byte", "300 tokens"):
        assert words in str(judged)
    assert math.isfinite(HeldOut(1e6, 1, 0).perplexity)


def test_losses_of_single_tokens_are_those_that_the_mean_is_made_of(model):
    ids = torch.randint(300, (1, 9))
    found = token_losses(model, ids)
    assert found.shape == (8,)
    with torch.no_grad():
        scores = model(ids[:, :-1]).logits[0].log_softmax(-1)
    torch.testing.assert_close(found, -scores[range(8), ids[0, 1:]])


# --- the bigram model ---------------------------------------------------------------------------------------------


def test_rows_of_pairs_are_what_the_mask_counts(rows):
    for (previous, following), i in zip(bigram_rows(rows), range(len(rows)), strict=True):
        X, Y, mask = rows[i]
        assert previous.tolist() == X[mask.bool()].tolist() and following.tolist() == Y[mask.bool()].tolist()


def test_the_three_estimates_are_the_ones_worked_by_hand(corpus, tiny_tokenizer):
    size = tiny_tokenizer.get_vocab_size()
    a, b = tiny_tokenizer.token_to_id("a"), tiny_tokenizer.token_to_id("b")
    bigram = fit_bigram(PretrainDataset(corpus(["<s>aab</s>"] * 3), tiny_tokenizer, 10), size)
    # In each row: <s>→a, a→a, a→b, b→</s>.
    found = bigram.parts(np.array([1, a, a, b, 5]), np.array([a, a, b, 2, a]))
    wanted = [[1, 0.5, 1 / size], [0.5, 0.5, 1 / size], [0.5, 0.25, 1 / size], [1, 0.25, 1 / size], [0, 0.5, 1 / size]]
    np.testing.assert_allclose(found, wanted)
    assert sum(bigram.weights) == pytest.approx(1) and min(bigram.weights) >= 0


def test_the_bigram_model_gives_probabilities_to_everything_that_may_follow(rows, tiny_tokenizer):
    size = tiny_tokenizer.get_vocab_size()
    bigram = fit_bigram(rows, size)
    for previous in (1, 5, int(rows.ids(0)[1])):
        given = bigram.parts(np.full(size, previous), np.arange(size)) @ np.array(bigram.weights)
        seen = bigram.firsts[previous] > 0
        assert given.sum() == pytest.approx(1 if seen else 1 - bigram.weights[0]) and (given > 0).all()


def test_the_bigram_model_is_better_than_counting_single_tokens(corpus, tiny_tokenizer):
    size = tiny_tokenizer.get_vocab_size()
    train = PretrainDataset(corpus(tiny_texts(60)), tiny_tokenizer, 60)
    held_out = bigram_rows(PretrainDataset(corpus(tiny_texts(20, start=200), "valid.jsonl"), tiny_tokenizer, 60))
    bigram = fit_bigram(train, size)
    loss = bigram.loss(held_out)
    parts = np.concatenate([bigram.parts(a, b) for a, b in held_out])
    single = -np.log(0.99 * parts[:, 1] + 0.01 * parts[:, 2]).mean()
    assert loss == pytest.approx(-np.log(parts @ np.array(bigram.weights)).mean())
    assert loss < single - 0.5 and loss < math.log(size)


def test_the_baseline_of_a_run_is_the_bigram_model_of_its_corpus_judged_on_its_held_out_rows(corpus, tiny_tokenizer):
    train = corpus(tiny_texts(40))
    held_out = PretrainDataset(corpus(tiny_texts(9, start=200), "valid.jsonl"), tiny_tokenizer, 24)
    fitted = fit_bigram(PretrainDataset(train, tiny_tokenizer, 1000), tiny_tokenizer.get_vocab_size())
    found = bigram_baseline(encode_corpus(train, tiny_tokenizer), held_out, tiny_tokenizer)
    assert found == pytest.approx(fitted.loss(bigram_rows(held_out)))
    pairs = sum(len(previous) for previous, _ in bigram_rows(held_out))
    assert pairs == sum(int(held_out[i][2].sum()) for i in range(len(held_out)))


def test_what_a_model_recalls_are_whole_statements_of_the_corpus_on_its_subject(corpus):
    path = corpus(["<s>世界上最高的山峰是什么？世界上最高的山峰是珠穆朗玛峰。</s> <s>今天的天气非常非常好。</s>"])
    said = recalled("世界上最高的山峰是", "珠穆朗玛峰。别的话。", path, "珠穆朗玛")
    assert said == "世界上最高的山峰是珠穆朗玛峰。"
    assert recalled("世界上最高的山峰是", "泰山和黄山的主峰。", path, "珠穆朗玛") is None
    assert recalled("", "今天的天气非常非常好。", path, "珠穆朗玛") is None  # true to the corpus, on another subject
    assert recalled("世界上最高的山峰是", "什么？", path, "珠穆朗玛") is None  # a question states nothing
