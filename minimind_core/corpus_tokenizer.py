"""The tokenizer of a corpus: trained on it once, on no more text than memory and patience allow, and kept in out/.

Training holds every different stretch of letters in memory, so a large corpus is not read whole: runs of rows are taken
at even distances over the file, since its beginning need not be like its end (MiniMind's corpus is sorted by length).
Taught in notebook 02. Left out: how a tokenizer is trained, loaded and looked at (tokenizer.py).
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
from tokenizers import Tokenizer

from .corpus import existing_file, iter_texts, texts_at
from .errors import CorpusError, TokenizerError
from .paths import out_dir, reading, shown
from .progress import tell
from .tokenizer import FORMAT, load_tokenizer, save_tokenizer, train_tokenizer

SAMPLE_BYTES = 16_000_000  # of the file; ample for 6,400 tokens, and training on them takes about 1 GB of memory
SAMPLE_PLACES = 2_000  # of a larger file, at which a run of rows is taken
LONG_BYTES = 4_000_000  # training on more is announced


def tokenizer_for(corpus: str | Path, vocab_size: int) -> tuple[Tokenizer, str]:
    """The tokenizer of a corpus, trained on its text once and kept in out/, and a word on where it is from.

    Of a file larger than SAMPLE_BYTES, as many bytes of rows are taken from places spread evenly over it. The tokenizer
    is kept under the corpus's name, size and beginning, so one that was trained on the sample is never picked up for
    another file.
    """
    folder = out_dir() / "tokenizers" / f"{Path(corpus).stem[:60]}-{_beginning_hash(corpus)}-{vocab_size}-v{FORMAT}"
    if (folder / "tokenizer.json").is_file():
        with suppress(TokenizerError):  # it is ours: a damaged one is made again
            return load_tokenizer(folder), f"trained on {shown(corpus)} earlier, kept in {shown(folder)}"
    size = existing_file(corpus).stat().st_size
    part = "all of it" if size <= SAMPLE_BYTES else f"{SAMPLE_BYTES / 1e6:,.0f} of {size / 1e6:,.0f} MB, evenly spread"
    if size > LONG_BYTES:
        tell(
            f"Training a tokenizer of {vocab_size} tokens on {shown(corpus)} ({part}); once; it takes a minute or so …"
        )
    with PeakMemory() as memory:
        tokenizer = train_tokenizer(training_texts(corpus), vocab_size)
    save_tokenizer(tokenizer, folder)
    cost = f"in {memory.seconds:.1f} s with {memory.megabytes:,.0f} MB of memory"
    return tokenizer, f"trained on {shown(corpus)} ({part}) now {cost}, kept in {shown(folder)}"


def training_texts(corpus: str | Path) -> Iterator[str]:
    """The texts that a tokenizer is trained on: all, or about SAMPLE_BYTES of them, evenly spread and always the same.

    Raises CorpusError, naming file and line, for a row that cannot be read; where places are skipped to, lines have no
    numbers, and such rows are left for encoding to find.
    """
    size = existing_file(corpus).stat().st_size
    if size <= SAMPLE_BYTES:
        yield from iter_texts(corpus)
        return
    for place in range(SAMPLE_PLACES):
        yield from texts_at(corpus, place * size // SAMPLE_PLACES, SAMPLE_BYTES // SAMPLE_PLACES)


class PeakMemory:
    """How long something took, and by how much this process's memory grew at most meanwhile, looked at 20 times a s.

    `seconds`, and `megabytes` of resident memory; what another thread takes at the same time counts as well.
    """

    def __enter__(self) -> PeakMemory:
        self.process, self.ended, self.started = psutil.Process(), threading.Event(), time.perf_counter()
        self.before = self.peak = self.process.memory_info().rss
        self.watch = threading.Thread(target=self._watch, daemon=True)
        self.watch.start()
        return self

    def _watch(self) -> None:
        while not self.ended.wait(0.05):
            self.peak = max(self.peak, self.process.memory_info().rss)

    def __exit__(self, *error: object) -> None:
        self.ended.set()
        self.watch.join()
        self.seconds = time.perf_counter() - self.started
        self.megabytes = (max(self.peak, self.process.memory_info().rss) - self.before) / 1e6


def _beginning_hash(corpus: str | Path) -> str:
    corpus = existing_file(corpus)
    with reading(corpus, CorpusError), open(corpus, "rb") as file:
        head = file.read(1 << 20)
        return hashlib.sha256(head + str(corpus.stat().st_size).encode()).hexdigest()[:12]
