"""What the tests share: folders of their own for everything that is written, small corpora, a tokenizer, tiny runs.

Nothing here touches the learner's out/ or dataset/: `MINIMIND_OUT` and `MINIMIND_DATASET` lead elsewhere from the first
import on. One torch thread is enough for models of this size and keeps the tests quick on a busy machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_OWN = Path(tempfile.mkdtemp(prefix="minimind-tests-"))
os.environ["MINIMIND_OUT"] = str(_OWN / "out")
os.environ["MINIMIND_DATASET"] = str(_OWN / "dataset")
for _name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MINIMIND_PROFILE", "WANDB_API_KEY"):
    os.environ.pop(_name, None)
os.environ["WANDB_MODE"] = "offline"
os.environ["MINIMIND_OFFLINE"] = "1"

import psutil  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

from minimind_core import MiniMindLM, ModelConfig, Trainer, save_tokenizer, train_tokenizer  # noqa: E402
from minimind_core.paths import PROJECT  # noqa: E402
from minimind_core.plan import plan_run  # noqa: E402

DATA = Path(__file__).parent / "data"
SHARED = PROJECT.parent / "shared"

torch.set_num_threads(1)
settings.register_profile(
    "course",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("course")


def pytest_sessionfinish() -> None:
    shutil.rmtree(_OWN, ignore_errors=True)


@pytest.fixture(autouse=True)
def same_seed() -> None:
    """Every test starts from the same random numbers, whichever ran before it."""
    torch.manual_seed(0)


# --- figures of the reference -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Golden:
    """What the reference computed on one small model: its configuration, weights, inputs and results."""

    config: ModelConfig
    figures: dict[str, Any]
    tensors: dict[str, torch.Tensor]

    def model(self) -> MiniMindLM:
        """A fresh model with the reference's initial weights."""
        model = MiniMindLM(self.config)
        state = {k.removeprefix("weight."): v.clone() for k, v in self.tensors.items() if k.startswith("weight.")}
        state["tok_embeddings.weight"] = state["output.weight"]
        model.load_state_dict(state)
        return model


@pytest.fixture(scope="session", params=["dense", "moe"])
def golden(request) -> Golden:
    """The reference's figures, for a dense model and for one with experts."""
    figures = json.loads((DATA / f"golden_{request.param}.json").read_text(encoding="utf-8"))
    return Golden(ModelConfig(**figures["config"]), figures, load_file(DATA / f"golden_{request.param}.safetensors"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data that is no part of the repository; the test is skipped where it isn't."""
    if not (SHARED / "reference").is_dir():
        pytest.skip("the reference data beside the project is not there; cases worked by hand cover the same ground")
    return SHARED


# --- small models, corpora and runs -------------------------------------------------------------------------------


def tiny_config(**changes: Any) -> ModelConfig:
    """A configuration that computes in a millisecond."""
    base = {"dim": 16, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "vocab_size": 50, "max_seq_len": 32}
    return ModelConfig(**(base | {"multiple_of": 8} | changes))


@pytest.fixture
def tiny_model() -> Callable[..., MiniMindLM]:
    """`tiny_model(use_moe=True, seed=3)` gives a small model in eval mode, the same one for the same arguments."""

    def make(seed: int = 0, **changes: Any) -> MiniMindLM:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return MiniMindLM(tiny_config(**changes)).eval()

    return make


def write_rows(path: Path, texts: Iterable[str]) -> Path:
    """A corpus file: one JSON object a line."""
    lines = [json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts]
    path.write_text("".join(lines), encoding="utf-8")
    return path


@pytest.fixture
def corpus(tmp_path: Path) -> Callable[..., Path]:
    """`corpus(["<s>…</s>", …])` writes a corpus file and gives its path."""

    def make(texts: Iterable[str], name: str = "corpus.jsonl") -> Path:
        return write_rows(tmp_path / name, texts)

    return make


def tiny_texts(rows: int, start: int = 0) -> list[str]:
    """Rows of two or three short segments, all different, with regularities that a tiny model can learn."""
    things, colours, places = "山水花鸟鱼虫草木", "红黄蓝白黑绿", "南北东西"
    texts = []
    for n in range(start, start + rows):
        thing, colour, place = things[n % 8], colours[n % 6], places[n % 4]
        segments = [f"{n}号{thing}是什么颜色？{n}号{thing}是{colour}色的。", f"{thing}在哪里？{thing}在{place}边。"]
        segments += [f"{colour}色的{thing}真好看！"] * (n % 3 == 0)
        texts.append(" ".join(f"<s>{segment}</s>" for segment in segments))
    return texts


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Tokenizer:
    """A tokenizer of 400 tokens at most, trained on the tiny texts."""
    return train_tokenizer(tiny_texts(60), vocab_size=400)


@dataclass(frozen=True)
class Bench:
    """A tiny corpus, held-out rows and a tokenizer on disk, and a way to plan and start runs on them."""

    folder: Path
    corpus: Path
    valid: Path
    tokenizer: Path

    def plan(self, out: str | Path, **flags: Any):
        base: dict[str, Any] = {
            "data_path": str(self.corpus),
            "valid_path": str(self.valid),
            "tokenizer": str(self.tokenizer),
            "out_dir": str(self.folder / out),
            "dim": 16,
            "n_layers": 1,
            "n_heads": 4,
            "n_kv_heads": 2,
            "vocab_size": 400,
            "max_seq_len": 32,
            "batch_size": 4,
            "accumulation_steps": 2,
            "learning_rate": 2e-3,
            "log_interval": 1,
            "device": "cpu",
        }
        return plan_run(**{name: value for name, value in (base | flags).items() if value is not None})

    def trainer(self, out: str | Path, lines: list[str] | None = None, **flags: Any) -> Trainer:
        """A trainer of a tiny run; what it says is appended to `lines`."""
        said = [] if lines is None else lines
        return Trainer(self.plan(out, **flags), say=said.append, bar=False)


@pytest.fixture
def bench(tmp_path: Path, tiny_tokenizer: Tokenizer) -> Bench:
    """A fresh folder with a tiny corpus in it."""
    return Bench(
        tmp_path,
        write_rows(tmp_path / "corpus.jsonl", tiny_texts(26)),
        write_rows(tmp_path / "valid.jsonl", tiny_texts(5, start=100)),
        save_tokenizer(tiny_tokenizer, tmp_path / "tokenizer"),
    )


@pytest.fixture(autouse=True)
def no_run_is_left() -> Iterator[None]:
    """Runs in processes of their own end with the test that started them, however it ended."""
    yield
    if (runs := sys.modules.get("minimind_core.runs")) is None:
        return
    for supervisor in runs._STARTED:
        with contextlib.suppress(psutil.Error):
            for process in psutil.Process(supervisor.pid).children(recursive=True):
                process.kill()
        supervisor.wait(timeout=30)
    runs._STARTED.clear()


# --- pictures ---------------------------------------------------------------------------------------------------------


def drawn(make: Callable[[], Any]) -> Any:
    """The figure that `make` gives, in the course's style; it has to draw without a warning and not stay open."""
    from matplotlib import pyplot as plt

    from minimind_core.plots.style import use_course_style

    use_course_style()
    plt.close("all")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = make()
        figure.canvas.draw()
    assert not plt.get_fignums(), "the figure would show twice"
    return figure
