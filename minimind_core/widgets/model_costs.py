"""What a model of some shape costs, and sliders to change the shape: weights, cache, work for each token.

Everything is reckoned from a ModelConfig; no model is built. Used in notebook 03. Left out: optimizer states and
activations, which a run's plan reckons with (preflight.py).
"""

# T tokens · L layers · D model width · K key/value heads · Dh per head

from __future__ import annotations

from html import escape
from math import prod
from typing import Any

import ipywidgets as widgets

from ..config import ModelConfig
from ..model import weight_shapes
from .model import CARD_STYLE
from .parts import Panel, fill, looks, row

BITS_16 = 2  # bytes a number
LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)


def model_costs(config: ModelConfig, tokens: int) -> dict[str, float]:
    """A model's costs for texts of so many tokens, by name.

    `parameters`, and those `at work` for one token; `weights, MiB` and `cache of one text, MiB` in 16 bits; `million
    FLOPs a token` in training, the square of attention in full, and `attention's part of them, %`; `tokens for a cache
    as large as the weights`.
    """
    shapes = weight_shapes(config)
    del shapes["tok_embeddings.weight"]  # the output's, once more
    parameters = sum(prod(shape) for shape in shapes.values())
    idle = config.n_routed_experts - config.num_experts_per_tok if config.use_moe else 0
    at_work = parameters - idle * 3 * config.dim * config.ffn_dim * config.n_layers
    a_token = BITS_16 * 2 * config.n_layers * config.n_kv_heads * config.head_dim  # keys and values
    attention = 12 * config.n_layers * config.dim * tokens
    return {
        "parameters": parameters,
        "at work": at_work,
        "weights, MiB": BITS_16 * parameters / 2**20,
        "cache of one text, MiB": a_token * tokens / 2**20,
        "million FLOPs a token": (6 * at_work + attention) / 1e6,
        "attention's part of them, %": 100 * attention / (6 * at_work + attention),
        "tokens for a cache as large as the weights": BITS_16 * parameters / a_token,
    }


def costs_words(config: ModelConfig, tokens: int) -> str:
    """The costs as a small table in HTML, each beside what it is for MiniMind's default with 512 tokens."""
    default = model_costs(ModelConfig(), 512)
    lines = "".join(
        f"<tr><td>{escape(name)}</td>{_cell(_number(value))}{_cell(f'× {value / default[name]:.3g}')}</tr>"
        for name, value in model_costs(config, tokens).items()
    )
    head = f"<tr><td></td>{_cell('this model')}{_cell('of MiniMind’s')}</tr>"
    return f'<div style="{CARD_STYLE};line-height:1.5"><table>{head}{lines}</table></div>'


def _cell(text: str) -> str:
    return f'<td style="text-align:right;padding-left:24px">{text}</td>'


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def costs_viewer() -> Panel:
    """Sliders for width, layers, key/value heads, experts and the text's length over `costs_words`."""
    default = ModelConfig()
    quick: dict[str, Any] = {"continuous_update": False}
    dim = widgets.IntSlider(default.dim, 64, 1024, 64, description="width D", **quick, **looks())
    layers = widgets.IntSlider(default.n_layers, 1, 24, description="layers L", **quick, **looks())
    heads = widgets.SelectionSlider(
        options=[1, 2, 4, 8], value=default.n_kv_heads, description="key/value heads", **quick, **looks()
    )
    tokens = widgets.SelectionSlider(options=LENGTHS, value=512, description="tokens T", **quick, **looks())
    moe = widgets.Checkbox(False, description="experts", indent=False)
    words, turned = widgets.HTML(), (dim, layers, heads, tokens, moe)

    def draw(*_: object) -> None:
        def make() -> str:
            config = ModelConfig(dim=dim.value, n_layers=layers.value, n_kv_heads=heads.value, use_moe=moe.value)
            return costs_words(config, tokens.value)

        fill(words, make)

    for control in turned:
        control.observe(draw, "value")
    draw()
    return Panel([row(*turned), words])
