"""Looking into a model: attention maps, sizes, gates and expert choices as tensors, and two viewers to click through.

The functions that read a model hang hooks on minimind_core's own layers, so they show what the model does and not what
a copy of it would do. The viewers are thin: sliders around pictures and plain text. Used in notebook 03.
"""

# T tokens · L layers · H query heads · K key/value heads · E experts · Dh per head

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from html import escape
from typing import Any, NamedTuple

import ipywidgets as widgets
import torch
from matplotlib.colors import to_hex
from torch import Tensor, nn

from ..errors import InputError
from ..layers import apply_rotary
from ..model import MiniMindLM
from ..plots import token_kinds
from ..plots.attention import plot_attention
from ..plots.model import pale
from ..plots.style import CYCLE, INK
from ..plots.token_kinds import token_kind
from .parts import Panel, card_style, fill, image, looks, png, row

KINDS = ("marker", "punctuation, space", "Chinese", "part of a character", "the rest")
KIND_AS = {  # blanks are grouped with punctuation here
    token_kinds.MARKER: "marker",
    token_kinds.PUNCTUATION: "punctuation, space",
    token_kinds.BLANK: "punctuation, space",
    token_kinds.CHARACTER: "Chinese",
    token_kinds.WORD: "Chinese",
    token_kinds.PART: "part of a character",
    token_kinds.OTHER: "the rest",
}
CARD_STYLE = card_style("line-height:1.9")


