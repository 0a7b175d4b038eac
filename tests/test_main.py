"""The command line, on a fake model: what it prints, when it ends, and how it fails."""

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

import gpt2web.__main__ as command_line
from gpt2web.__main__ import main
from gpt2web.checkpoint import CheckpointError
from gpt2web.gpu import DeviceError

HERE = Path(__file__).parent


class FakePiece:
    def __init__(self, text: str, finish_reason: str | None = None) -> None:
        self.text = text
        self.ids = [ord(character) for character in text]
        self.logprobs = [-0.5] * len(text)
        self.top = [[(ord(character), -0.5), (0x263A, -1.5)] for character in text]
        self.row = 0
        self.finish_reason = finish_reason


class FakeStream:
    def __init__(self, pieces: list[FakePiece], options: dict[str, Any]) -> None:
        self.pieces = pieces
        self.seed = options.get("seed", 1234)

    async def __aiter__(self) -> Any:
        for piece in self.pieces:
            yield piece


class FakeModel:
    """Stands for GPT2CausalLM: says what it was asked, and streams the same three pieces."""

    calls: list[tuple[str, Any]] = []  # noqa: RUF012 (emptied for each test)
    pieces = (" there", " was", " a fox.")
    reason = "length"
    error: Exception | None = None

    def __init__(self) -> None:
        self.info = {
            "adapter": "fake GPU",
            "software": False,
            "kernels": ["embed", "fc"],
            "parameters": 5885952,
            "context": 384,
        }
        tokenizer = types.SimpleNamespace(detokenize=lambda ids: "".join(map(chr, ids)))
        self.preprocessor = types.SimpleNamespace(tokenizer=tokenizer)

    @classmethod
    async def from_preset_async(cls, name: str, precision: str | None = None) -> "FakeModel":
        cls.calls.append(("model", f"{name} in {precision}" if precision else name))
        return cls()

    def stream(self, prompt: str, **options: Any) -> FakeStream:
        self.calls.append((prompt, options))
        if self.error:
            raise self.error
        pieces = [FakePiece(text) for text in self.pieces]
        return FakeStream([*pieces, FakePiece("", self.reason)], options)

    async def log_probabilities_async(self, text: str) -> list[tuple[int, float]]:
        self.calls.append(("score", text))
        if self.error:
            raise self.error
        return [(ord(character), -0.5 - (i % 2)) for i, character in enumerate(text)]

    def close(self) -> None:
        self.calls.append(("closed", None))


class EndlessModel(FakeModel):
    """Streams without end, a piece every 10 ms."""

    def stream(self, prompt: str, **options: Any) -> Any:
        class Stream:
            seed = 0

            async def __aiter__(self) -> Any:
                while True:
                    yield FakePiece(" again")
                    await asyncio.sleep(0.01)

        return Stream()


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> type[FakeModel]:
    class Model(FakeModel):
        calls: list[tuple[str, Any]] = []  # noqa: RUF012

    monkeypatch.setattr(command_line, "GPT2CausalLM", Model)
    return Model


