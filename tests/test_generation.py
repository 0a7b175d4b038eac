"""A generation as a whole: what the stream gave and nothing else, written again from its settings,
ended by an interrupt, shown to whoever watches."""

import asyncio
import math
import signal
import sys

import pytest

import small_models
from adapters import new_device
from gpt2web import Generation, GPT2CausalLM, notebook
from gpt2web.blocking import blocking
from gpt2web.generation import tokens_of
from gpt2web.gpu import Readback
from gpt2web.stream import Piece

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    """Ids spread over all bytes: most characters are broken or in several parts."""
    device = new_device("llvmpipe")
    folder = tmp_path_factory.mktemp("random")
    lm = small_models.load(device, small_models.random_model(), folder)
    yield lm
    lm.close()
    device.destroy()


@blocking
async def streamed(lm, prompt, **options):
    """The pieces of each row."""
    rows = {}
    async with lm.stream(prompt, **options) as stream:
        async for piece in stream:
            rows.setdefault(piece.row, []).append(piece)
    return [rows[row] for row in sorted(rows)]


def test_it_has_what_the_stream_gives(lm):
    options = {"max_new_tokens": 40, "temperature": 0.9, "top_p": 0.8, "seed": 5}
    (pieces,) = streamed(lm, "abc", logprobs=3, **options)
    one = lm.write("abc", top=3, **options)
    assert isinstance(one, Generation)
    assert str(one) == one.text == "".join(piece.text for piece in pieces)
    assert [token.id for token in one.tokens] == [id_ for piece in pieces for id_ in piece.ids]
    assert [token.logprob for token in one.tokens] == [
        p for piece in pieces for p in piece.logprobs
    ]
    tops = [top for piece in pieces for top in piece.top]
    assert [[(a.id, a.logprob) for a in token.top] for token in one.tokens] == tops
    assert one.finish_reason == pieces[-1].finish_reason == "length"
    assert one.token_ids == [*lm.prompt_ids("abc"), *(token.id for token in one.tokens)]
    assert one.prompt_ids == lm.prompt_ids("abc") and one.prompt == "abc"
    assert one.seed == 5 and 0 < one.seconds < 60 and one.model == lm.name
    assert "'abc'" in repr(one) and "seed 5" in repr(one) and "40 tokens" in repr(one)


def test_a_row_is_written_again_from_its_settings(lm):
    found = lm.write(["abc", lm.prompt_ids("xyz")], max_new_tokens=9, top_k=40, stop="\0")
    assert [one.prompt for one in found] == ["abc", "xyz"]
    assert found[1].seed == (found[0].seed + 1) % 2**32
    for one in found:
        again = lm.write(one.prompt_ids, **one.settings)
        assert again.prompt == one.prompt
        assert (again.text, again.tokens, again.settings) == (one.text, one.tokens, one.settings)
    assert lm.write("abc", **{**found[0].settings, "seed": 7}).tokens != found[0].tokens
    assert [row.text for row in lm.write(["abc"], **found[0].settings)] == [found[0].text]
    assert lm.write("", max_new_tokens=1).prompt_ids == [lm.tokenizer.start_token_id]
    assert lm.write([lm.tokenizer.start_token_id, 64, 65], max_new_tokens=1).prompt == "ab"


