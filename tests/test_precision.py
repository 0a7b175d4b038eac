"""Precisions: which tensor gets how many bits, and what a packed matrix takes."""

import doctest

import pytest

from gpt2web import precision
from gpt2web.checkpoint import tensor_shapes
from gpt2web.config import GPT2Config
from gpt2web.precision import (
    PRECISIONS,
    bits_of,
    choose_precision,
    is_matrix,
    matrix_shape,
    packed_shape,
)


def test_the_examples_hold():
    failed, tried = doctest.testmod(precision)
    assert (failed, tried) == (0, 3)


def test_matrices_get_the_precisions_bits_and_the_embedding_at_least_8():
    config = GPT2Config.from_preset("gpt2")
    for name in tensor_shapes(config):
        bits = [bits_of(name, each) for each in PRECISIONS]
        if not is_matrix(name):
            assert bits == [32, 32, 32, 32], name
        else:
            assert bits == [32, 16, 8, 8 if name == "wte.weight" else 4], name


def test_what_is_packed_already_runs_in_its_own_precision_alone():
    assert choose_precision("m", "int4", None) == choose_precision("m", "int4", "int4") == "int4"
    for stored in ("f32", "f16"):
        assert choose_precision("m", stored, None) == stored
        assert [choose_precision("m", stored, asked) for asked in PRECISIONS] == list(PRECISIONS)
    for asked in ("f32", "f16", "int8"):
        with pytest.raises(ValueError, match=f"m is stored in int4 and runs in that.*'{asked}'"):
            choose_precision("m", "int4", asked)
    with pytest.raises(ValueError, match="precision must be one of f32, f16, int8, int4, got 'q4'"):
        choose_precision("m", "f32", "q4")


@pytest.mark.parametrize(
    "k, columns, bits, shape",
    [
        (44, 6, 32, (44, 8)),
        (45, 4, 16, (23, 4)),
        (64, 5, 8, (16 + 2, 8)),
        (65, 5, 8, (17 + 3, 8)),
        (65, 1, 4, (9 + 3, 4)),
        (1, 1, 4, (1 + 1, 4)),
    ],
)
def test_a_packed_matrix_is_words_then_scales(k, columns, bits, shape):
    assert packed_shape(k, columns, bits) == shape


def test_the_sizes_of_gpt2s_matrices():
    """Scales are a bit a weight; of 124 million weights 39 million are the embedding."""
    blocks, embedding = 84_934_656, 38_597_376
    matrices = {
        name: matrix_shape(name, shape)
        for name, shape in tensor_shapes(GPT2Config.from_preset("gpt2")).items()
        if is_matrix(name)
    }
    for each, bits in {"f32": 32, "f16": 16, "int8": 8 + 1, "int4": 4 + 1}.items():
        found = 0
        for name, (k, columns) in matrices.items():
            rows, width = packed_shape(k, columns, bits_of(name, each))
            found += 4 * rows * width
        wanted = (blocks * bits + embedding * (9 if each == "int4" else bits)) / 8
        assert found == pytest.approx(wanted, rel=1e-4)  # the vocabulary is no multiple of 4
