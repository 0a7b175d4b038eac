import json
import random

import numpy as np
import pytest

from gpt2web.packer import StartEndPacker

# Shapes


def test_a_sequence_gives_a_flat_list_and_a_batch_a_list_of_lists():
    pack = StartEndPacker(5)
    assert pack([5, 6, 7]) == [5, 6, 7, 0, 0]
    assert pack([[5, 6, 7]]) == [[5, 6, 7, 0, 0]]
    assert pack([[5, 6, 7], [8, 9, 10]]) == [[5, 6, 7, 0, 0], [8, 9, 10, 0, 0]]
    assert pack((5, 6)) == [5, 6, 0, 0, 0]
    assert pack([(5, 6), (7,)]) == [[5, 6, 0, 0, 0], [7, 0, 0, 0, 0]]


def test_rows_of_a_batch_may_have_any_lengths():
    pack = StartEndPacker(4, start_value=1, end_value=2)
    assert pack([[5, 6, 7, 8], [], [9]]) == [[1, 5, 6, 2], [1, 2, 0, 0], [1, 9, 2, 0]]


def test_an_empty_sequence_is_packed_too():
    assert StartEndPacker(3)([]) == [0, 0, 0]
    assert StartEndPacker(3)([[]]) == [[0, 0, 0]]
    assert StartEndPacker(3, start_value=1, end_value=2)([]) == [1, 2, 0]
    assert StartEndPacker(3, start_value="<s>")([]) == ["<s>", "", ""]


def test_arrays_come_out_as_plain_lists():
    pack = StartEndPacker(4, start_value=np.int32(1), end_value=2)
    assert pack(np.array([5, 6])) == [1, 5, 6, 2]
    assert pack(np.array([[5], [6]], dtype="uint16")) == [[1, 5, 2, 0], [1, 6, 2, 0]]
    assert pack([np.array([5]), np.array([6, 7, 8])]) == [[1, 5, 2, 0], [1, 6, 7, 2]]
    assert {type(value) for value in pack(np.array([5, 6]))} == {int}
    assert StartEndPacker(3)(np.array(["a", "b"])) == ["a", "b", ""]


def test_whole_numbers_in_floats_are_ids():
    pack = StartEndPacker(4, start_value=1, end_value=2)
    assert pack(np.array([5, 6], "float32")) == pack([5.0, np.float32(6)]) == [1, 5, 6, 2]
    assert pack(np.array([[5.0], [6.0]])) == [[1, 5, 2, 0], [1, 6, 2, 0]]
    assert {type(value) for value in pack([5.0])} == {int}
    for wrong in (1.5, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="inputs: wanted ints or strings"):
            pack([5.0, wrong])


@pytest.mark.parametrize("wrong", [5, "air", None, [[[5]]], [5, [6]], np.zeros((1, 1, 1), int)])
def test_other_shapes_are_refused(wrong):
    with pytest.raises(ValueError, match="inputs: wanted a list, or a list of lists"):
        StartEndPacker(5)(wrong)
    assert StartEndPacker(5)([5]) == [5, 0, 0, 0, 0]


# Start, end, padding


def test_start_and_end_stand_around_the_sequence():
    assert StartEndPacker(6, start_value=1)([5, 6]) == [1, 5, 6, 0, 0, 0]
    assert StartEndPacker(6, end_value=2)([5, 6]) == [5, 6, 2, 0, 0, 0]
    assert StartEndPacker(6, start_value=1, end_value=2)([5, 6]) == [1, 5, 6, 2, 0, 0]


def test_the_end_value_survives_truncation():
    pack = StartEndPacker(5, start_value=1, end_value=2)
    assert pack([5, 6, 7]) == [1, 5, 6, 7, 2]
    assert pack([5, 6, 7, 8, 9, 10]) == [1, 5, 6, 7, 2]
    assert StartEndPacker(3)([5, 6, 7, 8]) == [5, 6, 7]
    assert StartEndPacker(3, start_value=1)([5, 6, 7, 8]) == [1, 5, 6]


def test_start_and_end_may_be_several_values():
    pack = StartEndPacker(8, start_value=[1, 2], end_value=(3, 4), pad_value=9)
    assert pack([5, 6]) == [1, 2, 5, 6, 3, 4, 9, 9]
    assert pack([[5, 6, 7, 8, 10], []]) == [[1, 2, 5, 6, 7, 8, 3, 4], [1, 2, 3, 4, 9, 9, 9, 9]]
    assert StartEndPacker(3, start_value=[], end_value=[])([5]) == [5, 0, 0]


