"""What a model takes on the GPU, without its taking it: the code that allocates it, on a device
that has a real one's limits and no memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from gpt2web.chunks import Chunks
from gpt2web.config import GPT2Config
from gpt2web.decoder import Decoder
from gpt2web.generate import Session
from gpt2web.gpu import DEFAULT_LIMITS, Device, Dispatch, Tensor
from gpt2web.weights import Weights


class PaperDevice(Device):
    """Counts tensors and records nothing."""

    def __init__(self, limits: Mapping[str, int] = DEFAULT_LIMITS) -> None:
        super().__init__(None, SimpleNamespace(limits=limits, queue=None))

    def _buffer(self, size: int, usage: int) -> Any:
        return SimpleNamespace(destroy=lambda: None)

    def write(self, tensor: Tensor, data: Any, offset: int = 0) -> None:
        pass

    def kernel(
        self,
        name: str,
        constants: Mapping[str, float],
        bindings: Sequence[Tensor],
        groups: tuple[int, ...],
    ) -> Dispatch:
        return Dispatch(None, None, 0, 0, 0, name, tuple(bindings))


def footprint(
    config: GPT2Config,
    precision: str,
    limits: Mapping[str, int] = DEFAULT_LIMITS,
    alternatives: int = 0,
) -> dict[str, int]:
    """Bytes of the `weights`, of the K/V `cache` of one row of the whole context, and of all that
    generating takes besides: activations, logits, sampling, readback."""
    device = PaperDevice(limits)
    weights = Weights(device, config, precision)
    of_weights = device.live_bytes
    decoder = Decoder(device, config, weights, 1, config.max_sequence_length)
    session = Session(decoder, alternatives)
    chunks = Chunks(decoder.cache, weights)
    cache = sum(device.live[id(layer)] for layer in decoder.cache.layers)
    found = {
        "weights": of_weights,
        "cache": cache,
        "rest": device.live_bytes - of_weights - cache,
    }
    for part in (session, chunks, decoder, weights):
        part.destroy()
    return found
