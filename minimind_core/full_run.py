"""What the full run takes of a graphics card, by reckoning: the gpu profile's model on the full corpus, once.

The doctor (doctor.py) says it before anything is bought or started; notebook 06 measures. Nothing is computed here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# The full run: the model of the gpu profile on the full corpus, once, with as many tokens as its size lets expect. What
# it takes of a card is what preflight.training_memory reckons, for its micro-batch of 64 rows and for one row.
PARAMETERS, TOKENS = 25_829_888, 415e6
CARD_BYTES, CARD_BYTES_LEAST = 9.68e9, 1.14e9
BUSY = 0.4  # share of a card's rate that training makes use of, assumed until it is measured
# What data sheets say of products of 16-bit matrices, summed in float32 and not sparse, in operations a second. Names
# are torch's, without NVIDIA and GeForce; a card for laptops or a part of a card (MIG) is another one, and not known.
RATES = {
    r"RTX 3090": 71e12,
    r"RTX 4090": 165e12,
    r"RTX 5090": 209e12,
    r"L40S": 362e12,
    r"A100-(SXM4|PCIE)-\d+GB|A100 80GB PCIe": 312e12,
    r"H100 80GB HBM3|H200": 989e12,
}


@dataclass(frozen=True)
class Card:
    """A GPU as the doctor sees it: torch's name for it, and bytes of its memory that are free."""

    name: str
    free: int


def full_run_on(card: Card) -> tuple[str, str]:
    """Verdict and words on the full run on a card: a time that is reckoned, and its memory against what is free."""
    seconds = full_run_seconds(card.name)
    words = ", the notebook measures it before it starts the run"
    if seconds is not None:
        words = f", by reckoning {seconds / 60:.0f} min for the full corpus if that keeps the card {BUSY:.0%} busy"
    words += f"; it takes about {CARD_BYTES / 2**30:.1f} GiB of the card, {card.free / 2**30:.1f} are free"
    if card.free < CARD_BYTES_LEAST:
        return "bad", f"{words}, too few even for one row at a time: stop what else uses it (nvidia-smi shows it)"
    if card.free < CARD_BYTES:
        words += ", so the same updates are made of smaller pieces"
    return "good", words


def full_run_seconds(card: str) -> float | None:
    """Seconds of the full run on a card of that name: 6 operations for each parameter and token; None if not known."""
    plain = re.sub(r"^(NVIDIA )?(GeForce )?", "", card)
    rate = next((rate for name, rate in RATES.items() if re.fullmatch(name, plain)), None)
    return None if rate is None else 6 * PARAMETERS * TOKENS / (BUSY * rate)
