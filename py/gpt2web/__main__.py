"""The command line: `gpt2web "Once upon a time"`, also `python -m gpt2web`; `gpt2web score FILE`.

Text goes to stdout as it is made, everything else to stderr. Numbers are checked by the library,
whose sentence is shown.
"""

import argparse
import asyncio
import io
import json
import math
import os
import re
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gpt2web.causal_lm import GPT2CausalLM
from gpt2web.checkpoint import CheckpointError
from gpt2web.gpu import DeviceError
from gpt2web.precision import PRECISIONS

DESCRIPTION = """\
Continue a text with a GPT-2 model, on this machine's GPU. The prompt and what follows it are
written to standard output as they are made.
"""
EPILOG = """\
examples:
  gpt2web "Once upon a time" --max-new-tokens 60 --temperature 0.8 --top-k 40 --seed 7
  echo "The fox said" | gpt2web --strip-prompt
  gpt2web --info
  gpt2web score story.txt    how well the model foretells a text: see gpt2web score --help
  gpt2web -- score           the word score as a prompt

Options left out take the library's defaults: sampling from the whole distribution, up to the end
of the text or of the model's context. The order is repetition penalty, temperature, top-k, top-p,
min-p. The same seed gives the same text on the same adapter and driver; left out, it is drawn.

exit status: 0 done, 1 a model, file or GPU failed, 2 wrong arguments or input that is not UTF-8,
130 interrupted (what was written stays), 141 the reader of the output has gone.
"""
SCORE_DESCRIPTION = """\
Say how well a GPT-2 model foretells a text: the number of its tokens, their mean loss in nats (each
token after those before it), and the perplexity, which is e to that.
"""
SCORE_EPILOG = """\
The text is taken as it is, UTF-8, <|endoftext|> as typed text. One that is longer than the model's
context is taken in parts, so that each token counts once. A model that was not trained with a start
token is told the first token, which is not counted.

exit status: 0 done, 1 a model, file or GPU failed, 2 wrong arguments or input that is not UTF-8.
"""
# Options handed to GPT2CausalLM.stream under the same name when they are given.
STREAM_OPTIONS = (
    *("max_new_tokens", "stop", "temperature", "top_k", "top_p", "min_p", "repetition_penalty"),
    *("seed", "logprobs", "parse_special", "steps_per_submit"),
)


class Refusal(Exception):
    """The prompt cannot be had; the text says why and what to do."""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gpt2web",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "prompt",
        nargs="?",
        help="the text to continue; - reads it from standard input, as does leaving it out "
        "when input is piped (one line break at its end is dropped)",
    )
    add("--model", default="stories", metavar="NAME", help="a bundled model, or a folder (stories)")
    add("--strip-prompt", action="store_true", help="write only what follows the prompt")
    add(
        "--parse-special",
        action="store_const",
        const=True,
        help="take <|endoftext|> in the prompt as that token, not as typed text",
    )

    length = parser.add_argument_group("length")
    add = length.add_argument
    add("--max-new-tokens", type=int, metavar="N", help="how many tokens to make at most")
    add("--stop", action="append", metavar="TEXT", help="end before this text; may be repeated")

    sampling = parser.add_argument_group("sampling")
    add = sampling.add_argument
    add("--temperature", type=float, metavar="T", help="0 always takes the likeliest token (1.0)")
    add("--top-k", type=int, metavar="K", help="keep the K likeliest tokens")
    add("--top-p", type=float, metavar="P", help="keep the likeliest tokens that sum to P")
    add("--min-p", type=float, metavar="P", help="keep tokens of P times the likeliest or more")
    add("--repetition-penalty", type=float, metavar="R", help="over 1 avoids what was said (1.0)")
    add("--seed", type=int, metavar="N", help="0 to 4294967295; the same seed, the same text")

    report = parser.add_argument_group("reports and the GPU")
    add = report.add_argument
    add(
        "--logprobs",
        type=int,
        metavar="N",
        help="instead of text, write one JSON object a line for each token: id, text, logprob, "
        "and the N likeliest as [id, text, logprob]",
    )
    add("--adapter", metavar="NAME", help="(part of) the GPU adapter's name; also $GPT2WEB_ADAPTER")
    add_precision(add)
    add("--steps-per-submit", type=int, metavar="N", help="tokens made per submit (chosen to suit)")
    add("--info", action="store_true", help="say what runs the model, and end")
    add("--version", action="version", version=f"gpt2web {version('gpt2web')}")
    return parser


def make_score_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gpt2web score",
        description=SCORE_DESCRIPTION,
        epilog=SCORE_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("file", metavar="FILE", help="the text; - reads standard input")
    add("--model", default="stories", metavar="NAME", help="a bundled model, or a folder (stories)")
    add("--adapter", metavar="NAME", help="(part of) the GPU adapter's name; also $GPT2WEB_ADAPTER")
    add_precision(add)
    return parser


def add_precision(add: Callable[..., Any]) -> None:
    add(
        "--precision",
        choices=PRECISIONS,
        help="how the GPU keeps matrices (as the model is stored)",
    )


def read_prompt(given: str | None) -> str:
    """The prompt from the argument or from standard input. Refusal: there is none, or not UTF-8."""
    if given is not None and given != "-":
        if any("\ud800" <= letter <= "\udfff" for letter in given):
            raise Refusal("the prompt is not UTF-8 text")
        return given
    if sys.stdin is None or (given is None and sys.stdin.isatty()):
        raise Refusal("no prompt: give one as an argument, or - to read standard input")
    data = sys.stdin.buffer.read()
    if given is None and not data:
        raise Refusal("no prompt: there is no argument and standard input is empty")
    text = decoded(data, "standard input")
    return text[:-2] if text.endswith("\r\n") else text.removesuffix("\n")


