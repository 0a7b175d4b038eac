import itertools
import json
import random
import subprocess
import time
import unicodedata
from pathlib import Path
from pydoc_data import topics

import pytest

from gpt2_vocabulary import gpt2_merges, js_tiktoken
from gpt2web import unicode_table
from gpt2web.bpe import (
    BYTE_TO_CHARACTER,
    MAX_CACHED_LENGTH,
    MAX_CACHED_WORDS,
    WHITE_SPACE,
    BytePairEncoder,
    from_byte_alphabet,
    to_byte_alphabet,
    word_pattern,
)
from gpt2web.tokenizer import GPT2Tokenizer

TESTS = Path(__file__).parent

AWKWARD_TEXTS = [
    "",
    " ",
    "\n\n\n  s",
    "  \n\n\ns",
    "word\n\n",
    "a\n\n\nb",
    "\r\n\r\n x \t\ty\v\f",
    " leading and trailing ",
    "\u00a0nbsp\u00a0 mixed \u00a0\u00a0 with\u2009thin\u202fand\u3000wide\u3000\u3000",
    "\x1c\x1d\x1e\x1f a\x1cb \x1f\x1f c",  # white space for Python, not for OpenAI
    "\u0085next\u0085\u0085 line",
    "\u1680\u2000\u200a\u2028\u2029\u205f x",
    "\u200b\ufeffzero\u200bwidth \ufeff",  # not white space, though JavaScript's \s has U+FEFF
    "I'll don't we've 'Tis x'S they'RE 'd 'm''s 's'",
    "caf\u00e9 cafe\u0301 n\u0303a\u0308\u0301\u0327 \u0301 \u0958",
    "👩‍👩‍👧‍👦 family 👍🏽 🏳️‍🌈 flags 🇩🇪🇫🇷 🇩 ☺️☺",
    "שלום עולם مرحبا بالعالم \u202eright to left\u202c ۱۲۳",
    "漢字かな混じり文。 １２３ＡＢＣ　한국어 中文,标点",
    "Привет, мир! Ελληνικά ไทย हिन्दी தமிழ் ქართული",
    "x²+½ Ⅳ ①②③ ٣٤ 12345.678e-9 1,000",
    "def f(x):\n    return {'a': x[0]}\n\n\tif x != 3: # no\n        pass\r\n",
    "\x00\x01\x02 \x07\x08\x1b[0m \x7f\x80\x9f",
    "ſt 'ſ ŉ K Å \u0130\u0131",  # letters that fold to ASCII ones
    "𝒜𝓁𝓅𝒽𝒶 𐐀𐐨 𒀀 𠀀𠀁 🀄 \U0010fffd\ue000",
    "a" * 300,
    "-" * 99 + "=" * 70 + " " * 65 + "x",
    "<|endoftext|>",
    "one<|endoftext|>two <|endoftext|> \n<|endoftext|><|endoftext|",
    "SolidGoldMagikarp rawdownloadcloneembedreportprint",
]


def code_points(ranges: str) -> set[int]:
    """The code points of "41-5A AA ...", read without the code under test."""
    found: set[int] = set()
    for word in ranges.split():
        first, _, last = word.partition("-")
        found.update(range(int(first, 16), int(last or first, 16) + 1))
    return found


LETTERS, NUMBERS = code_points(unicode_table.LETTERS), code_points(unicode_table.NUMBERS)


def random_texts(count: int, seed: int, left_out: set[int] = frozenset()) -> list[str]:
    """Texts out of all of Unicode and, more often, out of what is likely to go wrong."""
    pools = [
        range(0x20, 0x7F),
        range(0x00, 0x100),
        [0x09, 0x0A, 0x0D, 0x1C, 0x1F, 0x20, 0x20, 0x20, 0x85, 0xA0, 0x2003, 0x200D, 0x3000],
        [ord(character) for character in "'stremvldSTREMVLD "],
        range(0x300, 0x2000),
        range(0x3000, 0xD7FF),
        range(0x1F300, 0x1FAFF),
        [code for code in range(0x110000) if not 0xD800 <= code <= 0xDFFF],
    ]
    pools = [[code for code in pool if code not in left_out] for pool in pools]
    draw = random.Random(seed)
    return [
        "".join(chr(draw.choice(draw.choice(pools))) for _ in range(draw.randrange(50)))
        for _ in range(count)
    ]