def test_strings_are_packed_like_ids():
    pack = StartEndPacker(6, start_value="<s>", end_value="</s>", pad_value="<pad>")
    assert pack(["this", "is", "fun"]) == ["<s>", "this", "is", "fun", "</s>", "<pad>"]
    assert pack([["a"], ["b", "c", "d", "e", "f"]]) == [
        ["<s>", "a", "</s>", "<pad>", "<pad>", "<pad>"],
        ["<s>", "b", "c", "d", "e", "</s>"],
    ]
    assert StartEndPacker(3)(["a"]) == ["a", "", ""]
    several = StartEndPacker(5, start_value=["</s>", "<s>"], end_value="</s>")
    assert several(["a"]) == ["</s>", "<s>", "a", "</s>", ""]


def test_padding_on_the_left():
    pack = StartEndPacker(6, start_value=1, end_value=2, padding_side="left")
    assert pack([5, 6]) == [0, 0, 1, 5, 6, 2]
    assert pack([[5], [6, 7, 8, 9, 10]]) == [[0, 0, 0, 1, 5, 2], [1, 6, 7, 8, 9, 2]]
    assert StartEndPacker(3, pad_value="-", padding_side="left")(["a"]) == ["-", "-", "a"]


def test_a_mask_comes_with_the_values():
    pack = StartEndPacker(6, start_value=1, end_value=2, return_padding_mask=True)
    assert pack([5, 6]) == ([1, 5, 6, 2, 0, 0], [True, True, True, True, False, False])
    values, mask = pack([[5, 6, 7, 8, 9], []])
    assert values == [[1, 5, 6, 7, 8, 2], [1, 2, 0, 0, 0, 0]]
    assert mask == [[True] * 6, [True, True, False, False, False, False]]
    assert {type(value) for row in mask for value in row} == {bool}


def test_the_mask_marks_places_and_not_values():
    pack = StartEndPacker(4, pad_value=7, return_padding_mask=True, padding_side="left")
    assert pack([7, 0]) == ([7, 7, 7, 0], [False, False, True, True])


def test_a_mask_can_be_asked_for():
    pack = StartEndPacker(4, start_value=1, end_value=2)
    assert pack.call_and_return_padding_mask([5]) == ([1, 5, 2, 0], [True, True, True, False])
    assert pack.call_and_return_padding_mask([[5]], sequence_length=2, add_end_value=False) == (
        [[1, 5]],
        [[True, True]],
    )
    with pytest.raises(TypeError, match="add_stop_value"):
        pack.call_and_return_padding_mask([5], add_stop_value=True)


# Options of a call


def test_options_of_a_call_work_one_by_one():
    pack = StartEndPacker(5, start_value=1, end_value=2)
    assert pack([5, 6], add_start_value=False) == [5, 6, 2, 0, 0]
    assert pack([5, 6], add_end_value=False) == [1, 5, 6, 0, 0]
    assert pack([5, 6], add_start_value=False, add_end_value=False) == [5, 6, 0, 0, 0]
    assert pack([5, 6], sequence_length=7) == [1, 5, 6, 2, 0, 0, 0]
    assert pack([5, 6], sequence_length=3) == [1, 5, 2]
    assert pack([5, 6], 3, True, False) == [1, 5, 6]
    assert pack([5, 6]) == [1, 5, 6, 2, 0]


def test_unknown_options_are_type_errors():
    with pytest.raises(TypeError, match="add_stop_value"):
        StartEndPacker(5)([5], add_stop_value=True)
    with pytest.raises(TypeError, match="stop_value"):
        StartEndPacker(5, stop_value=2)


def test_a_length_that_cannot_hold_the_values_is_refused():
    pack = StartEndPacker(4, start_value=[1, 2], end_value=3)
    with pytest.raises(ValueError, match="2 cannot hold the 2 start and 1 end values; wanted 3"):
        pack([5], sequence_length=2)
    assert pack([5], sequence_length=3) == [1, 2, 3]
    assert pack([5], sequence_length=2, add_end_value=False) == [1, 2]
    assert pack([5], sequence_length=1, add_start_value=False) == [3]
    with pytest.raises(ValueError, match="1 cannot hold"):
        StartEndPacker(1, start_value=1, end_value=2)([])


@pytest.mark.parametrize("length", [0, -1, 2.5, "4", None, True])
def test_a_length_that_is_no_positive_whole_number_is_refused(length):
    with pytest.raises(ValueError, match="sequence_length: wanted a whole number of 1 or more"):
        StartEndPacker(length)
    if length is not None:
        with pytest.raises(ValueError, match="sequence_length: wanted a whole number of 1 or more"):
            StartEndPacker(3)([5], sequence_length=length)
    assert StartEndPacker(1)([5], sequence_length=np.int64(2)) == [5, 0]


