"""The figures that lie in benchmarks/results as one table, as a section of the README, and as a plot.

    python benchmarks/report.py [--readme]

Measures nothing: `make bench` does, and calls this at its end. A part that was not measured is left out.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from measure import RESULTS

PROJECT = RESULTS.parent.parent
BEGIN, END = "<!-- benchmarks: written by benchmarks/report.py -->", "<!-- end of benchmarks -->"
NAMES = {
    "dense": "a step of the 25.8M model",
    "moe": "a step with experts, 60.4M at work",
    "laptop": "a step of a small model (128 × 4)",
    "laptop, full rows": "a step of the laptop profile",
    "generation": "a new token, 25.8M",
    "generation, moe": "a new token with experts",
}
Line = tuple[str, str, str, float]  # what, MiniMind's way, ours, how many times better


def result(name: str) -> dict:
    """One benchmark's figures, {} where it has not been run."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def lines() -> list[Line]:
    """The rows of the table."""
    found: list[Line] = []
    speed, encoding, sooner = result("speed"), result("encoding"), result("sooner")
    for part, name in NAMES.items():
        if part in speed:
            theirs, ours = (f"{speed[part][f'{side}_tokens_per_s']:,.0f} tokens/s" for side in ("their", "our"))
            filled = speed[part].get("real_share_of_their_rows")
            of_rows = f", its rows {filled:.0%} full" if filled else ""
            found.append((name + of_rows, theirs, ours, speed[part]["ratio"]))
    for part in ("dense", "moe", "laptop"):
        if "memory_bytes" in speed.get(part, {}):
            theirs, ours = speed[part]["memory_bytes"]
            sizes = [f"{size / 1e9:.1f} GB" for size in (theirs, ours)]
            found.append((f"memory of {NAMES[part]}", *sizes, theirs / ours))
    if encoding:
        rates = [encoding[name]["rows"] / encoding[name]["seconds"] for name in ("line by line", "all cores")]
        shown = [f"{rate:,.0f} rows/s" for rate in rates]
        what = f"encoding of {encoding['gigabytes']:g} GB, {encoding['cores']} cores"
        found.append((what, *shown, rates[1] / rates[0]))
    if sooner:
        seconds = [median([one[side][0] for one in sooner["rounds"]]) for side in ("theirs", "ours")]
        tokens = [median([one[side][2] for one in sooner["rounds"]]) for side in ("theirs", "ours")]
        shown = [f"{t:,.0f} s, {n:,.0f} tokens" for t, n in zip(seconds, tokens, strict=True)]
        found.append(("training to the same held-out loss", *shown, sooner["ratio"]))
    return found


def median(numbers: list[float]) -> float:
    return sorted(numbers)[len(numbers) // 2]


def markdown() -> str:
    """The table with its date and machine, and a sentence on what is left."""
    machine = result("speed")["machine"]
    table = ["| | MiniMind's way | this course | ratio |", "|---|---|---|---|"]
    table += [f"| {what} | {theirs} | {ours} | {ratio:.2f} × |" for what, theirs, ours, ratio in lines()]
    said = f"Measured on {machine['date']}: {machine['processor']}, {machine['device']}, torch {machine['torch']}."
    return "\n".join([said, "", *table, "", *left()])


def left() -> list[str]:
    """What stands between a step, or a new token, and the machine itself."""
    found, steps, speed = [], result("left"), result("speed")
    if "dense" in steps:
        step = steps["dense"]
        others = ", ".join(f"{kind} {share:.0%}" for kind, share in step["shares"].items())
        found.append(
            f"A step runs at {step['share_of_best_rate_causal']:.0%} of this machine's own rate of multiplying "
            f"matrices ({step['best_flops_per_s'] / 1e9:,.0f} GFLOP/s). Where its time goes: {others}."
        )
    if "moe" in steps:
        step = steps["moe"]
        found.append(
            f"With experts it is {step['share_of_best_rate_causal']:.0%}, and matrix products take "
            f"{step['shares']['matrix products']:.0%} of the time."
        )
    shares = [
        f"{speed[part]['our_tokens_per_s'] / speed[part]['bare_products_tokens_per_s']:.0%}{of_what}"
        for part, of_what in (("generation", ""), ("generation, moe", " (with experts)"))
        if part in speed
    ]
    if shares:
        rates = " and ".join(shares)
        found.append(f"New tokens come at {rates} of the rate that the bare products with each matrix would allow.")
    return [" ".join(found)] if found else []


def in_readme(text: str) -> str:
    """README's text with this section in it."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{markdown()}\n{END}{rest.split(END)[1]}"


def draw(path: Path) -> None:
    """How many times better each line is, as bars."""
    import matplotlib.pyplot as plt

    from minimind_core.plots.style import BLUE, GREY

    rows = lines()[::-1]
    figure, axes = plt.subplots(figsize=(8, 0.42 * len(rows) + 1))
    axes.barh([what for what, *_ in rows], [ratio for *_, ratio in rows], color=BLUE, height=0.6)
    axes.axvline(1, color=GREY)
    for place, (*_, ratio) in enumerate(rows):
        axes.annotate(f"{ratio:.2f} ×", (ratio, place), (4, 0), textcoords="offset points", va="center")
    axes.set(xlabel="times as good as MiniMind's way (1: the same)", xlim=(0, 1.12 * max(ratio for *_, ratio in rows)))
    axes.grid(axis="y", visible=False)
    figure.savefig(path, dpi=130, bbox_inches="tight")
    print(f"drawn: {path}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--readme", action="store_true", help="write the table into README.md, too, and draw the plot")
    asked = parser.parse_args()
    if not result("speed"):
        print("No figures yet: `make bench` measures (about an hour on two cores).")
        return 1
    print(markdown())
    if asked.readme:
        readme = PROJECT / "README.md"
        readme.write_text(in_readme(readme.read_text(encoding="utf-8")), encoding="utf-8")
        draw(PROJECT / "docs" / "images" / "benchmarks.png")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
