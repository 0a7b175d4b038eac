"""Bars of progress: to whom, when, and how far they count."""

import io
import sys

import pytest
import tqdm.auto

import small_models
from adapters import new_device
from gpt2web import progress, samplers
from gpt2web.__main__ import main


class Terminal(io.StringIO):
    def isatty(self):
        return True


def a_terminal(monkeypatch):
    """Standard error from here on; what pytest captures is put back between fixtures and test."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    return terminal


def count(wanted, last=10):
    with progress.shown(wanted, "counting") as report:
        for n in range(last if report else 0):
            report(n + 1, last)
    return report


def test_a_bar_is_shown_on_a_terminal_once_it_has_taken_a_while_and_taken_away(monkeypatch):
    terminal = a_terminal(monkeypatch)
    count(None)
    assert terminal.getvalue() == ""
    monkeypatch.setattr(progress, "DELAY", 0)
    count(None)
    assert "counting:" in terminal.getvalue() and " 1/10 " in terminal.getvalue()
    assert terminal.getvalue().rpartition("\r")[0].endswith(" ")  # overwritten with blanks


def test_nobody_is_told_of_what_is_over_at_once(monkeypatch):
    a_terminal(monkeypatch)
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)  # not even imported
    assert count(None) is not None


def test_without_a_terminal_there_is_none_unless_asked(monkeypatch, capsys):
    monkeypatch.setattr(progress, "DELAY", 0)
    assert count(None) is None
    assert capsys.readouterr() == ("", "")
    count(True)
    assert "10/10" in capsys.readouterr().err
    monkeypatch.setattr(sys, "stderr", None)  # closed by whoever started us
    assert count(None) is None


def test_it_can_be_switched_off_and_listened_to(monkeypatch):
    terminal = a_terminal(monkeypatch)
    monkeypatch.setattr(progress, "DELAY", 0)
    assert count(False) is None
    heard = []
    count(lambda *numbers: heard.append(numbers), 2)
    assert heard == [(1, 2), (2, 2)] and terminal.getvalue() == ""
    with pytest.raises(TypeError, match="progress is None, False, True or a callable, got 'yes'"):
        count("yes")


def test_the_page_has_no_bar_and_needs_no_tqdm(monkeypatch):
    terminal = a_terminal(monkeypatch)
    monkeypatch.setattr(progress, "DELAY", 0)
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    assert count(None) is not None and terminal.getvalue() == ""  # a terminal, but no tqdm
    monkeypatch.setattr(sys, "platform", "emscripten")
    assert count(None) is None
    with pytest.raises(ModuleNotFoundError, match="pip install tqdm"):
        count(True)


def test_bytes_are_counted_with_a_prefix_and_time_from_the_beginning(monkeypatch):
    terminal = a_terminal(monkeypatch)
    monkeypatch.setattr(progress, "DELAY", 2.0)
    with progress.shown(None, "loading", "B") as report:
        report(1_000_000, 4_000_000)
        assert terminal.getvalue() == ""
        report.__self__._start -= 2.5  # seconds have passed
        report(4_000_000, 4_000_000)
    assert "4.00M/4.00M [00:02<00:00, 1." in terminal.getvalue()


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    device = new_device("llvmpipe")
    folder = tmp_path_factory.mktemp("random")
    yield small_models.load(device, small_models.random_model(), folder)
    device.destroy()


class Sampler(samplers.Sampler):
    def get_next_token(self, probabilities):
        return [max(range(len(row)), key=row.__getitem__) for row in probabilities]


@pytest.mark.gpu
@pytest.mark.parametrize(
    "sampler",
    [
        samplers.TopKSampler(k=5, seed=1),
        Sampler(),
        samplers.BeamSampler(num_beams=2),
        samplers.ContrastiveSampler(k=2),
    ],
    ids=lambda sampler: type(sampler).__name__,
)
def test_generate_counts_every_id_of_every_row(lm, sampler, monkeypatch):
    monkeypatch.setattr("gpt2web.causal_lm.MAX_ROWS", 4)  # so several batches, one after another
    lm.compile(sampler)
    heard = []
    texts = ["a", "bcd", "ef", "g", "h"]
    lm.generate(texts, max_length=12, stop_token_ids=None, progress=lambda *n: heard.append(n))
    in_all = sum(12 - 1 - len(text) for text in texts)  # the start token takes one
    assert {total for _, total in heard} == {in_all} and heard[-1] == (in_all, in_all)
    assert [done for done, _ in heard] == sorted(done for done, _ in heard) and len(heard) > 5


@pytest.mark.gpu
def test_rows_that_end_early_are_done_with(lm):
    lm.compile(samplers.TopKSampler(k=5, seed=1))
    heard = []
    outputs = lm.generate_step(
        {"token_ids": [[65] + [0] * 40] * 3, "padding_mask": [[True] + [False] * 40] * 3},
        range(0, 256, 3),
        progress=lambda *numbers: heard.append(numbers),
    )
    new = sum(map(sum, outputs["padding_mask"])) - 3
    assert heard[-1] == (new, new) and new < 120


@pytest.mark.gpu
def test_scoring_counts_every_id_of_a_long_text(lm):
    heard = []
    text = "a fox " * 120  # of several windows
    found = lm.log_probabilities(text, lambda *numbers: heard.append(numbers))
    assert len(heard) == len(lm.windows(text)) == 3
    assert heard[-1] == (len(found), len(found)) == (719, 719)
    heard.clear()
    lm.perplexity(text, progress=lambda *numbers: heard.append(numbers))
    assert len(heard) == 3


@pytest.mark.gpu
def test_the_command_line_shows_bars_on_a_terminal_and_takes_them_away(
    tmp_path, monkeypatch, capsys, devices
):
    monkeypatch.setenv("GPT2WEB_ADAPTER", "llvmpipe")
    monkeypatch.setattr(progress, "DELAY", 0)
    (tmp_path / "story.txt").write_text("Once upon a time there was a fox.")
    terminal = a_terminal(monkeypatch)
    assert main(["score", str(tmp_path / "story.txt")]) == 0
    lines = terminal.getvalue().split("\r")
    assert any(line.startswith("loading: 100%") and "11.8M/11.8M" in line for line in lines)
    assert any(line.startswith("scoring: 100%") and "9/9" in line for line in lines)
    assert lines[-1] == "" and lines[-2].strip() == ""
    assert capsys.readouterr().out.startswith("tokens: 9\n")


def test_tqdm_is_what_draws(monkeypatch):
    a_terminal(monkeypatch)
    made = []
    monkeypatch.setattr(tqdm.auto, "tqdm", lambda **options: made.append(options) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        count(True)
    assert made[0]["desc"] == "counting" and made[0]["leave"] is True