def read_text(file: str) -> str:
    """The text to score, as it is. Refusal: not UTF-8; OSError: no such file."""
    if file != "-":
        try:
            return decoded(Path(file).read_bytes(), file)
        except OSError as error:
            raise OSError(f"{file}: {error.strerror}") from None
    if sys.stdin is None:
        raise Refusal("there is no standard input: name a file")
    return decoded(sys.stdin.buffer.read(), "standard input")


def decoded(data: bytes, where: str) -> str:
    """The text of UTF-8 bytes. Refusal: they are not."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise Refusal(
            f"{where} is not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}; "
            "convert it first, for example with iconv -t UTF-8"
        ) from None


def note(text: str) -> None:
    print(f"gpt2web: {text}", file=sys.stderr, flush=True)


def write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


async def generate(options: argparse.Namespace, prompt: str) -> None:
    """Loads the model and writes what it makes, or with --info what runs it."""
    lm = await load(options)
    try:
        if options.info:
            write("".join(f"{name}: {readable(value)}\n" for name, value in lm.info.items()))
            return
        warn_if_slow(lm)
        given = {name: getattr(options, name) for name in STREAM_OPTIONS}
        stream = lm.stream(prompt, **{n: v for n, v in given.items() if v is not None})
        if options.seed is None and sys.stderr.isatty():
            note(f"seed {stream.seed}")
        await write_stream(lm, stream, "" if options.strip_prompt else prompt, options.logprobs)
    finally:
        lm.close()


async def score(options: argparse.Namespace, text: str) -> None:
    """Loads the model and writes how well it foretells a text."""
    lm = await load(options)
    try:
        warn_if_slow(lm)
        found = await lm.log_probabilities_async(text)
    finally:
        lm.close()
    if not found:
        raise ValueError(f"{options.file} has no token to score: it is empty, or has only one")
    loss = -math.fsum(logprob for _, logprob in found) / len(found)
    write(f"tokens: {readable(len(found))}\n")
    write(f"nats per token: {loss:.4f}\n")
    write(f"perplexity: {math.exp(loss):,.3f}\n")


async def load(options: argparse.Namespace) -> GPT2CausalLM:
    return await GPT2CausalLM.from_preset_async(options.model, precision=options.precision)


def warn_if_slow(lm: GPT2CausalLM) -> None:
    if lm.info["software"]:
        note(f"{lm.info['adapter']} computes on the CPU: this is slow")


async def write_stream(lm: Any, stream: Any, prompt: str, logprobs: int | None) -> None:
    """Writes the pieces: as text that ends in a line break, or as JSON lines with logprobs."""
    last = reason = None
    try:
        async for piece in stream:
            reason = piece.finish_reason
            if logprobs:
                write("".join(json_lines(lm.preprocessor.tokenizer, piece)))
                continue
            text = piece.text if last else prompt + piece.text
            if text:
                write(text)
                last = text
    finally:
        if last and not last.endswith("\n"):
            write("\n")
    if reason == "context":
        note(f"ended at the context's end, {lm.info['context']} tokens")


def json_lines(tokenizer: Any, piece: Any) -> list[str]:
    def text(token_id: int) -> str:
        return str(tokenizer.detokenize([token_id]))

    lines = []
    for token_id, logprob, top in zip(piece.ids, piece.logprobs, piece.top, strict=True):
        others = [[other, text(other), value] for other, value in top]
        line = {"id": token_id, "text": text(token_id), "logprob": logprob, "top": others}
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    return lines


def readable(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:,}" if type(value) is int else str(value)


def run(options: argparse.Namespace, scoring: bool) -> int:
    """Generates or scores, and turns every failure into one sentence on stderr and an exit
    status."""
    try:
        if scoring:
            asyncio.run(score(options, read_text(options.file)))
        else:
            prompt = "" if options.info else read_prompt(options.prompt)
            asyncio.run(generate(options, prompt))
    except Refusal as refusal:
        note(str(refusal))
        return 2
    except BrokenPipeError:
        raise
    except (CheckpointError, DeviceError, OSError) as error:
        note(str(error))
        return 1
    except ValueError as error:  # an option's value, told under the name it has here
        names = "|".join(STREAM_OPTIONS)
        note(re.sub(rf"\b({names})\b", lambda m: "--" + m[1].replace("_", "-"), str(error)))
        return 2
    return 0


def main(arguments: list[str] | None = None) -> int:
    """The entry point; returns the exit status."""
    if sys.stdout is None:  # closed by whoever started us
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")  # Windows would take the code page
    arguments = sys.argv[1:] if arguments is None else arguments
    scoring = arguments[:1] == ["score"]
    if scoring:
        options = make_score_parser().parse_args(arguments[1:])
    else:
        options = make_parser().parse_args(arguments)
    if options.adapter:
        os.environ["GPT2WEB_ADAPTER"] = options.adapter
    try:
        return run(options, scoring)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # What is still buffered goes nowhere: Python would complain about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if sys.flags.dev_mode:
            raise
        more = "python -X dev -m gpt2web shows more"
        note(f"this is a bug: {type(error).__name__}: {error} ({more})")
        return 1


if __name__ == "__main__":
    sys.exit(main())
