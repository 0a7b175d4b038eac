"""What callers pass in, made plain: lists, tuples, arrays with tolist(), whole numbers, and the
arguments that every Keras layer takes.

numpy itself is never imported: the page has none.
"""

import operator
import re
import reprlib
from array import array
from collections.abc import Iterable, Mapping
from typing import Any


class PromptTooLong(ValueError):
    """A text longer than the model's context."""

    code = "prompt-too-long"  # docs/errors.md; a plain ValueError or TypeError is option-invalid


class KerasArguments:
    """The name and trainable of a Keras layer, for classes that have no weights.

    Args:
        name: kept in the config; the class's name in snake_case unless given.
        trainable: kept in the config; nothing trains here.
    """

    def __init__(self, name: str | None = None, trainable: bool = True) -> None:
        if not isinstance(name, str | None):
            raise ValueError(f"name: wanted a string, got {name!r}")
        self.name = name or _snake_case(type(self).__name__)
        self.trainable = bool(trainable)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"name": self.name, "trainable": self.trainable}


def _snake_case(name: str) -> str:
    """A class's name as Keras's: "GPT2CausalLMPreprocessor" -> "gpt2_causal_lm_preprocessor"."""
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def dtype_name(dtype: Any) -> str | None:
    """The name of a dtype: a string, a type, numpy's, or a Keras DTypePolicy or its config.

    ValueError: anything else but None.
    """
    if dtype is None:
        return None
    name = dtype
    if isinstance(dtype, Mapping):
        config = dtype.get("config")
        name = config.get("name") if isinstance(config, Mapping) else None
    elif not isinstance(dtype, str):
        name = getattr(dtype, "name", None) or getattr(dtype, "__name__", None)
    if not isinstance(name, str):
        raise ValueError(f"dtype: wanted the name of a type, got {dtype!r}")
    return name


_repr = reprlib.Repr()
_repr.maxlevel = 3
_repr.maxstring = _repr.maxlong = _repr.maxother = 60


def shown(value: object) -> str:
    """A value for a message: its repr, but short, however large or deep it is.

    >>> shown({"a": [1, [2, [3, [4]]]]}), len(shown("a" * 10**6))
    ("{'a': [1, [...]]}", 60)
    """
    text = _repr.repr(value)
    return text if len(text) <= 100 else f"{text[:96]} ..."


def whole_number(value: Any, name: str, minimum: int = 1, maximum: int | None = None) -> int:
    """`value` as an int, numpy's too. ValueError: anything else, or one out of the range."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < minimum or (maximum is not None and number > maximum):
        wanted = f"{minimum} or more" if maximum is None else f"{minimum} to {maximum}"
        raise ValueError(f"{name}: wanted a whole number of {wanted}, got {shown(value)}")
    return number


def whole_id(value: Any, name: str) -> int:
    """An id as an int, also from a float: TensorFlow.js keeps ids in float32.

    ValueError: anything but a whole number.
    """
    value = to_lists(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    try:
        return operator.index(value)
    except TypeError:
        raise ValueError(f"{name}: wanted whole numbers, got {value!r}") from None


def to_lists(values: Any) -> Any:
    """`values` with every array and tuple in it as a list; all else comes back as it is."""
    if hasattr(values, "tolist"):
        values = values.tolist()
    if isinstance(values, list | tuple):
        return [to_lists(value) for value in values]
    return values


def whole_numbers(values: Any) -> Any:
    """`values` with every whole float in it as an int: TensorFlow.js's ids are floats.

    >>> whole_numbers([1.0, [2, 2.5]])
    [1, [2, 2.5]]
    """
    if isinstance(values, list):
        return [whole_numbers(value) for value in values]
    return int(values) if isinstance(values, float) and values.is_integer() else values


def to_rows(values: Any, name: str) -> tuple[list[list[Any]], bool]:
    """The rows of a sequence (one row) or of a batch of them, and whether it was a batch.

    An empty list is one empty sequence. ValueError: a scalar, more than two dimensions, or
    sequences beside scalars.

    >>> to_rows([5, 6], "ids"), to_rows([[5], []], "ids")
    (([[5, 6]], False), ([[5], []], True))
    """
    rows = to_lists(values)
    wanted = f"{name}: wanted a list, or a list of lists"
    if not isinstance(rows, list):
        raise ValueError(f"{wanted}, got {values!r}")
    if not any(isinstance(row, list) for row in rows):
        return [rows], False
    if not all(isinstance(row, list) for row in rows):
        raise ValueError(f"{wanted}, got lists beside single values: {values!r}")
    if any(isinstance(item, list) for row in rows for item in row):
        raise ValueError(f"{wanted}, got more than two dimensions: {values!r}")
    return rows, True


def array_shape(values: Any) -> tuple[int, ...]:
    """The shape of an array, or of nested lists by their first items.

    >>> array_shape([[1, 2, 3], [4, 5, 6]])
    (2, 3)
    """
    if hasattr(values, "shape"):
        return tuple(values.shape)
    shape = []
    while isinstance(values, list | tuple):
        shape.append(len(values))
        values = values[0] if values else None
    return tuple(shape)


def f32_bytes(values: Any) -> bytes:
    """The little-endian f32 of an array or of nested lists, row-major.

    ValueError: lists of different lengths side by side.
    """
    if hasattr(values, "astype"):
        data: bytes = values.astype("<f4").tobytes()
        return data
    flat = to_lists(values)
    shape = array_shape(flat)
    for length in shape[1:]:
        if any(not isinstance(row, list) or len(row) != length for row in flat):
            raise ValueError(
                f"wanted an array of the shape {list(shape)}, got lists of other lengths"
            )
        flat = [item for row in flat for item in row]
    return array("f", flat).tobytes()


def count(name: str, value: object, least: int, most: int | None = None) -> int:
    """value as an int from least to most.

    TypeError: no whole number, where `whole_number` raises ValueError for that too.
    ValueError: out of the range.
    """
    wanted = f"{name} must be a whole number of at least {least}" + (
        f" and at most {most}" if most is not None else ""
    )
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{wanted}, got {value!r}")
    number = operator.index(value)
    if number < least or (most is not None and number > most):
        raise ValueError(f"{wanted}, got {number}")
    return number


def texts_of(name: str, value: object) -> tuple[str, ...]:
    """value as texts. TypeError: anything but strings."""
    if not isinstance(value, Iterable) or isinstance(value, bytes):
        raise TypeError(f"{name} must be a str or a list of them, got {value!r}")
    texts = tuple(value)
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"{name} must be a str or a list of them, got {text!r} in it")
    return texts
