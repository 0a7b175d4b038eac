"""Fetches a model of the Hugging Face hub.

huggingface_hub finds the model, its commit and its files, with the reader's login and settings.
Large files it starts over when a run is broken off (as of 2.4), so those are fetched as from any
static host: from where it stopped. What its own cache holds already is taken from there.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from gpt2web.convert.fetch import fetch_file
from gpt2web.convert.forms import TEXTS, find_form
from gpt2web.safetensors import CheckpointError
from gpt2web.url_folder import UrlFolder

AGAIN = "Run the same command again: it goes on where this broke off."


class HubPlace:
    """A model at one commit."""

    def __init__(self, hub: Any, name: str) -> None:
        """CheckpointError: there is none of the name for this reader, or no hub."""
        self._hub = hub
        self.name = name
        info = self._ask(hub.HfApi().model_info, name)
        self.commit: str = info.sha or "main"
        self._files = {sibling.rfilename for sibling in info.siblings or []}

    def has(self, file: str) -> bool:
        return file in self._files

    def data(self, file: str) -> bytes | None:
        if file not in self._files:
            return None
        fetch = self._hub.hf_hub_download
        return Path(self._ask(fetch, self.name, file, revision=self.commit)).read_bytes()

    def fetch(self, file: str, target: Path, title: str) -> None:
        """A large file, whose hash the hub knows, as a rule."""
        cached = self._hub.try_to_load_from_cache(self.name, file, revision=self.commit)
        if isinstance(cached, str):
            target.unlink(missing_ok=True)
            link_or_copy(Path(cached), target)
            return
        url = self._hub.hf_hub_url(self.name, file, revision=self.commit)
        about = self._ask(self._hub.get_hf_file_metadata, url)  # where it lies, for this reader
        is_hash = about.size is not None and re.fullmatch("[0-9a-f]{64}", about.etag or "")
        vouched = (about.size, about.etag) if is_hash else None
        fetch_file(UrlFolder(url), about.location, target, title, vouched)

    def _ask(self, call: Any, *words: Any, **options: Any) -> Any:
        """What huggingface_hub answers; whatever it raises as a CheckpointError."""
        errors = self._hub.errors
        try:
            return call(*words, **options)
        except errors.GatedRepoError:
            what = "wants its terms accepted first: do so on its page, then run `hf auth login`."
        except errors.RepositoryNotFoundError:
            what = "is not on the hub, or it is private: check its name, or run `hf auth login`."
        except Exception as error:  # its own errors, and those of whatever it speaks HTTP with
            first = (str(error) or type(error).__name__).strip().partition("\n")[0].rstrip(".")
            what = f"cannot be fetched from the hub: {first}. {AGAIN}"
        raise CheckpointError(f"{self.name} {what}")


def link_or_copy(source: Path, target: Path) -> None:
    try:
        target.symlink_to(source.resolve())
    except OSError:  # Windows, without the right to
        shutil.copyfile(source, target)


def fetch_hub(name: str, cache: Path) -> Path:
    """The checkpoint of the model owner/name, in a folder of `cache` that is its commit's own.
    CheckpointError: there is none for this reader, or the hub cannot be reached."""
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError:
        raise CheckpointError(
            f"{name} is a model of the Hugging Face hub, and huggingface_hub is not installed. Run "
            "`python3 build.py model`, which installs it, or `python3 -m pip install '.[convert]'` "
            "in gpt2web's folder."
        ) from None
    place = HubPlace(huggingface_hub, name)
    form = find_form(place)
    path = cache / "hub" / place.commit / name.rpartition("/")[2]
    path.mkdir(parents=True, exist_ok=True)
    for file in TEXTS:
        if (data := place.data(file)) is not None:
            (path / file).write_bytes(data)
    for number, file in enumerate(form.files, 1):
        place.fetch(file, path / file, f"{file} ({number} of {len(form.files)})")
    return path