def test_the_texts_of_tokens_join_to_the_text(lm):
    encode = lm.tokenizer.encode_plain
    fox = encode("🦊")
    ids = [*encode("a "), *fox, *encode("the end"), *fox[:2]]

    tops = [(encode("b")[0], -2.0), (fox[-1], -3.0)]

    def tokens(texts):
        """Of pieces whose texts these are, each with the ids of the next 4 bytes."""
        step = -(-len(ids) // len(texts))
        pieces = [
            Piece(text, found, [-1.0] * len(found), [tops] * len(found))
            for n, text in enumerate(texts)
            for found in [ids[n * step : (n + 1) * step]]
        ]
        return tokens_of(lm.tokenizer, pieces, "".join(texts))

    whole = tokens(["a 🦊", "the ", "end", "\ufffd"])
    assert [token.text for token in whole] == [*"a ", "", "", "", "🦊", *"the end", "", "\ufffd"]
    # an alternative is read behind the bytes that stand before it
    assert [token.top[1].text for token in whole[2:6]] == ["�", "��", "�", "🦊"]
    assert [token.top[0].text for token in whole[:2]] == ["b", "b"]
    stopped = tokens(["a 🦊", "the e"])  # a stop text ended it within a token
    assert "".join(token.text for token in stopped) == "a 🦊the e"


def test_what_was_written_is_scored_as_it_was_written(lm):
    one = lm.write("abc", max_new_tokens=60, seed=5, top=4)
    found = lm.log_probabilities(one.token_ids, top=4)
    assert [id_ for id_, _, _ in found] == one.token_ids[1:]
    # chunks and single steps sum in another order: f32 in a few layers
    written = [token.logprob for token in one.tokens]
    assert [p for _, p, _ in found[-60:]] == pytest.approx(written, abs=1e-4)
    for token, (_, _, top) in zip(one.tokens, found[-60:], strict=True):
        assert [id_ for id_, _ in top] == [other.id for other in token.top]
        assert [p for _, p in top] == pytest.approx([o.logprob for o in token.top], abs=1e-4)
    assert found[-60][1:] != found[-59][1:]
    assert lm.log_probabilities(one.token_ids) == [(id_, p) for id_, p, _ in found]
    # in windows as well, each beginning with the last id of the one before
    text = "a fox " * 70
    pairs = lm.log_probabilities(text, top=1)
    assert [pair[:2] for pair in pairs] == lm.log_probabilities(text) and len(pairs) == 419
    assert all(logprob <= top[0][1] + 1e-4 for _, logprob, top in pairs)
    with pytest.raises(ValueError, match="top must be a whole number of at least 0"):
        lm.log_probabilities(text, top=-1)


@pytest.mark.parametrize("options", [{"stop": ["e", "a"]}, {}])
def test_texts_of_broken_bytes_join_as_well(lm, options):
    for one in lm.write(["x", "y", "z"], max_new_tokens=60, seed=2, **options):
        assert "".join(token.text for token in one.tokens) == one.text and one.tokens


def test_what_is_shown_are_its_own_numbers(lm):
    from test_notebook import Read

    one = lm.write("abc", max_new_tokens=30, seed=5, top=4)
    read = Read(one._repr_html_())
    shown = [s for card in read.texts("span", "card") for s in card.split(". Likeliest: ")[:-1]]
    assert len(read.texts("span", "card")) < 30  # some are parts of a character
    found = [share for card in read.texts("span", "card") for share in numbers(card)]
    wanted = [
        notebook.percent(math.exp(value))
        for token in one.tokens
        for value in [token.logprob, *(other.logprob for other in token.top)]
    ]
    assert shown and found == wanted
    assert len(Read(lm.write(["a", "b"], max_new_tokens=3)._repr_html_()).texts("div", "text")) == 2


def numbers(card):
    import re

    return re.findall(r"(?:< )?[\d.]+ %(?=[.,])", card)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"top": 0}, ValueError, "top must be a whole number of at least 1 and at most 100, got 0"),
        ({"show": 1}, TypeError, "show is None, False or True, got 1"),
        ({"logprobs": 3}, TypeError, "unexpected keyword argument 'logprobs'"),
        ({"temperature": -1}, ValueError, "temperature"),
    ],
)
def test_wrong_options_are_refused(lm, options, error, text):
    with pytest.raises(error, match=text):
        lm.write("abc", **options)
    assert lm.write("abc", max_new_tokens=1).tokens


def test_on_a_terminal_nothing_is_printed_unless_asked(lm, capsys):
    one = lm.write("abc", max_new_tokens=9, seed=1)
    assert capsys.readouterr() == ("", "")
    lm.write("abc", max_new_tokens=9, seed=1, show=True)
    assert capsys.readouterr() == (f"abc{one.text}\n", "")
    rows = lm.write(["abc", "x"], max_new_tokens=9, seed=1, show=True)
    assert capsys.readouterr().out == f"abc{one.text}\n\nx{rows[1].text}\n\n"
    assert "IPython" not in sys.modules or not sys.modules["IPython"].get_ipython()


