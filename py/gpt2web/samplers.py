"""gpt2web.samplers: the samplers by name, and their configs.

lm.compile(samplers.TopKSampler(k=40, temperature=0.8, seed=7))
lm.compile("beam")
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, overload

from gpt2web.sampler import GreedySampler, RandomSampler, Sampler, TopKSampler, TopPSampler
from gpt2web.searchers import BeamSampler, ContrastiveSampler

__all__ = [
    "BeamSampler",
    "ContrastiveSampler",
    "GreedySampler",
    "RandomSampler",
    "Sampler",
    "TopKSampler",
    "TopPSampler",
    "deserialize",
    "get",
    "serialize",
]

NAMES: dict[str, type[Sampler]] = {
    "beam": BeamSampler,
    "contrastive": ContrastiveSampler,
    "greedy": GreedySampler,
    "random": RandomSampler,
    "top_k": TopKSampler,
    "top_p": TopPSampler,
}


def serialize(sampler: Sampler) -> dict[str, Any]:
    """A sampler as {"class_name", "config"}, which `deserialize` and `get` take.

    >>> serialize(GreedySampler())["class_name"]
    'GreedySampler'
    """
    if not isinstance(sampler, Sampler):
        raise ValueError(f"serialize: wanted a Sampler, got {sampler!r}")
    return {"class_name": type(sampler).__name__, "config": sampler.get_config()}


def deserialize(
    config: str | Mapping[str, Any], custom_objects: Mapping[str, type[Sampler]] | None = None
) -> Sampler:
    """A new sampler of a name, or of a config from `serialize`: its random numbers begin anew.

    config: {"class_name", "config"}, also with what KerasHub writes beside them and its
        "keras_hub>" before the class. custom_objects: classes of one's own by name.

    Raises ValueError for a class that is not known, TypeError for options it does not take.

    >>> deserialize({"class_name": "keras_hub>TopKSampler", "config": {"k": 7}}).k
    7
    """
    name: Any = config
    options: Any = {}
    if not isinstance(config, str):
        if not isinstance(config, Mapping) or "class_name" not in config:
            raise ValueError(f'a sampler\'s config is {{"class_name", "config"}}, got {config!r}')
        name, options = config["class_name"], config.get("config") or {}
    classes = dict(NAMES) | {named.__name__: named for named in NAMES.values()}
    classes |= custom_objects or {}
    known = classes.get(name.rpartition(">")[2]) if isinstance(name, str) else None
    if known is None:
        raise ValueError(
            f"no sampler is named {name!r}; there are {', '.join(NAMES)}, and classes of your own "
            "by way of custom_objects"
        )
    if not isinstance(options, Mapping):
        raise ValueError(f"a sampler's config holds its options by name, got {options!r}")
    return known.from_config(options)


@overload
def get(identifier: None) -> None: ...
@overload
def get(identifier: str | Mapping[str, Any] | Sampler | type[Sampler]) -> Sampler: ...
def get(identifier: Any) -> Sampler | None:
    """A sampler by its lowercase name, by its config or of its class, or the one given; None for
    None, as KerasHub has it.

    Raises ValueError for anything else.

    >>> get("top_p").p, get({"class_name": "BeamSampler", "config": {"num_beams": 3}}).num_beams
    (0.1, 3)
    """
    if identifier is None or isinstance(identifier, Sampler):
        return identifier
    if isinstance(identifier, type) and issubclass(identifier, Sampler):
        return identifier()
    if isinstance(identifier, str) and identifier not in NAMES:
        raise ValueError(
            f"no sampler is named {identifier!r}; there are {', '.join(NAMES)} (in lower case)"
        )
    if isinstance(identifier, str | Mapping):
        return deserialize(identifier)
    raise ValueError(
        f"a sampler is a name, a config, a Sampler or a class of one, got {identifier!r}"
    )
