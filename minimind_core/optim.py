"""Optimizers: AdamW as the seed has it, and Muon for the hidden matrices with AdamW for everything else.

Notebook 05 does one AdamW step by hand and shows what Muon changes. Left out: learning rates over time
(schedule.py); the loop writes the rate into the groups before each step.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from .config import Recipe
from .errors import ConfigError


def build_optimizer(model: nn.Module, recipe: Recipe, lr: float) -> torch.optim.Optimizer | OptimizerPair:
    """The optimizer that a recipe asks for. `lr` is the starting rate; the loop sets it anew each step."""
    betas = (recipe.momentum, recipe.beta2)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=lr, betas=betas, weight_decay=recipe.weight_decay)
    if recipe.optimizer != "muon":
        raise ConfigError(f"optimizer={recipe.optimizer!r}: allowed are adamw, muon.")
    hidden, others = split_parameters(model)
    decayed = [p for p in others if p.dim() >= 2]
    plain = [p for p in others if p.dim() < 2]
    adamw = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=lr,
        betas=betas,
        fused=all(p.device.type in ("cpu", "cuda") for p in others),
    )
    return OptimizerPair(Muon(hidden, lr, recipe.momentum, recipe.weight_decay), adamw)


def split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The hidden matrices of the blocks, which Muon turns, and all the rest: embedding, norms, the experts' gate."""
    hidden, others = [], []
    for name, parameter in model.named_parameters():
        is_hidden = "layers." in name and parameter.dim() == 2 and ".gate." not in name
        (hidden if is_hidden else others).append(parameter)
    return hidden, others


class Muon(torch.optim.Optimizer):
    """Momentum whose matrix is made orthogonal before it is applied, so that all directions move equally far.

    w ← w·(1 - lr·weight_decay) - lr · 0.2·√max(rows, columns) · orthogonal(momentum). The factor gives updates the
    size of AdamW's, so both share one learning rate. Jordan et al. 2024 (kellerjordan.github.io/posts/muon); the factor
    is from Liu et al. 2025, arXiv:2502.16982. Matrices of one shape are turned together.
    """

    def __init__(
        self, params: Iterable[Tensor], lr: float = 1e-3, momentum: float = 0.95, weight_decay: float = 0.1
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        wrong = [tuple(p.shape) for group in self.param_groups for p in group["params"] if p.dim() != 2]
        if wrong:
            raise ConfigError(f"Muon turns matrices; it was given a parameter of shape {wrong[0]}.")

    @torch.no_grad()
    def step(self, closure=None):
        loss = closure() if closure else None
        for group in self.param_groups:
            by_shape = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for shape, parameters in by_shape.items():
                self._step_together(parameters, group, 0.2 * max(shape) ** 0.5)
        return loss

    def _step_together(self, parameters: list[Tensor], group: dict, scale: float) -> None:
        gradients = [p.grad for p in parameters]
        buffers = [self._buffer(p) for p in parameters]
        torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])  # the running mean of gradients
        ahead = torch._foreach_lerp(gradients, buffers, group["momentum"])  # Nesterov: look one step ahead
        updates = orthogonalize(torch.stack(ahead)).to(parameters[0].dtype)
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(parameters, list(updates.unbind()), alpha=-group["lr"] * scale)

    def _buffer(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        return state["momentum"]


NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # a, b, c


def orthogonalize(matrices: Tensor, steps: int = 5) -> Tensor:
    """Matrices (n, rows, columns) with their singular values pushed to about 1, by a Newton–Schulz iteration.

    Each step applies X ← a·X + (b·A + c·A²)·X with A = X·Xᵀ; a sum and a product are one call to torch (baddbmm), which
    saves a quarter of the time. In bfloat16 on a GPU, where that is fast and precise enough; in float32 on a CPU, where
    bfloat16 is tens of times slower.
    """
    a, b, c = NEWTON_SCHULZ
    x = matrices.bfloat16() if matrices.device.type == "cuda" else matrices.float()
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    if x.dtype == torch.float32 and x.shape[-1] > 1.5 * x.shape[-2]:
        x = _by_squares(x, steps)
    else:
        for _ in range(steps):
            square = x @ x.mT
            inner = torch.baddbmm(square, square, square, beta=b, alpha=c)  # b·A + c·A²
            x = torch.baddbmm(x, inner, x, beta=a)
    return x.mT if tall else x


def _by_squares(x: Tensor, steps: int) -> Tensor:
    """The same of wide matrices with a third less work: all steps are made on the small A = X·Xᵀ, then applied at once.

    A step multiplies X by P = a·I + b·A + c·A², so A becomes P·A·P. Needs float32: what is rounded off a small singular
    value is squared and then grows.
    """
    a, b, c = NEWTON_SCHULZ
    square, product = x @ x.mT, None
    for step in range(steps):
        factor = torch.baddbmm(square, square, square, beta=b, alpha=c)
        factor.diagonal(dim1=-2, dim2=-1).add_(a)
        product = factor if product is None else factor @ product
        if step < steps - 1:
            square = factor @ (factor @ square)
    return x if product is None else product @ x


class OptimizerPair:
    """Two optimizers that the loop, the scaler and a checkpoint treat as one."""

    def __init__(self, first: torch.optim.Optimizer, second: torch.optim.Optimizer) -> None:
        self.both = (first, second)

    @property
    def param_groups(self) -> list[dict]:
        """The groups of both, to set learning rates in."""
        return [group for optimizer in self.both for group in optimizer.param_groups]

    def step(self) -> None:
        for optimizer in self.both:
            optimizer.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        for optimizer in self.both:
            optimizer.zero_grad(set_to_none=set_to_none)

    def state_dict(self) -> dict:
        return {str(n): optimizer.state_dict() for n, optimizer in enumerate(self.both)}

    def load_state_dict(self, state: dict) -> None:
        for n, optimizer in enumerate(self.both):
            optimizer.load_state_dict(state[str(n)])