# Words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("Hello, world!", ["Hello", ",", " world", "!"]),
        ("we'll don't x'S", ["we", "'ll", " don", "'t", " x", "'", "S"]),
        ("a  b", ["a", " ", " b"]),
        ("a \n b\n", ["a", " \n", " b", "\n"]),
        ("x12y 3", ["x", "12", "y", " 3"]),
        ("a\x1cb", ["a", "\x1c", "b"]),  # U+001C is no white space here
        ("a\u0085\u0085b", ["a", "\u0085", "\u0085", "b"]),
        ("a\ufeff b", ["a", "\ufeff", " b"]),
        ("e\u0301", ["e", "\u0301"]),  # a combining mark is no letter
    ],
)
def test_a_text_is_split_into_openais_words(text, words):
    assert word_pattern().findall(text) == words


def test_words_joined_are_the_text():
    for text in AWKWARD_TEXTS + random_texts(500, seed=1):
        assert "".join(word_pattern().findall(text)) == text


def test_white_space_is_unicodes_and_not_pythons():
    white_space = code_points(WHITE_SPACE)
    pythons = {code for code in range(0x110000) if chr(code).isspace()}
    assert pythons - white_space == {0x1C, 0x1D, 0x1E, 0x1F}
    assert white_space - pythons == set()


def test_the_table_agrees_with_this_pythons_unicode_on_every_character_it_has():
    counted = 0
    for code in range(0x110000):
        category = unicodedata.category(chr(code))
        known_to_both = category != "Cn" and unicodedata.unidata_version <= "16.0.0"
        if known_to_both:
            assert (code in LETTERS) == category.startswith("L"), hex(code)
            assert (code in NUMBERS) == category.startswith("N"), hex(code)
            counted += 1
    assert counted > 280_000 or unicodedata.unidata_version > "16.0.0"
    assert (len(LETTERS), len(NUMBERS)) == (141_028, 1_911)  # of Unicode 16.0


# Bytes


def test_every_byte_is_one_printable_character_and_comes_back():
    assert sorted(BYTE_TO_CHARACTER) == list(range(256))
    assert len(set(BYTE_TO_CHARACTER.values())) == 256
    assert all(character.isprintable() for character in BYTE_TO_CHARACTER.values())
    assert to_byte_alphabet(" é\n") == "ĠÃ©Ċ"
    assert from_byte_alphabet("ĠÃ©Ċ") == " é\n".encode()


def test_a_piece_outside_the_byte_alphabet_stands_for_its_own_utf8():
    assert from_byte_alphabet("a b") == b"a b"
    assert from_byte_alphabet("漢") == "漢".encode()


# Merges


def test_the_lowest_rank_is_merged_first():
    assert BytePairEncoder([("b", "c"), ("a", "b")]).encode("abc") == ["a", "bc"]
    assert BytePairEncoder([("a", "b"), ("b", "c")]).encode("abc") == ["ab", "c"]


def test_the_leftmost_of_equal_pairs_is_merged_first():
    assert BytePairEncoder([("a", "a")]).encode("aaa") == ["aa", "a"]
    # One at a time: the new pair (aa, a) outranks the second (a, a).
    assert BytePairEncoder([("aa", "a"), ("a", "a")]).encode("aaaaa") == ["aaa", "aa"]


def test_merges_give_what_a_plain_quadratic_loop_gives():
    draw = random.Random(2)
    for _ in range(300):
        symbols = list("abc")
        merges = []
        for _ in range(draw.randrange(12)):
            pair = (draw.choice(symbols), draw.choice(symbols))
            if pair not in merges:
                merges.append(pair)
                symbols.append("".join(pair))
        draw.shuffle(merges)  # a rule may outrank those that make its parts
        word = "".join(draw.choice("abc") for _ in range(draw.randrange(1, 40)))
        parts = list(word)
        while pairs := [pair for pair in itertools.pairwise(parts) if pair in merges]:
            best = min(pairs, key=merges.index)
            i = next(i for i in range(len(parts)) if tuple(parts[i : i + 2]) == best)
            parts[i : i + 2] = ["".join(best)]
        assert BytePairEncoder(merges).encode(word) == parts, (merges, word)


class CountedRanks(dict):
    lookups = 0

    def get(self, pair):
        self.lookups += 1
        return super().get(pair)


def test_ten_times_the_letters_take_ten_times_the_lookups():
    doublings = [("a" * 2**n, "a" * 2**n) for n in range(6)]

    def lookups(n_letters):
        encoder = BytePairEncoder(doublings)
        encoder._ranks = CountedRanks(encoder._ranks)
        assert len(encoder.encode("a" * n_letters)) == n_letters // 64
        return encoder._ranks.lookups

    # Every letter is merged away once; a loop over all pairs for each merge takes 100 times.
    assert 64_000 < lookups(64_000) <= 11 * lookups(6_400)