def give_stdin(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_writes_the_prompt_and_what_follows(
    model: type[FakeModel], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["Once"]) == 0
    assert capsys.readouterr().out == "Once there was a fox.\n"
    assert model.calls == [("model", "stories"), ("Once", {}), ("closed", None)]


def test_can_leave_the_prompt_out(
    model: type[FakeModel], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["Once", "--strip-prompt"]) == 0
    assert capsys.readouterr().out == " there was a fox.\n"


def test_adds_no_second_line_break(
    model: type[FakeModel], capsys: pytest.CaptureFixture[str]
) -> None:
    model.pieces = (" end.\n",)
    assert main(["The"]) == 0
    assert capsys.readouterr().out == "The end.\n"


def test_hands_on_every_option_under_the_names_of_stream(model: type[FakeModel]) -> None:
    options = "--max-new-tokens 5 --temperature 0 --top-k 0 --top-p 0.5 --min-p 0.1 --seed 0"
    more = "--repetition-penalty 1.2 --stop x --stop y --logprobs 0 --steps-per-submit 4"
    assert main(["Hi", "--model", "m", *options.split(), *more.split(), "--parse-special"]) == 0
    assert model.calls[0] == ("model", "m")
    assert model.calls[1][1] == {
        "max_new_tokens": 5, "temperature": 0.0, "top_k": 0, "top_p": 0.5, "min_p": 0.1, "seed": 0,
        "repetition_penalty": 1.2, "stop": ["x", "y"], "logprobs": 0, "steps_per_submit": 4,
        "parse_special": True,
    }  # fmt: skip


@pytest.mark.parametrize("precision", ["f32", "f16", "int8", "int4"])
def test_hands_the_precision_to_the_model(
    model: type[FakeModel], tmp_path: Path, precision: str
) -> None:
    (tmp_path / "text").write_text("abc")
    assert main(["Hi", "--precision", precision]) == 0
    assert main(["score", str(tmp_path / "text"), "--precision", precision]) == 0
    assert model.calls.count(("model", f"stories in {precision}")) == 2


@pytest.mark.parametrize("arguments", [["Hi"], ["score", "text"]])
def test_refuses_a_precision_that_there_is_none_of(
    arguments: list[str], model: type[FakeModel], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--precision", "f64"])
    assert ended.value.code == 2 and model.calls == []
    assert "invalid choice: 'f64' (choose from" in capsys.readouterr().err


def test_names_the_adapter_in_the_environment(
    model: type[FakeModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPT2WEB_ADAPTER", "other")
    assert main(["Hi", "--adapter", "llvmpipe"]) == 0
    assert os.environ["GPT2WEB_ADAPTER"] == "llvmpipe"


def test_an_empty_prompt_is_a_prompt(model: type[FakeModel]) -> None:
    assert main([""]) == 0
    assert model.calls[1] == ("", {})


@pytest.mark.parametrize("arguments", [["-"], []], ids=["dash", "piped"])
def test_reads_standard_input_less_one_line_break(
    model: type[FakeModel], monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    give_stdin(monkeypatch, "Die Füchse\n\n".encode())
    assert main(arguments) == 0
    assert model.calls[1] == ("Die Füchse\n", {})


def test_refuses_empty_input_unless_it_was_asked_for(
    model: type[FakeModel], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    give_stdin(monkeypatch, b"")
    assert main([]) == 2
    assert "no prompt" in capsys.readouterr().err
    assert main(["-"]) == 0


def test_refuses_input_that_is_not_utf8_in_one_sentence(
    model: type[FakeModel], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    give_stdin(monkeypatch, b"caf\xe9")
    assert main(["-"]) == 2
    error = capsys.readouterr().err
    assert "not UTF-8: byte 0xe9 at offset 3" in error
    assert error.count("\n") == 1
    assert model.calls == []


def test_writes_log_probabilities_as_json_lines(
    model: type[FakeModel], capsys: pytest.CaptureFixture[str]
) -> None:
    model.pieces = ("ab",)
    assert main(["Hi", "--logprobs", "2"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["text"] for line in lines] == ["a", "b"]
    assert lines[0] == {"id": 97, "text": "a", "logprob": -0.5,
                        "top": [[97, "a", -0.5], [0x263A, "\u263a", -1.5]]}  # fmt: skip


def test_info_says_what_runs_the_model_and_generates_nothing(
    model: type[FakeModel], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--info"]) == 0
    out = capsys.readouterr().out
    assert "adapter: fake GPU\n" in out
    assert "kernels: embed, fc\n" in out
    assert "parameters: 5,885,952\n" in out
    assert model.calls == [("model", "stories"), ("closed", None)]


def test_says_that_the_context_is_full(
    model: type[FakeModel], capsys: pytest.CaptureFixture[str]
) -> None:
    model.reason = "context"
    assert main(["Hi"]) == 0
    assert "the context's end, 384 tokens" in capsys.readouterr().err
    model.reason = "stop"
    assert main(["Hi"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("kind", "status"), [(ValueError, 2), (DeviceError, 1), (CheckpointError, 1), (OSError, 1)]
)
def test_a_failure_is_one_sentence_and_frees_the_model(
    model: type[FakeModel], capsys: pytest.CaptureFixture[str], kind: type[Exception], status: int
) -> None:
    model.error = kind("top_k in the sentence")
    assert main(["Hi"]) == status
    captured = capsys.readouterr()
    named = "--top-k" if kind is ValueError else "top_k"
    assert (captured.out, captured.err) == ("", f"gpt2web: {named} in the sentence\n")
    assert model.calls[-1] == ("closed", None)


def test_a_bug_is_said_to_be_one(
    model: type[FakeModel], capsys: pytest.CaptureFixture[str]
) -> None:
    model.error = ZeroDivisionError("division by zero")
    assert main(["Hi"]) == 1
    assert "this is a bug: ZeroDivisionError" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--top-k", "many"], ["--no-such"], ["a", "b"]])
def test_wrong_arguments_end_with_status_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: gpt2web" in capsys.readouterr().err


def test_an_argument_that_is_not_utf_8_is_refused(
    model: type[FakeModel], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([b"caf\xe9".decode("utf-8", "surrogateescape")]) == 2
    assert capsys.readouterr().err == "gpt2web: the prompt is not UTF-8 text\n"


def test_without_a_standard_output_it_still_ends_cleanly(
    model: type[FakeModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["Hi"]) == 0


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    sampling = "--temperature --top-k --top-p --min-p --repetition-penalty --seed --parse-special"
    others = "--model --max-new-tokens --stop --logprobs --steps-per-submit --adapter --info"
    for name in (*sampling.split(), *others.split(), "--version", "--strip-prompt"):
        assert name in out


# score FILE.


def test_score_writes_tokens_nats_and_perplexity(
    model: type[FakeModel], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "story.txt").write_bytes("Füchse\r\n".encode() * 250)
    assert main(["score", str(tmp_path / "story.txt"), "--model", "m"]) == 0
    out = "tokens: 2,000\nnats per token: 1.0000\nperplexity: 2.718\n"
    assert capsys.readouterr() == (out, "")
    text = "Füchse\r\n" * 250  # as it is
    assert model.calls == [("model", "m"), ("score", text), ("closed", None)]


def test_score_reads_standard_input_as_it_is(
    model: type[FakeModel], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    give_stdin(monkeypatch, b"a\n\n")
    assert main(["score", "-"]) == 0
    assert model.calls[1] == ("score", "a\n\n")
    assert capsys.readouterr().out.startswith("tokens: 3\n")


def test_score_names_a_file_that_is_not_there_or_no_text(
    model: type[FakeModel], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing, binary, empty = (str(tmp_path / name) for name in ("missing", "binary", "empty"))
    Path(binary).write_bytes(b"ab\xff")
    Path(empty).touch()
    sentences = {
        missing: (1, "No such file or directory"),
        str(tmp_path): (1, "Is a directory"),
        binary: (2, "is not UTF-8: byte 0xff at offset 2; convert it first, for example with "),
        empty: (2, "has no token to score: it is empty, or has only one"),
    }
    for file, (status, sentence) in sentences.items():
        assert main(["score", file]) == status
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.count("\n") == 1
        assert captured.err.startswith(f"gpt2web: {file}") and sentence in captured.err
    assert [name for name, _ in model.calls] == ["model", "score", "closed"]  # of the empty file


@pytest.mark.parametrize(
    ("kind", "status"), [(ValueError, 2), (DeviceError, 1), (CheckpointError, 1), (OSError, 1)]
)
def test_a_score_that_fails_is_one_sentence_and_frees_the_model(
    model: type[FakeModel],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: type[Exception],
    status: int,
) -> None:
    (tmp_path / "text").write_text("abc")
    model.error = kind("the sentence")
    assert main(["score", str(tmp_path / "text")]) == status
    assert capsys.readouterr() == ("", "gpt2web: the sentence\n")
    assert model.calls[-1] == ("closed", None)


@pytest.mark.parametrize("arguments", [[], ["a", "b"], ["a", "--seed", "1"]])
def test_score_wants_one_file(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["score", *arguments])
    assert ended.value.code == 2
    assert "usage: gpt2web score" in capsys.readouterr().err


def test_score_has_help_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--help"], ["score", "--help"]):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 0
    out = capsys.readouterr().out
    assert "gpt2web score story.txt" in out  # in the general one
    for words in (
        "usage: gpt2web score",
        "FILE",
        "--model",
        "--adapter",
        "perplexity",
        "exit status",
    ):
        assert words in out


@pytest.mark.parametrize("arguments", [["--", "score"], ["--seed", "1", "score"]])
def test_the_word_score_may_still_be_a_prompt(model: type[FakeModel], arguments: list[str]) -> None:
    assert main(arguments) == 0
    assert model.calls[1][0] == "score" and isinstance(model.calls[1][1], dict)


# In a process of its own: signals and pipes.


def test_without_wgpu_there_is_help_and_a_way_to_install_it() -> None:
    run = "runpy.run_module('gpt2web', run_name='__main__')"
    asked = [sys.executable, "-c", f"import sys, runpy; sys.modules['wgpu'] = None; {run}"]
    helped = subprocess.run([*asked, "--help"], capture_output=True, text=True, timeout=20)
    assert (helped.returncode, helped.stderr) == (0, "")
    assert "usage:" in helped.stdout
    refused = subprocess.run([*asked, "Hi"], capture_output=True, text=True, timeout=20)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == "gpt2web: wgpu is not installed: pip install wgpu==0.32.0\n"


def start_endless(**streams: Any) -> subprocess.Popen[bytes]:
    code = (
        "import sys, test_main, gpt2web.__main__ as command_line;"
        "command_line.GPT2CausalLM = test_main.EndlessModel;"
        "sys.exit(command_line.main(['Once']))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=HERE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **streams,
    )


def test_an_interrupt_keeps_the_text_and_ends_with_status_130() -> None:
    process = start_endless()
    assert process.stdout
    start = process.stdout.read(10)
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=20)
    assert (start + rest).startswith(b"Once again")
    assert rest.endswith(b"\n")
    assert (process.returncode, errors) == (130, b"")


def test_a_closed_pipe_ends_it_silently() -> None:
    process = start_endless()
    assert process.stdout and process.stderr
    process.stdout.read(10)
    process.stdout.close()
    assert (process.wait(timeout=20), process.stderr.read()) == (141, b"")
    process.stderr.close()