@pytest.fixture
def interrupted(monkeypatch):
    """Ctrl-C comes while the third readback is waited for."""
    good, calls = Readback.take, []

    async def take(readback, size):
        calls.append(size)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)
        return await good(readback, size)

    monkeypatch.setattr(Readback, "take", take)
    return calls


def test_an_interrupt_ends_what_is_watched_and_gives_back_what_there_is(lm, interrupted, capsys):
    options = {"max_new_tokens": 60, "seed": 1, "steps_per_submit": 4}
    one = lm.write("abc", show=True, **options)
    assert one.finish_reason == "cancelled" and 0 < len(one.tokens) < 60
    assert "interrupted" in repr(one)
    assert capsys.readouterr().out == f"abc{one.text}\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    whole = lm.write("abc", **options)  # the model is as it was
    assert whole.token_ids[: len(one.token_ids)] == one.token_ids and len(whole.tokens) == 60


def test_an_interrupt_of_what_nobody_sees_is_raised(lm, interrupted):
    with pytest.raises(KeyboardInterrupt):
        lm.write("abc", max_new_tokens=100)
    assert lm.write("abc", max_new_tokens=2).finish_reason == "length"


def test_a_programs_own_handler_of_interrupts_stays(lm, interrupted):
    heard = []
    before = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        assert lm.write("abc", max_new_tokens=50, seed=1).finish_reason == "length"
    finally:
        signal.signal(signal.SIGINT, before)
    assert heard == [signal.SIGINT]


def test_cancelled_with_its_task_it_lets_the_next_call_begin(lm, monkeypatch):
    good, tasks = Readback.take, []

    async def take(readback, size):
        if tasks:
            tasks.pop().cancel()
            await asyncio.sleep(0)
        return await good(readback, size)

    async def cancelled():
        task = asyncio.ensure_future(lm.write_async("abc", max_new_tokens=250))
        tasks.append(task)
        monkeypatch.setattr(Readback, "take", take)
        with pytest.raises(asyncio.CancelledError):
            await task
        return await lm.write_async("abc", max_new_tokens=2, seed=1)

    found = asyncio.run(cancelled())
    assert found.tokens == lm.write("abc", max_new_tokens=2, seed=1).tokens


def test_an_inspection_shows_its_own_numbers(lm):
    from test_notebook import Read

    ids = [*b"Once upon <a> time"]
    inspection = lm.inspect(ids, top=7)
    read = Read(inspection._repr_html_())
    attention = inspection.attention.numpy()[-1].ravel()
    titles = [title.rpartition(": ")[2] for title in read.texts("title")]
    assert titles == [notebook.percent(float(share)) for share in attention]
    shares = [cell.rpartition(" ")[0].rpartition(" ")[2] for cell in read.texts("td")]
    lens = [math.exp(value) for layer in inspection.lens for _, value in layer[:5]]
    assert [f"{share} %".replace("< ", "") for share in shares] == [
        notebook.percent(share).replace("< ", "") for share in lens
    ]
    inspection.close()  # what was read stays; attention is gone
    assert Read(inspection._repr_html_()).texts("td") == read.texts("td")
    assert "<svg" not in inspection._repr_html_()


def test_next_tokens_and_weights_show_their_own_numbers(lm):
    from test_notebook import Read

    found = lm.inspect([*b"Once"]).next_tokens(temperature=0.7, top_k=3, top=6)
    cells = Read(found._repr_html_()).texts("td")
    columns = [(math.exp(c.logprob), c.after_temperature, c.after_cuts) for c in found]
    assert cells == [f" {notebook.percent(share)}" for row in columns for share in row]
    assert "3 can be drawn" in found._repr_html_()

    parameters = lm.parameters()
    cells = Read(parameters._repr_html_()).texts("td")
    first = parameters[0]
    shape = f"{first.shape[0]} × {first.shape[1]}"
    assert cells[:4] == [shape, f"{first.parameters:,}", first.precision, f"{first.gpu_bytes:,}"]
    assert f"{lm.count_params():,} parameters" in parameters._repr_html_()


def test_without_a_tokenizer_ids_are_shown(lm):
    bare = GPT2CausalLM(lm.backbone)
    assert ">104<" in bare.inspect([*b"Oh"])._repr_html_().replace("·", "")
