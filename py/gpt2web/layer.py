"""What the layers share: weights by name, configs, devices, and inputs made into tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from gpt2web import kernels
from gpt2web.arguments import array_shape, to_lists
from gpt2web.gpu import Device, Dispatch, Tensor
from gpt2web.kernels import Norm, Weight
from gpt2web.variables import Variable, snake_case, to_f32

P = ParamSpec("P")
T = TypeVar("T")
Shape = tuple[int | None, ...]  # None: not known yet, as in Keras

_default: Device | None = None


def either_case(function: Callable[P, T]) -> Callable[P, T]:
    """Let a function's keywords also be spelled as in TensorFlow.js: numHeads for num_heads."""

    @wraps(function)
    def wrapper(*arguments: P.args, **options: P.kwargs) -> T:
        given: dict[str, Any] = {}
        for name, value in options.items():
            if snake_case(name) in given:
                raise TypeError(
                    f"{function.__qualname__} got {snake_case(name)!r} in two spellings"
                )
            given[snake_case(name)] = value
        return function(*arguments, **given)

    return wrapper


async def default_device() -> Device:
    """The device of every layer that is given none: asked for once, at the first call."""
    global _default
    if _default is None:
        device = await Device.request()
        if _default is None:
            _default = device
        else:  # another call was quicker
            device.destroy()
    return _default


def set_default_device(device: Device | None) -> None:
    """Use this device from now on; None asks for a new one at the next call."""
    global _default
    _default = device


class Layer:
    """The base of all layers here.

    Args:
        name: kept in the config; the class's name in snake_case unless given.
        trainable: kept in the config; nothing trains here.
        dtype: "float32", which all arithmetic is in; numpy's type or a Keras policy of this name.
        device: a gpu.Device; None follows the inputs, or takes default_device().

    Raises TypeError for arguments that the layer does not have, ValueError for values.
    """

    def __init__(
        self,
        *,
        name: str | None = None,
        trainable: bool = True,
        dtype: Any = "float32",
        device: Device | None = None,
        **unknown: Any,
    ) -> None:
        for argument, value in unknown.items():
            if value is not None or not argument.endswith(("_regularizer", "_constraint")):
                raise TypeError(
                    f"{type(self).__name__} has no argument {argument!r} (this is inference only)"
                )
        if dtype is not None and _dtype_name(dtype) != "float32":
            raise ValueError(f"dtype: all arithmetic is in float32, got {dtype!r}")
        self.name = name or snake_case(type(self).__name__)
        self.trainable = trainable
        self.device = device
        self.named_weights: dict[str, Variable] = {}

    # Config.

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, but for the device; weights are not part of it."""
        return {"name": self.name, "trainable": self.trainable, "dtype": "float32"}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Any:
        """A layer of a config from get_config, with new weights."""
        return cls(**config)

    # Weights.

    @property
    def weights(self) -> list[Variable]:
        """All weights in Keras's order; `named_weights` has them by name."""
        return list(self.named_weights.values())

    variables = weights

    @property
    def trainable_weights(self) -> list[Variable]:
        """All weights, or none where `trainable` is False, as Keras has it; nothing trains here."""
        return self.weights if self.trainable else []

    trainable_variables = trainable_weights

    @property
    def non_trainable_weights(self) -> list[Variable]:
        """The weights that are not among trainable_weights."""
        return [] if self.trainable else self.weights

    non_trainable_variables = non_trainable_weights

    @property
    def built(self) -> bool:
        """Whether it has its weights: they come with the first call, build or set_weights."""
        return bool(self.named_weights)

    def count_params(self) -> int:
        """Numbers in all weights."""
        return sum(math.prod(weight.shape) for weight in self.named_weights.values())

    def get_weights(self) -> list[memoryview]:
        """Copies of all weights in Keras's order, each a memoryview of its shape (numpy.asarray
        and .tolist() take it). Empty before the layer is built."""
        return [weight.value for weight in self.named_weights.values()]

    def set_weights(self, weights: Sequence[Any] | Mapping[str, Any]) -> None:
        """Take over weights: all of them in Keras's order, or, once it is built, any by name.

        Args:
            weights: arrays or nested lists, in a list or by their names in `named_weights`. A list
                builds a layer that is not built yet.

        Raises ValueError for another number of them, an unknown name, or a shape that does not fit;
        then no weight is changed.
        """
        was_built = self.built
        try:
            given = self._by_name(weights)
            data = {
                name: self.named_weights[name].converted(value) for name, value in given.items()
            }
        except ValueError:
            if not was_built:
                self.named_weights = {}
            raise
        for name, values in data.items():
            self.named_weights[name].take(values)

    def _by_name(self, weights: Sequence[Any] | Mapping[str, Any]) -> dict[str, Any]:
        if isinstance(weights, Mapping):
            unknown = [name for name in weights if name not in self.named_weights]
            if unknown:
                has = ", ".join(self.named_weights) or "none before it is built"
                raise ValueError(f"{self.name} has no weight {unknown[0]!r}; it has {has}")
            return dict(weights)
        if not self.built and len(weights):
            self._build_for([array_shape(weight) for weight in weights])
        if len(weights) != len(self.named_weights):
            has = f"{len(self.named_weights)} weights ({', '.join(self.named_weights)})"
            raise ValueError(f"{self.name} has {has}, got {len(weights)}")
        return dict(zip(self.named_weights, weights, strict=True))

    # TensorFlow.js's spelling.

    def apply(self, *arguments: Any, **options: Any) -> Any:
        """The same as call; keywords may also come last as a dict: apply(x, {"reverse": True})."""
        if arguments and isinstance(arguments[-1], Mapping):
            *arguments, keywords = arguments  # type: ignore[assignment]
            options = {**keywords, **options}
        return self.call(*arguments, **options)

    def computeOutputShape(self, *shapes: Any, **options: Any) -> Shape:
        """The same as compute_output_shape."""
        return self.compute_output_shape(*shapes, **options)

    def getConfig(self) -> dict[str, Any]:
        """The same as get_config."""
        return self.get_config()

    fromConfig = from_config
    getWeights = get_weights
    setWeights = set_weights

    def _build_for(self, shapes: Sequence[tuple[int, ...]]) -> None:
        """Build as the shapes of all weights, in order, ask for; nothing where that cannot be."""

    def _weight(self, name: str) -> Variable:
        if name not in self.named_weights:
            raise ValueError(
                f"{self.name} has no weights yet: call it, build it, or set_weights first"
            )
        return self.named_weights[name]

    def destroy(self) -> None:
        """Free what the layer has on the GPU; its weights stay on the CPU."""
        for weight in self.named_weights.values():
            weight.destroy()

    # Calls.

    call: Callable[..., Any]  # call_async, natively, to its end
    compute_output_shape: Callable[..., Shape]  # of the inputs' shapes

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """The same as call."""
        return self.call(*arguments, **options)

    async def _device_of(self, *inputs: Any, device: Device | None = None) -> Device:
        """The device to compute on. ValueError: inputs on another device than the layer's."""
        found = device or self.device
        for tensor in inputs:
            if isinstance(tensor, Tensor):
                if found is not None and tensor.device is not found:
                    raise ValueError(
                        f"{self.name}: a tensor of another device: give the layers one device=, or "
                        "pass `await tensor.read()`"
                    )
                found = tensor.device
        return found or await default_device()


