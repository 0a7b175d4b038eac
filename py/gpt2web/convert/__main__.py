"""The command `python -m gpt2web.convert NAME_OR_PATH`, also `python3 build.py model`."""

from __future__ import annotations

import argparse
import re
import sys
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from gpt2web.checkpoint import CheckpointError
from gpt2web.config import ALIASES
from gpt2web.manifest import MANIFEST_FILE, PLAIN_NAME, is_line
from gpt2web.precision import PRECISIONS

if TYPE_CHECKING:
    from gpt2web.convert.source import Source

DESCRIPTION = """\
Convert a GPT-2 checkpoint into a folder that the page serves: fetch it if need be, quantise it if
asked to, cut it into shards with hashes.
"""
EPILOG = """\
forms, recognised by the files that are there:
  Hugging Face      config.json, model.safetensors (or its index and shards), merges.txt or
                    tokenizer.json; f32, f16 or bf16
  OpenAI            hparams.json, encoder.json, vocab.bpe, model.ckpt.index, model.ckpt.data-*
  TensorFlow.js     model.json and its shards, as they are or as uint8, uint16 or float16, under
                    KerasHub's names; merges.txt or vocab.bpe beside them
  gpt2web           manifest.json and what it lists, in f32 or f16

examples:
  python3 build.py model openai-community/gpt2 --precision int8
  python3 build.py model ~/models/124M --name gpt2 --title "GPT-2 small" --license MIT
  python3 build.py model https://example.org/my-model

Without --precision the weights stay what they are: f32, or f16 where none has more than 16 bits.
f16 is half of f32, int8 a bit over a quarter, int4 a fifth to a sixth (the embedding then has 8
bits).
Norms, biases and position embeddings stay f32 or f16. Weights must be finite, in f16 below 65504.

exit status: 0 done, 1 the checkpoint can't be had or used, 2 wrong arguments, 130 interrupted
(nothing half-done is left; what was fetched stays, and need not be fetched again).
"""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="build.py model",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "source",
        metavar="NAME_OR_PATH",
        help="a folder, its address, or a name on the Hugging Face hub (owner/name, or gpt2, "
        "gpt2-medium, gpt2-large, gpt2-xl, distilgpt2)",
    )
    add("--precision", choices=PRECISIONS, help="what matrices are stored in (as they are)")
    add("--name", help="of the folder that is written (the source's, with the precision behind)")
    add("--replace", action="store_true", help="put it in the place of a model of that name")
    add("--title", help="what the page calls the model (its name)")
    add("--license", help="the model's licence (as its card says)")
    add("--out", type=Path, default=Path("models"), metavar="FOLDER", help="where to (models)")
    add(
        "--cache",
        type=Path,
        default=Path.home() / ".cache" / "gpt2web",
        metavar="FOLDER",
        help="where what comes from addresses is kept (~/.cache/gpt2web)",
    )
    return parser


def locate(source: str, cache: Path) -> Path:
    """The folder that the checkpoint lies in, once it is on this machine."""
    from gpt2web.convert.fetch import fetch_url
    from gpt2web.convert.hub import fetch_hub

    single = re.compile(
        r"/(model\.safetensors|model\.json|manifest\.json|model\.ckpt\.index)([?#].*)?$"
    )
    if "://" in source:
        return fetch_url(single.sub("", source), cache)
    if not source.strip():
        raise CheckpointError(
            "no checkpoint was named: wanted a folder, an address or a name on the hub",
            code="checkpoint-missing",
        )
    path = Path(source).expanduser()
    if path.is_file():
        if not single.search(path.resolve().as_posix()):
            raise CheckpointError(
                f"{source} is a file of a name that is not known: wanted a folder with "
                "model.safetensors, model.ckpt.index or model.json, or one of these files. Rename "
                "a .safetensors file to model.safetensors, beside its config.json and merges.txt."
            )
        path = Path(single.sub("", path.resolve().as_posix()))
    if path.is_dir():
        return path
    hub_names = {ALIASES[name]: name for name in ALIASES if "/" in name}
    name = hub_names.get(ALIASES.get(source, source), source)
    if re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name):
        return fetch_hub(name, cache)
    raise CheckpointError(
        f"no checkpoint at {source!r}: wanted a folder that is there, an http(s) address, or a "
        f"name on the hub: owner/name, or {', '.join(hub_names)}",
        code="checkpoint-missing",
    )