@pytest.mark.parametrize("name", ["start_value", "end_value"])
@pytest.mark.parametrize("wrong", [1.5, 1.0, {"a": 1}, [1.5], [None], [[1]], True, b"a"])
def test_values_of_other_types_are_refused(name, wrong):
    with pytest.raises(ValueError, match=f"{name}: wanted ints or strings"):
        StartEndPacker(5, **{name: wrong})
    assert StartEndPacker(2, **{name: 1})([]) == [1, 0]


def test_inputs_and_pad_values_of_other_types_are_refused():
    with pytest.raises(ValueError, match=r"inputs: wanted ints or strings, got 5\.5"):
        StartEndPacker(5)([5.5])
    with pytest.raises(ValueError, match="inputs: wanted ints or strings, got None"):
        StartEndPacker(5)([[None]])
    for wrong in (1.5, [0], None):
        if wrong is not None:
            with pytest.raises(ValueError, match="pad_value"):
                StartEndPacker(5, pad_value=wrong)
    assert StartEndPacker(2, pad_value=None)([5]) == [5, 0]


@pytest.mark.parametrize(
    ("options", "inputs"),
    [
        ({"start_value": "<s>"}, [5]),
        ({"end_value": 2}, ["a"]),
        ({"pad_value": "-"}, [5]),
        ({"pad_value": 0}, ["a"]),
        ({"start_value": [1, "<s>"]}, []),
        ({}, [5, "a"]),
    ],
)
def test_ints_beside_strings_are_refused(options, inputs):
    with pytest.raises(ValueError, match="all ints or all strings"):
        StartEndPacker(5, **options)(inputs)


def test_a_padding_side_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match='wanted "left" or "right", got \'middle\''):
        StartEndPacker(5, padding_side="middle")


# Configuration


def test_packers_survive_a_round_trip_through_json():
    packer = StartEndPacker(
        7,
        start_value=(1, np.int32(2)),
        end_value=3,
        pad_value=9,
        return_padding_mask=True,
        padding_side="left",
    )
    config = json.loads(json.dumps(packer.get_config()))
    assert config == {
        "sequence_length": 7,
        "start_value": [1, 2],
        "end_value": 3,
        "pad_value": 9,
        "return_padding_mask": True,
        "padding_side": "left",
        "name": "start_end_packer",
        "trainable": True,
    }
    clone = StartEndPacker.from_config(config)
    assert clone([5, 6]) == packer([5, 6]) == ([9, 9, 1, 2, 5, 6, 3], [False] * 2 + [True] * 5)
    assert clone.get_config() == packer.get_config()


def test_the_configs_defaults_are_the_constructors():
    assert StartEndPacker.from_config({"sequence_length": 2})([5]) == [5, 0]
    assert StartEndPacker(2).get_config()["start_value"] is None


def test_a_row_that_is_packed_always_has_its_length_its_ends_and_its_mask():
    draw = random.Random(7)
    for _ in range(500):
        start, end = [101] * draw.randrange(3), [102] * draw.randrange(3)
        length = len(start) + len(end) + draw.randrange(6) + (not start and not end)
        side = draw.choice(["left", "right"])
        row = [draw.randrange(100) for _ in range(draw.randrange(9))]
        packer = StartEndPacker(length, start, end, 99, True, side)
        values, mask = packer(row)
        kept = [value for value, real in zip(values, mask, strict=True) if real]
        padding = length - len(kept)
        assert len(values) == length
        assert kept == start + row[: length - len(start) - len(end)] + end
        assert mask == sorted(mask, reverse=side == "right")
        assert values.count(99) - kept.count(99) == padding


@pytest.mark.parametrize(
    "dtype",
    [
        "float32",
        "mixed_float16",
        None,
        np.float32,
        {"module": "keras", "class_name": "DTypePolicy", "config": {"name": "float32"}},
    ],
)
def test_the_arguments_of_every_keras_layer(dtype):
    packer = StartEndPacker(2, name="ends", trainable=False, dtype=dtype)
    assert (packer.name, packer.trainable, packer([5])) == ("ends", False, [5, 0])
    config = packer.get_config()
    assert (config["name"], config["trainable"]) == ("ends", False)
    assert StartEndPacker.from_config({**config, "dtype": dtype}).get_config() == config


def test_a_dtype_without_a_name_is_refused():
    for wrong in (5, {}, {"config": "float32"}):
        with pytest.raises(ValueError, match="dtype: wanted the name of a type"):
            StartEndPacker(2, dtype=wrong)