def _dtype_name(dtype: Any) -> Any:
    """The name of a numpy type, a Keras DTypePolicy or its config; all else as it is."""
    if isinstance(dtype, Mapping):
        dtype = (dtype.get("config") or dtype).get("name")
    return getattr(dtype, "name", getattr(dtype, "__name__", dtype))


def to_tensor(device: Device, values: Any, name: str) -> Tensor:
    """An input on the GPU, f32: a Tensor as it is, anything else uploaded."""
    if isinstance(values, Tensor):
        if values.dtype != "f32":
            raise ValueError(f"{name}: wanted numbers of f32, got {values!r}")
        return values
    data = to_f32(values, name)
    tensor = device.tensor(array_shape(values))
    device.write(tensor, data)
    return tensor


async def to_cpu(values: Any) -> Any:
    """An input that the CPU has to look at: a Tensor's values, or what was given, as lists."""
    if isinstance(values, Tensor):
        values = await values.read()
    return to_lists(values)


def copy_to(device: Device, values: Any, name: str, shape: tuple[int, ...]) -> Tensor:
    """An input's values in a tensor of their own, of a shape of the same size."""
    if not isinstance(values, Tensor):
        copy = to_tensor(device, values, name)
        copy.shape = shape
        return copy
    copy, source = device.tensor(shape), to_tensor(device, values, name)
    device.submit([], copies=[(source, 0, copy, 0, 4 * copy.size)])
    return copy


def sequence_shape(values: Any, name: str) -> tuple[int, int, int]:
    """(batch, length, width) of [batch, length, width], or of one row [length, width]."""
    shape = tuple(values.shape) if isinstance(values, Tensor) else array_shape(values)
    if len(shape) not in (2, 3) or 0 in shape:
        raise ValueError(
            f"{name}: wanted the shape [batch, length, width], none of them 0, got {list(shape)}"
        )
    return (1, *shape) if len(shape) == 2 else shape  # type: ignore[return-value]


def dense(
    calls: list[Dispatch],
    source: Tensor,
    weight: Weight,
    bias: Tensor,
    output: Tensor | None = None,
) -> Tensor:
    """[n, k] -> [n, columns]: source . weight + bias, or that added to what output holds."""
    device, tokens = source.device, source.size // weight.k
    residual = output is not None
    if output is None:
        output = device.tensor((tokens, weight.columns))
    for part in weight.parts:
        calls.append(
            kernels.matmul(device, source, weight, part, bias, output, tokens, residual=residual)
        )
    return output


def layer_norm(calls: list[Dispatch], x: Tensor, norm: Norm, epsilon: float) -> Tensor:
    """[n, hidden] -> [n, hidden]"""
    normalized = x.device.tensor(x.shape)
    calls.append(kernels.norm_chunk(x.device, x, norm, epsilon, normalized, x.shape[0]))
    return normalized
