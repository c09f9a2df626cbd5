"""What the command lines share: flags made from the configurations' fields, and errors without a traceback."""

from __future__ import annotations

import argparse
import functools
import sys
import types
import typing
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from typing import Any

from .config import ModelConfig, TrainConfig
from .errors import CourseError


def friendly(main: Callable[..., int]) -> Callable[..., int]:
    """Turn a CourseError into one sentence on stderr and exit code 2; Ctrl-C into exit code 130."""

    @functools.wraps(main)
    def run(argv: list[str] | None = None) -> int:
        try:
            return main(argv)
        except CourseError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130

    return run


def true_or_false(text: str) -> bool:
    """`--use_moe False` means False; anything but a clear yes or no is refused."""
    known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in known:
        raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")
    return known[text.lower()]


def whole_number(text: str) -> int:
    """An int for argparse, with a message that a person understands."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


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
            reader = {"n_shared_experts": zero_or_one}.get(field.name, whole_number if kind is int else kind)
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
    """The flags that were given, by name."""
    parser = argparse.ArgumentParser(prog=prog, description=description, allow_abbrev=False)
    add_flags(parser, TrainConfig)
    add_flags(parser, ModelConfig)
    return {name: value for name, value in vars(parser.parse_args(argv)).items() if value is not None}
