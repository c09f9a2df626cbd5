"""Continue prompts from the command line: `python -m minimind_core.eval_model --dim 512`, as in the seed.

Seven prompts, or ones that you type. Text is streamed, a character at the earliest when it is whole.
"""

from __future__ import annotations

import sys
from pathlib import Path

from .cli import Parser, friendly, number, true_or_false, whole_number

PROMPT_SUBJECTS = {
    "马克思主义基本原理": "马克思",
    "人类大脑的主要功能": "大脑",
    "万有引力原理是": "引力",
    "世界上最高的山峰是": "珠穆朗玛",
    "二氧化碳在空气中": "二氧化碳",
    "地球上最大的动物有": "动物",
    "杭州市的美食有": "杭州",
}
PROMPTS = tuple(PROMPT_SUBJECTS)


def _parser() -> Parser:
    parser = Parser(prog="python -m minimind_core.eval_model", description="Continue a text with a pretrained model.")
    add = parser.add_argument
    add("--model_mode", type=whole_number, default=0, help="0: pretrained weights, the only kind this course makes [0]")
    add("--load", type=whole_number, default=0, help="0: weights of --out_dir, the only kind this course loads [0]")
    add("--out_dir", help="folder of the weights [out]")
    add("--dim", type=whole_number, help="width of the model; without it the newest model is taken")
    add("--n_layers", type=whole_number, help="checked against the weights' own configuration")
    add("--max_seq_len", type=whole_number, help="accepted as in the seed; texts may be longer")
    add("--use_moe", nargs="?", const=True, default=False, type=true_or_false, metavar="True|False")
    add("--weights", help="a weights file, instead of --out_dir and --dim")
    add("--device", default="auto")
    add("--prompt", action="append", help="a text to continue; may be given several times; asks nothing then")
    add("--temperature", type=number, default=0.7, help="0 always takes the likeliest token [0.7]")
    add("--top_p", type=number, default=0.8, help="share of the probability that is drawn from [0.8]")
    add("--top_k", type=whole_number, default=0, help="0: no limit [0]")
    add("--repetition_penalty", type=number, default=1.0, help="above 1: say less of what was said [1.0]")
    add("--max_new_tokens", type=whole_number, default=128, help="new tokens at most [128]")
    add("--seed", type=whole_number, default=42, help="seed of the draws [42]")
    return parser


@friendly
def main(argv: list[str] | None = None) -> int:
    """Find the model, then continue prompts."""
    args = _parser().parse_args(argv)
    from .checkpoint import load_run
    from .errors import CheckpointError, ConfigError
    from .generation import encode_prompt, stream
    from .model import parameter_count
    from .paths import shown
    from .precision import pick_device
    from .runs import what_is_there

    if args.model_mode != 0 or args.load != 0:
        raise ConfigError(
            f"--model_mode {args.model_mode} --load {args.load}: allowed is 0 for both; fine-tuned and transformers "
            "models are beyond this course, which pretrains."
        )
    weights = _find(args)
    if not weights.exists():
        raise CheckpointError(f"{shown(weights)} is not there. {what_is_there(args.out_dir)}")
    model, tokenizer, _ = load_run(weights, pick_device(args.device))
    if args.n_layers not in (None, model.config.n_layers):
        raise CheckpointError(f"{shown(weights)} has n_layers={model.config.n_layers}, not {args.n_layers}.")
    millions = f"{parameter_count(model) / 1e6:.2f}M"
    print(f"{shown(weights)}: {millions} parameters, seed {args.seed}, temperature {args.temperature}")
    settings = {name: getattr(args, name) for name in ("temperature", "top_p", "top_k", "repetition_penalty", "seed")}
    for prompt in _prompts(args.prompt):
        encode_prompt(tokenizer, prompt)  # what is no text is refused before it is printed
        print(f"\n👶 {prompt}", end="", flush=True)
        for piece in stream(model, tokenizer, prompt, max_new_tokens=args.max_new_tokens, **settings):
            print(piece, end="", flush=True)
        print()
    return 0


def _find(args) -> Path:
    from .checkpoint import weights_path
    from .errors import CheckpointError
    from .paths import out_dir
    from .runs import list_runs, what_is_there

    if args.weights:
        return Path(args.weights)
    if args.dim is not None:
        return weights_path(args.out_dir or out_dir(), args.dim, args.use_moe)
    for run in list_runs(args.out_dir):
        if run.weights.exists() and run.facts and (not args.use_moe or run.facts["model"].get("use_moe")):
            return run.weights
    raise CheckpointError(what_is_there(args.out_dir))


def _prompts(given: list[str] | None):
    """The prompts given as flags; at a terminal a choice between the seven and typing; else the seven."""
    if given:
        yield from given
        return
    if not (sys.stdin and sys.stdin.isatty()):
        yield from PROMPTS
        return
    if _ask("[0] the seven prompts\n[1] type your own\n") != "1":
        yield from PROMPTS
        return
    while prompt := _ask("👶: "):
        yield prompt


def _ask(question: str) -> str:
    """What is typed; nothing at the end of the input (Ctrl-D)."""
    try:
        return input(question)
    except EOFError:
        return ""


if __name__ == "__main__":
    raise SystemExit(main())
