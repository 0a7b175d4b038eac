"""A layer's weights: drawn as Keras draws them, kept on the CPU, packed for the GPU.

Drawing needs no GPU: get_weights and set_weights work before there is one, and in the page.
"""

from __future__ import annotations

import math
import random
import re
from array import array
from collections.abc import Callable, Iterator
from typing import Any

from gpt2web import kernels
from gpt2web.arguments import array_shape, f32_bytes
from gpt2web.gpu import Device, Tensor, largest_tensor, shaped
from gpt2web.kernels import Weight
from gpt2web.weights import allocate

PIECE_BYTES = 4 << 20  # of a matrix, uploaded at a time
MAX_PIECE_ROWS = 65535  # workgroups of the pack kernel in one dimension

# Keras's initializers and their options (https://keras.io/api/layers/initializers/); all but the
# constant ones also take a seed.
_VARIANCE_SCALING = {"scale": 1.0, "mode": "fan_in", "distribution": "truncated_normal"}
INITIALIZERS: dict[str, dict[str, Any]] = {
    "constant": {"value": 0.0},
    "zeros": {},
    "ones": {},
    "random_uniform": {"minval": -0.05, "maxval": 0.05},
    "random_normal": {"mean": 0.0, "stddev": 0.05},
    "truncated_normal": {"mean": 0.0, "stddev": 0.05},
    "variance_scaling": _VARIANCE_SCALING,
    "glorot_uniform": {},
    "glorot_normal": {},
    "he_uniform": {},
    "he_normal": {},
    "lecun_uniform": {},
    "lecun_normal": {},
}
ALIASES = {"uniform": "random_uniform", "normal": "random_normal", "zero": "zeros", "one": "ones"}
_SCALINGS = {"glorot": (1.0, "fan_avg"), "he": (2.0, "fan_in"), "lecun": (1.0, "fan_in")}
_MODES = ("fan_in", "fan_out", "fan_avg")
_DISTRIBUTIONS = (
    "truncated_normal",
    "normal",
    "untruncated_normal",
    "uniform",
)  # the first two: one
_TRUNCATED = 0.87962566103423978  # standard deviation of a normal variable cut at 2 of them

Initializer = str | dict[str, Any] | Callable[..., Any]


def snake_case(name: str) -> str:
    """TensorFlow.js's and class names as Keras's: "glorotUniform", "GlorotUniform" -> the same.

    >>> snake_case("cacheUpdateIndex"), snake_case("HeNormal"), snake_case("he_normal")
    ('cache_update_index', 'he_normal', 'he_normal')
    """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def check_initializer(initializer: Any, argument: str) -> Initializer:
    """`initializer` if it is one: a name, {"class_name": ..., "config": {...}}, or a function of a
    shape that gives an array. ValueError: anything else, or an option that it has not."""
    if callable(initializer):
        return initializer  # type: ignore[no-any-return]
    try:
        _options(initializer)
    except ValueError as error:
        raise ValueError(f"{argument}: {error}") from None
    return initializer  # type: ignore[no-any-return]


def _options(initializer: Any) -> tuple[str, dict[str, Any]]:
    """The name and all options of a name or a config."""
    config: dict[str, Any] = {}
    name = initializer
    if isinstance(initializer, dict):
        name, config = initializer.get("class_name"), initializer.get("config") or {}
    found = snake_case(name) if isinstance(name, str) else ""
    found = ALIASES.get(found, found)
    if found not in INITIALIZERS:
        raise ValueError(f"wanted one of {', '.join(INITIALIZERS)}, got {initializer!r}")
    options = INITIALIZERS[found] | {"seed": None}
    given = {snake_case(option): value for option, value in config.items()}
    unknown = sorted(set(given) - set(options) - {"dtype"})
    if unknown:
        raise ValueError(f"{found} has no option {unknown[0]!r}; it has {', '.join(options)}")
    options |= given
    for option, allowed in (("mode", _MODES), ("distribution", _DISTRIBUTIONS)):
        if option in options and snake_case(str(options[option])) not in allowed:
            raise ValueError(
                f"{found}: {option} is one of {', '.join(allowed)}, got {options[option]!r}"
            )
    return found, options


def draw(initializer: Initializer, shape: tuple[int, ...], stream: str) -> bytes:
    """The initial values of a weight, f32, row-major: the same for the same seed (0 unless the
    initializer names one) and stream. ValueError: a function gave another shape."""
    if callable(initializer):
        values = initializer(shape)
        if array_shape(values) != shape:
            raise ValueError(
                f"the initializer of {stream} gave the shape {list(array_shape(values))}, "
                f"wanted {list(shape)}"
            )
        return f32_bytes(values)
    name, options = _options(initializer)
    count = math.prod(shape)
    if name in ("zeros", "ones", "constant"):
        value = {"zeros": 0.0, "ones": 1.0}.get(name, options.get("value", 0.0))
        return array("f", [value]).tobytes() * count
    source = random.Random(f"{options['seed'] or 0} {stream}")
    return array("f", _numbers(source, name, options, shape, count)).tobytes()


def _numbers(
    source: random.Random, name: str, options: dict[str, Any], shape: tuple[int, ...], count: int
) -> Iterator[float]:
    family, _, distribution = name.rpartition("_")
    if family in _SCALINGS or name == "variance_scaling":
        scale, mode = _SCALINGS.get(family) or (options["scale"], snake_case(options["mode"]))
        if name == "variance_scaling":
            distribution = snake_case(options["distribution"])
        fan_in, fan_out = _fans(shape)
        fans = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}
        variance = scale / max(1.0, fans[mode])
        if distribution == "uniform":
            limit = math.sqrt(3 * variance)
            return _uniform(source, -limit, limit, count)
        if distribution == "untruncated_normal":
            return (source.gauss(0.0, math.sqrt(variance)) for _ in range(count))
        return _truncated(source, 0.0, math.sqrt(variance) / _TRUNCATED, count)
    if name == "random_uniform":
        return _uniform(source, options["minval"], options["maxval"], count)
    mean, stddev = options["mean"], options["stddev"]
    if name == "truncated_normal":
        return _truncated(source, mean, stddev, count)
    return (source.gauss(mean, stddev) for _ in range(count))


