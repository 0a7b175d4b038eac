"""web/*.d.ts: they compile, are kept by the programs they describe, and name what those accept."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from browser import ROOT
from test_errors import documented

WEB = ROOT / "web"
TYPES = ROOT / "tests/types"
DECLARED = sorted(path.name.removesuffix(".d.ts") for path in WEB.glob("*.d.ts"))
LIBRARIES = "esnext,dom,dom.iterable,dom.asynciterable"
STRICT = ["--strict", "--noUncheckedIndexedAccess", "--target", "esnext", "--lib", LIBRARIES]
STRICT += ["--module", "esnext", "--moduleResolution", "bundler", "--types", "", "--noEmit"]


def compiled(*files: Path, options: tuple[str, ...] = ()) -> list[str]:
    """What the compiler finds wrong, a line for each."""
    tsc = ROOT / "node_modules/.bin/tsc"
    command = [str(tsc), "--ignoreConfig", "--pretty", "false", *STRICT, *options]
    done = subprocess.run(
        [*command, *map(str, files)], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert not done.stderr, done.stderr
    return [line for line in done.stdout.splitlines() if not line.startswith(" ")]


def compiled_each(folder: Path, texts: list[str], *options: str) -> list[list[str]]:
    """What is wrong with each of these programs."""
    paths = [folder / f"{number}.ts" for number in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text, "utf-8")
    found = compiled(*paths, options=options)
    return [[line for line in found if f"{folder.name}/{path.name}(" in line] for path in paths]


def test_a_page_that_uses_everything_compiles() -> None:
    assert DECLARED == ["completions", "gpt2-writer", "gpt2web"]
    assert compiled(TYPES / "use.ts") == []


WRONG = [
    ("load('stories', { onprogress() {} })", "'onprogress' does not exist"),
    ("load('stories', { precision: 'int2' })", "'\"int2\"' is not assignable"),
    ("lm.generate('a', { topK: 'many' })", "'string' is not assignable to type 'number'"),
    ("lm.generate('a', { top_k: 4 })", "'top_k' does not exist"),
    ("lm.generate(7)", "'number' is not assignable"),
    ("lm.generate('a').then()", "'then' does not exist"),
    ("const text: string = await lm.detokenize([[1]])", "is not assignable"),
    ("lm.info.adapter = 'mine'", "read-only property"),
    ("lm.inspect('text')", "is not assignable"),
    ("lm.score(['text'])", "is not assignable"),
    ("(await lm.inspect([1])).nextTokens({ top_k: 4 })", "'top_k' does not exist"),
    ("(error as Gpt2webError).code === 'bussy'", "no overlap"),
    ("completions.create({ prompt: 'a', best_of: 2 })", "No overload matches"),
    ("document.createElement('gpt2-writer').wrote", "'wrote' does not exist"),
    ("for await (const a of await completions.create({ prompt: '' })) {}", "asyncIterator"),
]
HEAD = f"""
import {{ load, type Gpt2webError, type Model }} from "{WEB}/gpt2web.js";
import {{ Completions }} from "{WEB}/completions.js";
import type {{}} from "{WEB}/gpt2-writer.js";
declare const lm: Model, completions: Completions, error: unknown;
export const uses = [load, lm, completions, error as Gpt2webError];
"""


def test_a_wrong_use_does_not_compile(tmp_path: Path) -> None:
    texts = [HEAD + wrong for wrong, _ in WRONG]
    found = compiled_each(tmp_path, [*texts, HEAD])
    for (wrong, words), errors in zip(WRONG, found[:-1], strict=True):
        assert len(errors) == 1 and words in errors[0], (wrong, errors)
    assert found[-1] == []  # what stands before each is right


# --- the programs ---------------------------------------------------------------------------------


def as_declared(folder: Path, spoil: tuple[str, str] = ("", "")) -> list[str]:
    """What differs between web/*.js, read without their declarations, and these."""
    checks = []
    for source in WEB.glob("*.js"):
        text = source.read_text("utf-8").replace(*spoil) if spoil[0] else source.read_text("utf-8")
        # Types that the comments take from a declaration, which is not beside this copy.
        text = text.replace('{import("./', f'{{import("{WEB}/')
        text = re.sub(
            r"\{(Download)\} \[options", rf'{{import("{WEB}/gpt2web.js").\1}} [options', text
        )
        (folder / source.name).write_text(text, "utf-8")
    for name in DECLARED:
        checks += [
            f'import * as declared_{len(checks)} from "{WEB}/{name}.js";',
            f'import * as real_{len(checks)} from "{folder}/{name}.js";',
            f"export const same_{len(checks)}: typeof declared_{len(checks)} = real_{len(checks)};",
        ]
    (folder / "check.ts").write_text("\n".join(checks))
    return compiled(folder / "check.ts", options=("--allowJs", "--noImplicitAny", "false"))


def test_the_programs_are_what_their_declarations_say(tmp_path: Path) -> None:
    assert as_declared(tmp_path) == []


@pytest.mark.parametrize(
    "spoil",
    [
        ("  detokenize(ids", "  decode(ids"),
        ("@returns {Promise<number[]>}", "@returns {Promise<string[]>}"),
        ("export { keepOffline, models, removeModel }", "export { keepOffline, models }"),
        ("  async create(", "  async make("),
        ("  async write() {", "  async go() {"),
    ],
)
def test_a_program_that_is_not_what_its_declaration_says_is_found(
    spoil: tuple[str, str], tmp_path: Path
) -> None:
    (found,) = as_declared(tmp_path, spoil)
    assert "check.ts(" in found and ("is not assignable to" in found or "but required" in found)


def exactly(type_: str, names: list[str]) -> str:
    """A program that compiles when the type is the union of these names and no other."""
    union = " | ".join(map(json.dumps, names))
    return f"""type Found = {type_}; type Wanted = {union};
      export const same: [Found, Wanted] extends [Wanted, Found] ? true : Found = true;"""


def accepted() -> dict[str, list[str]]:
    """Type -> the names that the program of that type accepts."""
    done = subprocess.run(
        ["node", ROOT / "tests/options_of_javascript.mjs"],
        capture_output=True,
        text=True,
        check=True,
    )
    names: dict[str, list[str]] = json.loads(done.stdout)
    return names


def test_names_of_options_and_codes_are_those_of_the_programs_and_the_documentation(
    tmp_path: Path,
) -> None:
    unions = {}
    for type_, names in accepted().items():
        module = "completions" if type_.startswith("Completion") else "gpt2web"
        unions[f'keyof import("{WEB}/{module}.js").{type_}'] = names
    codes = documented()
    kinds = {name for of in codes.values() for name in of if " " not in name}
    unions[f'import("{WEB}/gpt2web.js").ErrorCode'] = list(codes)
    unions[f'import("{WEB}/gpt2web.js").ErrorName'] = sorted(kinds)
    right = [exactly(type_, names) for type_, names in unions.items()]
    more = [exactly(type_, [*names, "more"]) for type_, names in unions.items()]
    fewer = [exactly(type_, [*names[1:], "never"]) for type_, names in unions.items()]
    found = compiled_each(tmp_path, [*right, *more, *fewer])
    assert found[: len(right)] == [[]] * len(right)
    assert [len(errors) for errors in found[len(right) :]] == [1] * 2 * len(right)


# --- OpenAI's -------------------------------------------------------------------------------------


def test_openais_own_types_take_our_responses_and_give_our_requests(tmp_path: Path) -> None:
    path = TYPES / "openai.ts"
    assert compiled(path, options=("--skipLibCheck",)) == []
    text = path.read_text("utf-8").replace('"../../web/', f'"{WEB}/')
    text = text.replace('"openai/', f'"{ROOT}/node_modules/openai/')
    spoilt = text.replace("ours: Completion)", "ours: Omit<Completion, 'created'>)")
    spoilt = spoilt.replace("keyof CompletionParametersStreaming)", "'top_k')")
    right, wrong = compiled_each(tmp_path, [text, spoilt], "--skipLibCheck")
    assert (right, len(wrong)) == ([], 2)