@contextmanager
def _listening(hooks: list[Any], model: nn.Module) -> Iterator[None]:
    """The model in eval mode and without gradients; afterwards the hooks are gone and the mode is as before."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()


def _one_text(ids: Tensor) -> None:
    if ids.dim() != 2 or ids.shape[0] != 1:
        raise InputError(f"one text is needed, ids of shape (1, T); these are {tuple(ids.shape)}.")


def attention_maps(model: MiniMindLM, ids: Tensor) -> Tensor:
    """How every head shares its attention out over one text: ids (1, T) → (L, H, T, T), each row adding up to 1."""
    _one_text(ids)
    maps = []

    def keep(attention: nn.Module, inputs: tuple) -> None:
        x, cos, sin = inputs[:3]
        queries = apply_rotary(attention.wq(x).unflatten(-1, (attention.n_heads, attention.head_dim)), cos, sin)
        keys = apply_rotary(attention.wk(x).unflatten(-1, (attention.n_kv_heads, attention.head_dim)), cos, sin)
        keys = keys.repeat_interleave(attention.n_heads // attention.n_kv_heads, dim=2)  # (1, T, K, Dh) → (1, T, H, Dh)
        scores = torch.einsum("bthd,bshd->bhts", queries, keys) / attention.head_dim**0.5
        hidden = torch.ones_like(scores, dtype=torch.bool).triu(1)
        maps.append(scores.masked_fill(hidden, -torch.inf).softmax(-1)[0].float().cpu())

    with _listening([layer.attention.register_forward_pre_hook(keep) for layer in model.layers], model):
        model(ids)
    return torch.stack(maps)


class Habit(NamedTuple):
    """Mean share of attention that each head gives to some tokens, (L, H), and what it would be if all was even."""

    shares: Tensor
    even: float


def attention_habits(maps: Tensor, labels: list[str]) -> dict[str, Habit]:
    """How much each head looks at the token before, at its own segment, at markers and so on; `maps` (L, H, T, T).

    Means go over the tokens that have such a token to look at; the first token, which sees only itself, is left out.
    """
    looks, looked = torch.arange(len(labels))[:, None], torch.arange(len(labels))
    kinds = [token_kind(label) for label in labels]
    segment = torch.tensor([label == "<s>" for label in labels]).cumsum(0)
    same = torch.tensor([[one == other for other in labels] for one in labels])
    wanted = {
        "the token before": looks - looked == 1,
        "the 8 tokens before": (looked < looks) & (looks - looked <= 8),
        "its own segment": (looked <= looks) & (segment[:, None] == segment),
        "<s> and </s>": (looked < looks) & torch.tensor([kind == token_kinds.MARKER for kind in kinds]),
        "punctuation": (looked < looks) & torch.tensor([kind == token_kinds.PUNCTUATION for kind in kinds]),
        "the same token, earlier": (looked < looks) & same,
    }
    even = (looked <= looks) / (looks + 1.0)  # (T, T): token n can spread its attention over n + 1 tokens
    habits = {}
    for name, chosen in wanted.items():
        rows = chosen.any(1)
        rows[0] = False
        if rows.any():
            shares = (maps * chosen)[:, :, rows].sum(-1).mean(-1)
            habits[name] = Habit(shares, (even * chosen)[rows].sum(-1).mean().item())
    return habits


def routing_of(model: MiniMindLM, ids: Tensor) -> Tensor:
    """What weight each token gives each expert: ids (1, T) → (L, T, E), 0 where an expert was not chosen."""
    _one_text(ids)
    if not model.config.use_moe:
        raise InputError("this model has no experts: its config says use_moe=False.")
    layers = []

    def keep(gate: nn.Module, inputs: tuple, output: tuple) -> None:
        indices, weights, _ = output
        layers.append(torch.zeros(len(indices), gate.n_experts).scatter(1, indices.cpu(), weights.float().cpu()))

    with _listening([layer.feed_forward.gate.register_forward_hook(keep) for layer in model.layers], model):
        model(ids)
    return torch.stack(layers)


def stream_sizes(model: MiniMindLM, ids: Tensor) -> dict[str, Tensor]:
    """Root mean square of each token's vector along the stream of one text, ids (1, T).

    `stream` (L + 1, T): after the embedding and after each block. `attention`, `feed-forward` (L, T): what each adds.
    """
    _one_text(ids)
    found: dict[str, list[Tensor]] = {"stream": [], "attention": [], "feed-forward": []}

    def keep(name: str) -> Callable[..., None]:
        def hook(part: nn.Module, inputs: tuple, output: Any) -> None:
            vectors = output[0] if isinstance(output, tuple) else output  # (1, T, D), perhaps with a cache or a loss
            found[name].append(vectors[0].float().pow(2).mean(-1).sqrt().cpu())

        return hook

    hooks = [model.tok_embeddings.register_forward_hook(keep("stream"))]
    for layer in model.layers:
        hooks.append(layer.register_forward_hook(keep("stream")))
        hooks.append(layer.attention.register_forward_hook(keep("attention")))
        hooks.append(layer.feed_forward.register_forward_hook(keep("feed-forward")))
    with _listening(hooks, model):
        model(ids)
    return {name: torch.stack(sizes) for name, sizes in found.items()}


def kind_for_experts(piece: str) -> str:
    """What kind of token a piece (as `pieces` gives it) is: one of KINDS."""
    return KIND_AS[token_kind(piece)]


def routing_by_kind(model: MiniMindLM, texts: Iterable[tuple[Tensor, list[str]]]) -> dict[str, Tensor]:
    """Which share of its assignments each kind of token gives each expert, (L, E) a kind, each row adding up to 1.

    `texts`: ids (1, T) with their T pieces. Kinds come in the order of KINDS; those that do not occur are left out.
    """
    counts: dict[str, Tensor] = {}
    for ids, labels in texts:
        chosen = (routing_of(model, ids) > 0).float()  # (L, T, E)
        kinds = [kind_for_experts(label) for label in labels]
        for kind in set(kinds):
            here = torch.tensor([each == kind for each in kinds])
            counts[kind] = counts.get(kind, 0) + chosen[:, here].sum(1)
    return {kind: counts[kind] / counts[kind].sum(-1, keepdim=True) for kind in KINDS if kind in counts}


def attention_words(maps: Tensor, labels: list[str], layer: int, head: int, token: int, most: int = 5) -> str:
    """A sentence in HTML on where one token looks, largest shares first."""
    shares, places = maps[layer, head, token, : token + 1].topk(min(most, token + 1))
    looked = " · ".join(
        f"{100 * share:.0f} % <b>{escape(labels[place])}</b>" + (" (itself)" if place == token else "")
        for share, place in zip(shares.tolist(), places.tolist(), strict=True)
    )
    who = f"Layer {layer}, head {head}: <b>{escape(labels[token])}</b> (token {token})"
    return f'<div style="{CARD_STYLE}">{who} looks at {looked} (an even share: {100 / (token + 1):.0f} %)</div>'


def routing_words(routing: Tensor, labels: list[str], layer: int, choice: int = 0) -> str:
    """The text in HTML, each token on the colour of its first (`choice` 0) or a later expert, with a legend."""
    weights = routing[layer]
    experts = weights.shape[1]
    order = weights.argsort(dim=1, descending=True)[:, choice].tolist()
    colours = [to_hex(pale(CYCLE[expert % len(CYCLE)], 0.6)) for expert in range(experts)]

    def badge(text: str, expert: int, hint: str = "") -> str:
        title = f' title="{escape(hint)}"' if hint else ""
        style = f"background:{colours[expert]};color:{INK};padding:1px 5px;margin:1px;border-radius:3px"
        return f'<span style="{style};display:inline-block"{title}>{escape(text)}</span>'

    tokens = "".join(
        badge(label, expert, ", ".join(f"expert {e}: {weights[n, e]:.2f}" for e in range(experts) if weights[n, e] > 0))
        for n, (label, expert) in enumerate(zip(labels, order, strict=True))
    )
    load = (weights > 0).float().sum(0) / (weights > 0).sum()
    legend = "".join(badge(f"expert {e}: {100 * load[e]:.0f} % of the work", e) for e in range(experts))
    return f'<div style="{CARD_STYLE}"><div>{legend}</div><hr style="margin:6px 0">{tokens}</div>'


def _slider(name: str, count: int, value: int = 0) -> widgets.IntSlider:
    return widgets.IntSlider(
        value, 0, count - 1, description=name, continuous_update=False, disabled=count < 2, **looks("50px", "250px")
    )


def attention_viewer(maps: Tensor, labels: list[str], layer: int = 0, head: int = 0) -> Panel:
    """Sliders for layer, head and token over `attention_maps` (L, H, T, T) of a text with these token labels."""
    layers, heads, tokens, _ = maps.shape
    sliders = _slider("layer", layers, layer), _slider("head", heads, head), _slider("token", tokens, tokens - 1)
    picture, words = image(), widgets.HTML()

    def draw(*_: object) -> None:
        chosen = [slider.value for slider in sliders]

        def make() -> str:
            picture.value = png(plot_attention(maps, labels, *chosen))
            return attention_words(maps, labels, *chosen)

        fill(words, make)

    for slider in sliders:
        slider.observe(draw, "value")
    draw()
    return Panel([row(*sliders), words, picture], picture=lambda: bytes(picture.value) or None)


def router_viewer(routing: Tensor, labels: list[str], layer: int = 0) -> Panel:
    """A slider for the layer over `routing_of` (L, T, E): the text, coloured by the expert that each token goes to."""
    layers = _slider("layer", len(routing), layer)
    choice = _slider("choice", int((routing[0, 0] > 0).sum()))
    words = widgets.HTML()

    def draw(*_: object) -> None:
        fill(words, lambda: routing_words(routing, labels, layers.value, choice.value))

    for slider in (layers, choice):
        slider.observe(draw, "value")
    draw()
    return Panel([row(layers, choice), words])