def plain_name(source: str, precision: str | None) -> str:
    """The name for what is made of a source.

    >>> plain_name("openai-community/gpt2", "int8"), plain_name("~/My models/124M/", None)
    ('gpt2-int8', '124M')
    """
    last = re.split(r"[/\\]", re.sub(r"[?#].*", "", source).rstrip("/\\"))[-1]
    last = re.sub(r"\.(safetensors|json|index)$", "", last)
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip("._-") or "model"
    return f"{plain[:100]}-{precision}" if precision else plain[:100]


def license_of(card: str) -> str | None:
    """The licence that a model card's front matter states.

    >>> license_of("---\\nlicense: mit\\ntags: [a]\\n---\\n# GPT-2\\n")
    'mit'
    """
    matter = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", card, re.S)
    if matter is None:
        return None
    found = dict(re.findall(r"^(license|license_name):[ \t]*(\S.*?)[ \t]*$", matter[1], re.M))
    listed = re.search(r"^license:[ \t]*\n[ \t]*-[ \t]*(\S.*?)[ \t]*$", matter[1], re.M)
    name = str(found.get("license", listed[1] if listed else ""))
    if name == "other":
        name = found.get("license_name", name)
    return name.strip("'\"") or None


def run(options: argparse.Namespace) -> Path:
    """Does what the command was asked for; the folder that was written."""
    try:
        import numpy  # noqa: F401
    except ImportError:
        raise CheckpointError(
            "converting needs numpy, which is not installed. Run `python3 build.py model`, which "
            "installs it, or `python3 -m pip install '.[convert]'` in gpt2web's folder."
        ) from None
    from gpt2web.convert.convert import convert, own_precision
    from gpt2web.convert.forms import open_source
    from gpt2web.convert.progress import Progress

    name = options.name or plain_name(options.source, options.precision)
    if not PLAIN_NAME.fullmatch(name):
        raise CheckpointError(
            f"--name {name!r}: wanted letters and digits, then also . _ and -, at most 128 in all"
        )
    if options.out == Path("models") and (files("gpt2web.models") / name).is_dir():
        raise CheckpointError(
            f"{name} is the name of a bundled model: choose another with --name",
            code="option-invalid",
        )
    if (options.out / name / MANIFEST_FILE).is_file() and not options.replace:
        raise CheckpointError(
            f"{options.out / name} is a model already: choose another name with --name, or let "
            "--replace put this one in its place",
            code="option-invalid",
        )
    for option in ("title", "license"):
        given = getattr(options, option)
        if given is not None and not is_line(given):
            raise CheckpointError(
                f"--{option} {given!r:.80}: wanted one line of at most 200 characters",
                code="option-invalid",
            )
    source = open_source(locate(options.source, options.cache))
    own = own_precision(source)
    stated = license_of(source.texts.get("MODEL_CARD.md", ""))
    license = options.license or (stated if stated and is_line(stated) else None)
    say(about(source, own))
    if license is None:
        license = "unknown"
        say("No licence is known: the checkpoint has no card that states one. Say it: --license")
    folder: Path = options.out / name
    done = 0
    with Progress(f"Writing {folder}", 4 * source.config.num_parameters) as progress:

        def advance(values: int) -> None:
            nonlocal done
            done += 4 * values
            progress.at(done)

        convert(source, folder, options.precision or own, options.title or name, license, advance)
    return folder


def about(source: Source, own: str) -> str:
    """One line on what was found."""
    config = source.config
    return (
        f"{source.where}: {source.form}, {config.num_parameters:,} parameters in {own}, "
        f"{config.num_layers} layers of {config.hidden_dim}, context {config.max_sequence_length}"
    )


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> int:
    options = make_parser().parse_args(arguments)
    try:
        folder = run(options)
    except (CheckpointError, FileExistsError, OSError) as error:
        print(f"build.py model: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted: nothing half-done is left.", file=sys.stderr)
        return 130
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{folder}: {size / 1e6:,.1f} MB in {len(list(folder.iterdir()))} files")
    say("The page offers it after `python3 build.py serve`; natively, load it by its path.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
