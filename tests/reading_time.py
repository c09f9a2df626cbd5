"""How long does a person take over a lesson? Reckoned from its notebook, section by section.

The headers promise a learner's minutes, and nobody can promise what was never counted. So what there is to read and to
look at is counted, at a pace that fits those who took longest: people who read English as a second language and stop
to understand code. The pace is a judgement. It was set so that the whole comes out where independent readers of the
notebooks had put it, between 45 and 65 minutes for a lesson whose header then said 40. Running a lesson counts where
it takes longer than a minute. Exercises state their own minutes and are left out, as is what stands in a fold.

`python tests/reading_time.py 03` prints a lesson's sections, longest first: where to fold if it grows too long.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

WORDS_A_MINUTE = 160
LINE_OF_CODE, LINE_OF_OUTPUT, PICTURE, WIDGET, PREDICTION = 5, 2, 30, 60, 20  # seconds for each
MAIN, FURTHER, EXERCISE = "main", "further", "exercise"


def of_markdown(text: str) -> float:
    """Seconds for the prose, without what is folded, addresses of links, and code that is only shown."""
    seen = re.sub(r"<details>.*?</details>|```.*?```|\]\([^)]*\)", " ", text, flags=re.DOTALL)
    return len(re.findall(r"[\w'’]+", seen)) / WORDS_A_MINUTE * 60 + PREDICTION * seen.count("**Predict")


def of_code(cell: dict) -> float:
    """Seconds for a cell and what it shows. Imports are passed over, as learners do."""
    lines = [line for line in "".join(cell["source"]).splitlines() if line.strip()]
    seconds = LINE_OF_CODE * sum(not re.match(r"\s*(import|from)\s", line) for line in lines)
    for output in cell["outputs"]:
        data = output.get("data", {})
        if "application/vnd.jupyter.widget-view+json" in data:
            seconds += WIDGET
        elif {"image/png", "text/html"} & set(data):
            seconds += PICTURE
        else:
            text = output.get("text", data.get("text/plain", ""))
            seconds += LINE_OF_OUTPUT * "".join(text).count("\n")
    return seconds


def sections(notebook: dict) -> Iterator[tuple[str, str, float]]:
    """(kind, title, seconds) of every stretch of a notebook, in its order; a section may come in several."""
    title, kind, around = "head", MAIN, MAIN
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            yield kind, title, of_code(cell)
            continue
        for part in re.split(r"(?m)^(?=#{2,3} )", "".join(cell["source"])):
            if heading := re.match(r"(##+) (.*)", part):
                title = heading[2]
                if heading[1] == "##":
                    around = {"Exercises": EXERCISE, "Further": FURTHER}.get(title, MAIN)
                kind = EXERCISE if re.match(r"Exercise \d", title) else around
            if kind == EXERCISE and "</details>" in part:  # behind the solution the lesson goes on
                folded, part = part.rsplit("</details>", 1)
                yield kind, title, of_markdown(folded + "</details>")
                kind = around
            yield kind, title, of_markdown(part)


def reading_minutes(notebook: dict, kind: str = MAIN) -> float:
    """Minutes for all that is of one kind: what everybody reads, or what goes further."""
    return sum(seconds for its, _, seconds in sections(notebook) if its == kind) / 60


def main(names: list[str]) -> None:
    folder = Path(__file__).resolve().parents[1] / "notebooks"
    for file in sorted(folder.glob("*.ipynb")):
        notebook = json.loads(file.read_text(encoding="utf-8"))
        print(f"{file.stem:28}", ", ".join(f"{kind} {reading_minutes(notebook, kind):.1f}" for kind in (MAIN, FURTHER)))
        if any(file.stem.startswith(name) for name in names):
            taken = {}
            for kind, title, seconds in sections(notebook):
                taken[kind, title] = taken.get((kind, title), 0) + seconds
            for (kind, title), seconds in sorted(taken.items(), key=lambda each: -each[1]):
                print(f"  {seconds / 60:4.1f}  {kind:9}{title}")


if __name__ == "__main__":
    main(sys.argv[1:])