def _uniform(source: random.Random, low: float, high: float, count: int) -> Iterator[float]:
    return (low + (high - low) * source.random() for _ in range(count))


def _truncated(source: random.Random, mean: float, stddev: float, count: int) -> Iterator[float]:
    """Normal variables, drawn again where they are more than 2 standard deviations off."""
    while count:
        value = source.gauss(0.0, 1.0)
        if abs(value) <= 2.0:
            count -= 1
            yield mean + stddev * value


def _fans(shape: tuple[int, ...]) -> tuple[float, float]:
    """Keras's fan_in and fan_out, which takes all axes but the last two for a receptive field."""
    if len(shape) < 2:
        return (float(shape[0]),) * 2 if shape else (1.0, 1.0)
    field = math.prod(shape[:-2])
    return float(field * shape[-2]), float(field * shape[-1])


class Variable:
    """One weight of a layer: `name`, `shape`, and its values, drawn when they are first asked for.

    `value` is a memoryview of the shape, `numpy()` an array, `assign` takes an array or nested
    lists. A matrix may also come in the shape that it has for the kernels, [rows, columns].
    """

    def __init__(
        self,
        name: str,
        shape: tuple[int, ...],
        initializer: Initializer,
        rows: int | None = None,
    ) -> None:
        self.name = name
        self.shape = shape
        self.initializer = initializer
        size = math.prod(shape)
        self.flat_shape: tuple[int, ...] = (size,) if rows is None else (rows, size // rows)
        self._data: bytes | None = None
        self._copy: Tensor | Weight | None = None  # on the device that a call needed it last
        self._device: Device | None = None

    def __repr__(self) -> str:
        return f"Variable({self.name!r}, shape={self.shape})"

    @property
    def data(self) -> bytes:
        """The values, f32, row-major."""
        if self._data is None:
            self._data = draw(self.initializer, self.shape, self.name)
        return self._data

    @property
    def value(self) -> memoryview:
        """The values as a read-only memoryview of `shape`, format "f"."""
        view: memoryview = shaped(memoryview(self.data), self.shape, "f")
        return view

    def numpy(self) -> Any:
        """The values as a numpy array (where numpy is installed)."""
        import numpy

        return numpy.array(self.value)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return self.numpy() if dtype is None else self.numpy().astype(dtype)

    def assign(self, values: Any) -> None:
        """Take over values, a copy. ValueError: another shape, named."""
        self.take(self.converted(values))

    def converted(self, values: Any) -> bytes:
        """Values of this weight's shape as f32, row-major. ValueError: of another shape."""
        if isinstance(values, Variable):
            values = values.value
        found = array_shape(values)
        if found not in (self.shape, self.flat_shape):
            raise ValueError(f"{self.name}: wanted the shape {list(self.shape)}, got {list(found)}")
        return to_f32(values, self.name)

    def take(self, data: bytes) -> None:
        """Take over what `converted` gave."""
        self._data = data
        self._copy = None

    def vector(self, device: Device) -> Tensor:
        """The values on the GPU, plain f32 [size]."""
        if not isinstance(self._copy, Tensor) or self._device is not device:
            copy = device.tensor((math.prod(self.shape),))
            device.write(copy, self.data)
            self._copy, self._device = copy, device
        return self._copy

    def matrix(self, device: Device, *, transposed: bool = False) -> Weight:
        """The values on the GPU as kernels multiply with them: [rows, columns], or, transposed, a
        matrix that has each row for a column: an embedding."""
        if not isinstance(self._copy, Weight) or self._device is not device:
            self._copy, self._device = self._pack(device, transposed), device
        return self._copy

    def _pack(self, device: Device, transposed: bool) -> Weight:
        rows, columns = self.flat_shape
        weight = allocate(device, *((columns, rows) if transposed else (rows, columns)), bits=32)
        piece_bytes = min(PIECE_BYTES, largest_tensor(device))
        at_once = min(rows, MAX_PIECE_ROWS, max(1, piece_bytes // (4 * columns)))
        source = device.tensor((at_once, columns))
        piece = device.tensor((8,), "u32", uniform=True)
        flaws = device.tensor((4,), "u32")  # not looked at: NaN is the caller's to have
        for first in range(0, rows, at_once):
            count = min(at_once, rows - first)
            device.write(source, self.data[4 * first * columns : 4 * (first + count) * columns])
            for part in weight.parts:
                device.write(piece, kernels.piece_bytes(weight, part, first, count, columns, 0))
                given = device, piece, source, weight, part, flaws
                call = kernels.pack(*given, source_type="F32", transposed=transposed, rows=count)
                device.submit([call])
        return weight

    def destroy(self) -> None:
        """Free the copy on the GPU; the next call makes another."""
        if isinstance(self._copy, Tensor):
            self._copy.destroy()
        elif self._copy is not None:
            for part in self._copy.parts:
                part.words.destroy()
        self._copy = None


def to_f32(values: Any, name: str) -> bytes:
    """An array or nested lists as f32, row-major. ValueError: anything else, or ragged lists."""
    if isinstance(values, memoryview) and values.format == "f" and values.contiguous:
        return values.tobytes()
    try:
        return f32_bytes(values)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{name}: wanted an array of numbers: {error}") from None
