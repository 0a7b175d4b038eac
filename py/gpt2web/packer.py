"""StartEndPacker: token ids in, rows of one length out, with start and end values and padding.

Source: start_end_packer.py of keras-hub. Different here: a length that cannot hold the start and
end values is an error, and every option of a call works independently of the others.
"""

from collections.abc import Mapping
from typing import Any, Self

from gpt2web.arguments import (
    KerasArguments,
    dtype_name,
    to_lists,
    to_rows,
    whole_number,
    whole_numbers,
)


class StartEndPacker(KerasArguments):
    """Cuts or pads sequences to one length, between start and end values.

    Args:
        sequence_length: of every row that comes out, start and end values included.
        start_value, end_value: an int or a str, or a list of several, or None for none.
        pad_value: an int or a str; None means 0, or "" among strings.
        return_padding_mask: give (values, mask); the mask is True where there is no padding.
        padding_side: "right" or "left". Sequences are cut on the right in both.
        name, trainable: kept in the config, as of every Keras layer.
        dtype: any; ids are ints all the same.

    ValueError: values of other types, or ints beside strings.

    >>> pack = StartEndPacker(6, start_value=1, end_value=2)
    >>> pack([5, 6, 7]), pack([[5], [6, 7, 8, 9, 10]])
    ([1, 5, 6, 7, 2, 0], [[1, 5, 2, 0, 0, 0], [1, 6, 7, 8, 9, 2]])
    """

    def __init__(
        self,
        sequence_length: int,
        start_value: Any = None,
        end_value: Any = None,
        pad_value: Any = None,
        return_padding_mask: bool = False,
        padding_side: str = "right",
        *,
        name: str | None = None,
        trainable: bool = True,
        dtype: Any = None,
    ) -> None:
        super().__init__(name, trainable)
        dtype_name(dtype)
        if padding_side not in ("left", "right"):
            raise ValueError(f'padding_side: wanted "left" or "right", got {padding_side!r}')
        self.sequence_length = whole_number(sequence_length, "sequence_length")
        self.start_value = _values(start_value, "start_value")
        self.end_value = _values(end_value, "end_value")
        self.pad_value = None if pad_value is None else _values([pad_value], "pad_value")[0]
        self.return_padding_mask = bool(return_padding_mask)
        self.padding_side = padding_side
        self._config_values = {"start_value": start_value, "end_value": end_value}

    def __call__(
        self,
        inputs: Any,
        sequence_length: int | None = None,
        add_start_value: bool = True,
        add_end_value: bool = True,
    ) -> Any:
        """Pack one sequence (a flat list comes out) or a batch of them (a list of lists).

        Args:
            inputs: ints (whole numbers as floats do) or strings, as a list or 1-D array, or a
                list or 2-D array of those; the rows of a batch may have any lengths.
            sequence_length: instead of the packer's own.
            add_start_value, add_end_value: False leaves the value out of this call.

        ValueError: a length too small for the start and end values, other types or dimensions.
        """
        values, mask = self.call_and_return_padding_mask(
            inputs, sequence_length, add_start_value, add_end_value
        )
        return (values, mask) if self.return_padding_mask else values

    def call_and_return_padding_mask(
        self,
        inputs: Any,
        sequence_length: int | None = None,
        add_start_value: bool = True,
        add_end_value: bool = True,
    ) -> tuple[list[Any], list[Any]]:
        """What a call gives with return_padding_mask, whatever the packer's own is."""
        rows, batched = to_rows(inputs, "inputs")
        rows = [_values(whole_numbers(row), "inputs") for row in rows]
        length = self.sequence_length
        if sequence_length is not None:
            length = whole_number(sequence_length, "sequence_length")
        start = self.start_value if add_start_value else []
        end = self.end_value if add_end_value else []
        room = length - len(start) - len(end)
        if room < 0:
            raise ValueError(
                f"sequence_length {length} cannot hold the {len(start)} start and {len(end)} end "
                f"values; wanted {len(start) + len(end)} or more"
            )
        kinds = {type(value) for row in (start, end, *rows) for value in row}
        pad = self.pad_value
        if pad is None:
            pad = "" if str in kinds else 0
        if len(kinds | {type(pad)}) > 1:
            raise ValueError(
                "wanted inputs, start_value, end_value and pad_value all ints or all strings, got "
                f"start {start}, end {end}, pad {pad!r} and the inputs {inputs!r}"
            )
        packed = [[*start, *row[:room], *end] for row in rows]
        values = [self._pad(row, pad, length) for row in packed]
        mask = [self._pad([True] * len(row), False, length) for row in packed]
        return (values, mask) if batched else (values[0], mask[0])

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, fit for JSON."""
        return {
            "sequence_length": self.sequence_length,
            **{name: to_lists(value) for name, value in self._config_values.items()},
            "pad_value": self.pad_value,
            "return_padding_mask": self.return_padding_mask,
            "padding_side": self.padding_side,
            **super().get_config(),
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """A packer from `get_config`. TypeError: an argument it doesn't know."""
        return cls(**config)

    def _pad(self, row: list[Any], pad: Any, length: int) -> list[Any]:
        padding = [pad] * (length - len(row))
        return padding + row if self.padding_side == "left" else row + padding


def _values(value: Any, name: str) -> list[Any]:
    """One value or several as a list of plain ints and strings."""
    values = to_lists(value)
    if values is None:
        return []
    if not isinstance(values, list):
        values = [values]
    for item in values:
        if isinstance(item, bool) or not isinstance(item, int | str):
            raise ValueError(f"{name}: wanted ints or strings, got {item!r}")
    return [str(item) if isinstance(item, str) else int(item) for item in values]
