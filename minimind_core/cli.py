"""What the command lines share: flags made from the configurations' fields, and errors without a traceback."""

from __future__ import annotations

import argparse
import difflib
import functools
import os
import sys
import types
import typing
from collections.abc import Callable
from contextlib import suppress
from dataclasses import MISSING, Field, fields
from typing import Any

from .config import ModelConfig, TrainConfig
from .errors import CourseError
from .paths import refusal, shown


def friendly(main: Callable[..., int]) -> Callable[..., int]:
    """Turn a CourseError into one sentence on stderr and exit code 2; Ctrl-C into exit code 130.

    The same for files that the system refuses to read or write, wherever that happens. When nobody reads what is
    printed any more (`… | head`), the program ends quietly. Anything else is a bug, and keeps its traceback.
    """

    @functools.wraps(main)
    def run(argv: list[str] | None = None) -> int:
        try:
            return main(argv)
        except CourseError as error:
            return _say(str(error))
        except BrokenPipeError:
            with suppress(OSError, ValueError):  # or Python complains once more at its end
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except OSError as error:
            known = refusal(error)
            if known is None:
                raise
            what = shown(os.fsdecode(error.filename)) if isinstance(error.filename, (str, bytes)) else "a file"
            return _say(f"{what} could not be read or written: {known[0]}. {known[1]}")
        except (MemoryError, RuntimeError) as error:
            from .faults import is_out_of_memory  # loads torch, which a wrong flag need not wait for

            if not is_out_of_memory(error):
                raise
            said = " ".join(str(error).split())[:100] or type(error).__name__
            return _say(f"out of memory ({said}). Lower --batch_size, --max_seq_len, --dim or --n_layers.")
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130

    return run


def _say(message: str) -> int:
    print(f"error: {' '.join(message.split(chr(10)))}", file=sys.stderr)
    return 2


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line, like all others here: what is wrong, and where the flags are listed.

    Flags can't be abbreviated; one that is misspelt is answered by those that are near.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**({"allow_abbrev": False} | settings))

    def error(self, message: str) -> typing.NoReturn:
        message = " ".join(message.removeprefix("argument ").split())
        self.exit(_say(f"{message}.{self._near(message)} `{self.prog} --help` lists the flags."))

    def _near(self, message: str) -> str:
        _, _, words = message.partition("unrecognized arguments: ")
        flags = [flag for action in self._actions for flag in action.option_strings]
        typed = [word.partition("=")[0] for word in words.split() if word.startswith("-")]
        near = [found for word in typed for found in difflib.get_close_matches(word.replace("-", "_"), flags, 2, 0.5)]
        return f" Did you mean {' or '.join(dict.fromkeys(near))}?" if near else ""


def cut(text: str) -> str:
    """What was typed, quoted, and short."""
    return repr(text) if len(text) <= 60 else f"{text[:57]!r}…"


def true_or_false(text: str) -> bool:
    """`--use_moe False` means False; anything but a clear yes or no is refused."""
    known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in known:
        raise argparse.ArgumentTypeError(f"{cut(text)} is neither True nor False")
    return known[text.lower()]


def whole_number(text: str) -> int:
    """An int for argparse, with a message that a person understands."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{cut(text)} is not a whole number") from None


def number(text: str) -> float:
    """A float for argparse; what it may be is the configuration's matter."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{cut(text)} is not a number") from None


def zero_or_one(text: str) -> int:
    """A count of experts that may also be given as None, False or True, as in MiniMind's configuration."""
    known = {"none": 0, "false": 0, "true": 1}
    return known[text.lower()] if text.lower() in known else whole_number(text)


def add_flags(parser: argparse.ArgumentParser, config: type[ModelConfig] | type[TrainConfig]) -> None:
    """One flag for each field of a configuration, None when it isn't given."""
    hints = typing.get_type_hints(config)
    group = parser.add_argument_group("the model" if config is ModelConfig else "the run")
    for field in fields(config):
        kind = _plain_type(hints[field.name])
        if kind is bool:
            group.add_argument(
                f"--{field.name}", nargs="?", const=True, type=true_or_false, metavar="True|False", help=_help(field)
            )
        else:
            reader = {int: whole_number, float: number}.get(kind, kind)
            reader = zero_or_one if field.name == "n_shared_experts" else reader
            group.add_argument(f"--{field.name}", type=reader, metavar=kind.__name__.upper(), help=_help(field))


def _plain_type(hint: object) -> type:
    """int for `int | None`, and so on."""
    if isinstance(hint, types.UnionType):
        return next(part for part in typing.get_args(hint) if part is not type(None))
    return hint  # type: ignore[return-value]


def _help(field: Field) -> str:
    text = field.metadata["help"].replace("%", "%%")
    known = field.default is not MISSING and field.default is not None
    return f"{text} [{field.default}]" if known else text


def parse_flags(argv: list[str] | None, prog: str, description: str) -> dict[str, Any]:
    """The flags that were given, by name; what can never be is refused before torch is loaded."""
    parser = Parser(prog=prog, description=description)
    add_flags(parser, TrainConfig)
    add_flags(parser, ModelConfig)
    given = {name: value for name, value in vars(parser.parse_args(argv)).items() if value is not None}
    TrainConfig.from_dict({field.name: given[field.name] for field in fields(TrainConfig) if field.name in given})
    return given