def test_the_cache_of_words_is_bounded_and_changes_nothing():
    encoder = BytePairEncoder([("a", "b")])
    words = [f" {n:x}ab" for n in range(MAX_CACHED_WORDS + 100)]
    first = [encoder.encode(word) for word in words]
    assert 0 < len(encoder._cache) <= MAX_CACHED_WORDS
    assert [encoder.encode(word) for word in words] == first
    longest = "ab" * MAX_CACHED_LENGTH
    assert encoder.encode(longest) == ["ab"] * MAX_CACHED_LENGTH
    assert longest not in encoder._cache


# GPT-2's real vocabulary


@pytest.fixture(scope="module")
def gpt2() -> GPT2Tokenizer:
    return GPT2Tokenizer(None, gpt2_merges())


@pytest.mark.gpt2_vocab
def test_gpt2s_vocabulary_follows_from_its_merges(gpt2):
    assert gpt2.vocabulary_size() == 50257
    assert gpt2.merges[:3] == ["Ġ t", "Ġ a", "h e"]
    assert gpt2.vocabulary["!"] == 0
    assert gpt2.vocabulary["Ġ"] == 220
    assert gpt2.vocabulary["Ġthe"] == 262
    assert gpt2.end_token_id == 50256
    assert gpt2("Hello, world! The quick brown fox<|endoftext|>") == [
        *(15496, 11, 995, 0, 383, 2068, 7586, 21831, 50256)
    ]


@pytest.mark.gpt2_vocab
def test_ids_are_js_tiktokens_on_awkward_and_random_texts(gpt2):
    classes = js_tiktoken([])
    unlike = (LETTERS ^ set(classes["letters"])) | (NUMBERS ^ set(classes["numbers"]))
    texts = AWKWARD_TEXTS + random_texts(4000, seed=3, left_out=unlike)
    assert not unlike & {ord(character) for text in AWKWARD_TEXTS for character in text}
    expected = js_tiktoken(texts)
    for text, special, plain in zip(texts, expected["special"], expected["plain"], strict=True):
        assert gpt2(text) == special, text
        assert gpt2.encode_plain(text) == plain, text
        assert gpt2.detokenize(special) == text
    assert sum(map(len, expected["plain"])) > 100_000
    assert any(50256 in ids for ids in expected["special"])


@pytest.mark.gpt2_vocab
def test_where_node_knows_other_letters_only_the_unicode_version_is_the_reason():
    """What the comparison above leaves out: characters that are new in one of two versions."""
    node = js_tiktoken([])
    letters, numbers = set(node["letters"]), set(node["numbers"])
    only_node = (letters - LETTERS) | (numbers - NUMBERS)
    only_table = (LETTERS - letters) | (NUMBERS - numbers)
    version = tuple(map(int, node["unicode"].split(".")))
    print(f"Unicode {node['unicode']} in Node: {len(only_node)} more, {len(only_table)} fewer")
    assert len(letters & LETTERS) > 130_000
    assert not only_table or version < (16, 0)
    assert not only_node or version > (16, 0)


@pytest.mark.gpt2_vocab
def test_the_pages_python_has_the_same_table_and_gives_the_same_ids(gpt2):
    texts = AWKWARD_TEXTS + random_texts(1000, seed=4)
    run = subprocess.run(
        ["node", str(TESTS / "in_pyodide.mjs"), str(TESTS / "tokenize_in_pyodide.py")],
        input=json.dumps({"merges": gpt2_merges(), "texts": texts}),
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    page = json.loads(run.stdout)
    assert page["python"] == [3, 14]
    assert page["unicode_table"] == Path(unicode_table.__file__).read_text(encoding="utf-8")
    assert page["ids"] == gpt2(texts)
    assert page["texts"] == texts


# Speed: of one core's time, so that a busy machine changes nothing


def seconds(call) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


@pytest.mark.gpt2_vocab
def test_a_megabyte_of_english_takes_three_seconds_or_less():
    english = "\n".join(topics.topics.values())  # Python's own help texts
    english = (english * 3)[:1_000_000]
    tokenizer = GPT2Tokenizer(None, gpt2_merges())  # its cache is empty
    taken = seconds(lambda: tokenizer(english))
    print(f"1 MB of English: {taken:.2f} s")
    assert taken <= 3


@pytest.mark.gpt2_vocab
@pytest.mark.parametrize("letters", ["a", "=", "é", "abcdefghij"])
def test_a_hundred_kilobytes_without_a_break_take_three_seconds_or_less(letters):
    text = (letters * 100_000)[:100_000]
    tokenizer = GPT2Tokenizer(None, gpt2_merges())
    taken = seconds(lambda: tokenizer(text))
    print(f"100 kB of {letters!r}: {taken:.2f} s")
    assert taken <= 3
