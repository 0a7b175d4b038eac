"""The converter's quantiser against its plain twin in reference.py, and so the GPU's."""

import numpy as np
import pytest

import reference
from gpt2web.convert.quantize import quantize
from gpt2web.precision import packed_shape


def packed(matrix, bits):
    """As a file holds it, columns padded to 4."""
    k, columns = matrix.shape
    out = np.zeros(packed_shape(k, columns, bits), np.uint32)
    words, scales = quantize(matrix, bits)
    out[: len(words), :columns] = words
    out[len(words) :, :columns] = scales
    return out


def matrix(k, columns, seed=0):
    """Values of magnitudes from 1e-4 to 1e2, a column to each, signs mixed."""
    random = np.random.default_rng(seed)
    values = random.standard_normal((k, columns)) * 10.0 ** random.uniform(-4, 2, columns)
    return values.astype(np.float32)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(
    "shape", [(1, 1), (7, 6), (16, 4), (17, 9), (32, 65), (44, 6), (64, 3), (65, 2050), (300, 31)]
)
def test_words_and_scales_are_those_of_the_twin(shape, bits):
    values = matrix(*shape, seed=sum(shape))
    got, wanted = packed(values, bits), reference.pack(values, bits)
    assert got.shape == wanted.shape and got.dtype == wanted.dtype
    # the twin adds up in float64: where two scales, or two integers, do equally well to f32's last
    # bits, the other may be taken
    same = (got == wanted).mean()
    assert same > 0.999, same
    errors = [np.abs(reference.unpack(w, shape, bits) - values).sum() for w in (got, wanted)]
    assert errors[0] == pytest.approx(errors[1], rel=1e-4)


@pytest.mark.parametrize(("bits", "steps"), [(8, 127), (4, 8)])
def test_every_value_is_within_half_a_step_of_its_group(bits, steps):
    values = matrix(96, 40)
    group = reference.GROUP[bits]
    error = np.abs(reference.unpack(packed(values, bits), values.shape, bits) - values)
    largest = np.abs(values).reshape(-1, group, 40).max(axis=1).repeat(group, axis=0)
    # int4 may let the largest value be cut to 6.5 steps
    slack = {8: 1.001, 4: 8 / 6.5 * 1.2}[bits]
    assert (error <= slack * largest / steps * (0.5 if bits == 8 else 1.0)).all()
    assert (error > 0.1 * largest / steps).any()


@pytest.mark.parametrize("bits", [8, 4])
def test_integers_come_back_exactly(bits):
    """What a scale of 1 holds: -8 in each group of 4 bits, 127 in each of 8."""
    random = np.random.default_rng(1)
    least, most = (-127, 127) if bits == 8 else (-8, 7)
    values = random.integers(least, most + 1, (64, 12)).astype(np.float32)
    values[:: reference.GROUP[bits]] = most if bits == 8 else least
    words = packed(values, bits)
    assert (reference.unpack(words, values.shape, bits) == values).all()
    if bits == 4:  # a negative scale, where the largest is positive
        words = packed(-values, bits)
        assert (reference.unpack(words, values.shape, bits) == -values).all()


@pytest.mark.parametrize("bits", [8, 4])
def test_nothing_is_nothing(bits):
    assert not packed(np.zeros((48, 5), np.float32), bits).any()
    tiny = np.full((48, 5), 1e-38, np.float32)
    assert not packed(tiny, bits).any()
    assert packed(np.full((48, 5), 1e-3, np.float32), bits).any()


def test_int4_s_search_beats_the_simplest_scale():
    values = matrix(512, 64)
    found = reference.unpack(packed(values, 4), values.shape, 4)
    groups = values.reshape(-1, 16, 64)
    at = np.abs(groups).argmax(axis=1)[:, None]
    scales = np.take_along_axis(groups, at, 1) / -8
    simple = (np.rint(groups / scales).clip(-8, 7) * scales).reshape(values.shape)
    better, worse = (((x - values) ** 2).sum(axis=0) for x in (found, simple))  # of each column
    assert (better < worse).all() and (better / worse).mean() < 0.9


def test_a_scale_over_f16_is_an_overflow_error():
    values = np.zeros((32, 3), np.float32)
    values[5, 1] = 8 * 65519
    assert np.isfinite(reference.unpack(packed(values, 4), values.shape, 4)).all()
    values[5, 1] = -8 * 65521
    with pytest.raises(OverflowError, match="more than f16 holds"):
        quantize(values, 4)
    assert reference.unpack(packed(values, 8), values.shape, 8)[5, 1] == values[5, 1]
