"""What web/worker.js calls: carries out the messages of web/link.js.

The messages are listed at the top of link.js. Nothing here knows of the browser: messages come
in as dicts, answers go out through `post`, so it runs natively just as well. Keys of what goes out
are spelled as JavaScript spells them. The model and the GPU are behind `GPT2CausalLM`.
"""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Callable, Collection
from typing import Any

from gpt2web import sources
from gpt2web.causal_lm import GPT2CausalLM
from gpt2web.checkpoint import CheckpointError
from gpt2web.gpu import DeviceError, ShaderError
from gpt2web.head_start import Memory
from gpt2web.preset import hold_to_manifest, open_folder
from gpt2web.stream import Piece, Sent, TextStream
from gpt2web.tokenizer import GPT2Tokenizer
from gpt2web.views import Views

Message = dict[str, Any]
Post = Callable[[Message], object]

PUBLIC_ERRORS = (CheckpointError, DeviceError, TypeError, ValueError)
PROGRESS_EVERY = 0.05  # seconds between two progress messages


class Page:
    """One page's model, and the generations under way in it.

    base_url: the address of the folder that holds models/, ending in a slash.
    post: takes each answer, a dict of numbers, strings, lists and dicts.
    started: how Python came up, "anew" or from a "snapshot".
    memory: what earlier visits found out about the GPU.
    edited: files of this package that the reader has changed.
    """

    def __init__(
        self,
        base_url: str,
        post: Post,
        started: str = "anew",
        memory: Memory | None = None,
        edited: Collection[str] = (),
    ) -> None:
        self.base_url = base_url
        self.post = post
        self.started = started
        self.memory = memory
        self.edited = edited
        self.successor: Page | None = None  # of the edited package: it carries out all that comes
        self.lm: GPT2CausalLM | None = None
        self.loading: Loading | None = None
        self.under_way: dict[int, Generation] = {}
        self.views = Views()

    async def handle(self, message: Message) -> None:
        """Carries out one message. An error is an answer too; only MemoryError is raised, after
        which this Python is of no use: its memory never shrinks."""
        number = message.get("id", 0)
        try:
            if "edits" in message:
                self.successor = self.edit(message.pop("edits"))
            if self.successor is not None:
                return await self.successor.handle(message)
            match message["type"]:
                case "load":
                    self.result(number, await self.load(number, message))
                case "pause" | "resume":
                    if self.loading is not None:
                        self.loading.pause(message["type"] == "pause")
                case "generate":
                    await self.generate(number, message)
                case "cancel":
                    self.cancel(number)
                case "tokenize":
                    self.result(number, self.tokenize(message["text"], **message["options"]))
                case "detokenize":
                    self.result(number, self.tokenizer().detokenize(message["ids"]))
                case "bytes":
                    of = self.tokenizer().id_to_bytes
                    self.result(number, [list(of(token_id)) for token_id in message["ids"]])
                case "score":
                    self.result(number, await self.score(message["text"], **message["options"]))
                case "inspect":
                    about = message["inspection"], message["tokenIds"], message["options"]
                    self.result(number, await self.views.inspect(self.loaded(), *about))
                case "nextTokens":
                    settings = message["options"]
                    found = await self.views.next_tokens(message["inspection"], settings)
                    self.result(number, found)
                case "closeInspection":
                    self.views.close(message["inspection"])
                case "parameters":
                    self.result(number, self.views.parameters(self.loaded()))
                case "sources":
                    self.result(number, sources.read())
                case unknown:
                    raise ValueError(f"there is no message of type {unknown!r}")
        except MemoryError:
            raise
        except Exception as error:
            described = describe(error, self.edited)
            self.post({"type": "error", "id": number, "error": described})

    def edit(self, edits: dict[str, str]) -> Page:
        """The page of this package with some of its files edited; nothing that was remembered of
        the files as they were is for it."""
        self.edited = tuple(edits)  # what goes wrong from here on is theirs
        module = sources.edit(edits)
        page: Page = module.Page(self.base_url, self.post, self.started, None, self.edited)
        return page

    async def load(self, number: int, message: Message) -> Message:
        """Loads a model in place of the one before; returns its info, keys in camelCase.

        message: "model", and where they are given "precision", "files" (the reader's own: name in a
        model folder and File of each) and "paused" (of its download).
        """
        self.close()
        self.loading = loading = Loading(number, self.post, message.get("paused", False))
        try:
            if "files" in message:
                from gpt2web.own_files import open_files  # only the page has what it imports

                files = {named["name"]: named["file"] for named in message["files"]}
                folder = await open_files(message["model"], files)
            else:
                folder = open_folder(message["model"], self.base_url)
            folder = await hold_to_manifest(folder, loading.download, loading.paused)
            loading.begin(folder)
            if self.edited:
                await sources.check_shaders(self.edited)
            self.lm = await GPT2CausalLM.from_preset_async(
                folder,
                precision=message.get("precision"),
                progress=loading.model,
                memory=self.memory,
                recovering=self.recovering,
                tested=not self.edited,
            )
        finally:
            self.loading = None
            loading.end()
        return self.info(self.lm)

    def info(self, lm: GPT2CausalLM) -> Message:
        info = {**lm.info, "started": self.started, "edited": list(self.edited)}
        if self.edited:
            info["self_test"] = "not run, as files were edited"
        return {camel_case(key): value for key, value in info.items()}

    def recovering(self, sentence: str | None) -> None:
        """Posts that a lost device is being replaced, or with None that this is over. While a model
        loads, that is a notice of the load."""
        if self.loading is not None:
            if sentence is not None:
                self.loading.tell("check", notice=sentence)
        elif self.lm is not None:
            info = self.info(self.lm) if sentence is None else None
            self.post({"type": "recovering", "message": sentence, "info": info})

    async def generate(self, number: int, message: Message) -> None:
        """Posts the seed, then batches of pieces; the last piece has a finish reason.

        Generations at the same time take turns in the model, in the order they came. message:
        "prompt", "options", and where a worker that died had begun it "resume", of each row what
        has come: its "ids", the number of "characters", and whether it is "finished".
        """
        stream = self.loaded().stream(message["prompt"], **message["options"])
        if "resume" in message:
            stream.resume([Sent(**row) for row in message["resume"]])
        generation = Generation(number, stream, self.post)
        self.under_way[number] = generation
        try:
            await generation.run()
        finally:
            del self.under_way[number]

    def tokenize(
        self, text: str, *, as_prompt: bool = False, parse_special: bool = False
    ) -> list[int]:
        """The ids of a text; as_prompt: with what stands before a prompt."""
        if as_prompt:
            return self.loaded().prompt_ids(text, parse_special)
        tokenizer = self.tokenizer()
        ids: list[int] = tokenizer.tokenize(text) if parse_special else tokenizer.encode_plain(text)
        return ids

    async def score(self, text: str | list[int], *, top: int = 0) -> list[Message]:
        """How likely each id of a text is, with `top` others in its place."""
        found = await self.loaded().log_probabilities_async(text, False, top=top)
        return [
            {"id": id_, "logprob": logprob, "top": rest[0] if rest else None}
            for id_, logprob, *rest in found
        ]

    def cancel(self, number: int) -> None:
        """Cancels a generation, running or waiting; does nothing for one that is over."""
        if number in self.under_way:
            self.under_way[number].stream.cancel()

    def close(self) -> None:
        """Frees the model's GPU memory."""
        if self.lm is not None:
            self.lm.close()
            self.lm = None
            self.views = Views()  # the open ones were closed with it

    def loaded(self) -> GPT2CausalLM:
        if self.lm is None:
            raise ValueError("no model is loaded: load one first")
        return self.lm

    def tokenizer(self) -> GPT2Tokenizer:
        return self.loaded().tokenizer

    def result(self, number: int, value: object) -> None:
        self.post({"type": "result", "id": number, "value": value})


class Loading:
    """A load under way: posts how far it is.

    While bytes are still to come, only the download is told of: tests, tensors and pipelines go on
    beside it.
    """

    def __init__(self, number: int, post: Post, paused: bool) -> None:
        self.number = number
        self.post = post
        self.paused = paused
        self.folder: Any = None
        self.downloading = False
        self.stage: tuple[str, int, int] = ("check", 0, 0)  # beside the download
        self.last = 0.0  # when the model's progress was posted, in seconds

    def begin(self, folder: object) -> None:
        """The folder is open: the self-test comes before the weights."""
        self.folder = folder
        self.pause(self.paused)
        self.tell("check")

    def pause(self, paused: bool) -> None:
        """Pauses the download or lets it go on, where there is one."""
        self.paused = paused
        change = getattr(self.folder, "pause" if paused else "resume", None)
        if change is not None:
            change()

    def end(self) -> None:
        if hasattr(self.folder, "close"):
            self.folder.close()

    def download(self, done: int, total: int, stored: int, notice: str | None) -> None:
        told = {"done": done, "total": total, "stored": stored, "notice": notice}
        self.post({"type": "progress", "id": self.number, "stage": "download", **told})
        was, self.downloading = self.downloading, done < total
        if was and not self.downloading:
            self.tell(*self.stage)

    def model(self, done: int, total: int) -> None:
        now = time.monotonic()
        if done < total and now - self.last < PROGRESS_EVERY:
            return
        self.last = now
        self.tell("model", done, total)
        if done == total:
            self.tell("prepare")  # pipelines and buffers

    def tell(self, stage: str, done: int = 0, total: int = 0, notice: str | None = None) -> None:
        self.stage = (stage, done, total)
        if not self.downloading or notice is not None:
            told = {"stage": stage, "done": done, "total": total, "notice": notice}
            self.post({"type": "progress", "id": self.number, **told})


class Generation:
    """One generation: posts its pieces in batches."""

    def __init__(self, number: int, stream: TextStream, post: Post) -> None:
        self.number = number
        self.stream = stream
        self.post = post
        self.batch: list[Message] = []  # pieces not posted yet
        self.tokens = 0
        self.started = self.last = time.monotonic()  # seconds
        self.first: float | None = None  # seconds from the start to the first token

    async def run(self) -> None:
        self.post({"type": "started", "id": self.number, "seed": self.stream.seed})
        try:
            async with self.stream:
                async for piece in self.stream:
                    self.add(piece)
        finally:
            self.flush()

    def add(self, piece: Piece) -> None:
        self.last = time.monotonic()
        self.tokens += len(piece.ids)
        if self.first is None and piece.ids:
            self.first = self.last - self.started
        if not self.batch:
            # Runs once the stream waits for the GPU: what one readback brought travels together.
            asyncio.get_running_loop().call_soon(self.flush)
        self.batch.append(for_javascript(piece))

    def flush(self) -> None:
        if not self.batch:
            return
        seconds = self.last - self.started
        timing = {"tokens": self.tokens, "firstToken": self.first, "seconds": seconds}
        self.post({"type": "pieces", "id": self.number, "pieces": self.batch, "timing": timing})
        self.batch = []


def for_javascript(piece: Piece) -> Message:
    """A piece as a dict, keys in camelCase."""
    return {
        "text": piece.text,
        "ids": piece.ids,
        "logprobs": piece.logprobs,
        "top": piece.top,
        "row": piece.row,
        "finishReason": piece.finish_reason,
    }


def describe(error: Exception, edited: Collection[str] = ()) -> Message:
    """An exception as {name, code, message, detail, place}: the code is one of docs/errors.md,
    detail the traceback, for developers; place, where files were edited, {file, line} or None.

    A public error speaks for itself; of any other the message says that something is broken here,
    or in the edited files.
    """
    detail = "".join(traceback.format_exception(error))
    file, line = (sources.place_of(error, edited) if edited else None) or (None, 0)
    place = {"file": file, "line": line} if file else None
    code = getattr(error, "code", None)
    # What no check of the shaders has found, with the constants of this model for instance. A
    # device's other codes have reasons of their own.
    of_shader = code == DeviceError.code and any(path.endswith(".wgsl") for path in edited)
    for public in PUBLIC_ERRORS:
        # TypeError and ValueError are Python's own, too
        if isinstance(error, public) and not of_shader and (code or file not in edited):
            code = code or "option-invalid"
            told = {"name": public.__name__, "code": code, "message": str(error)}
            return {**told, "detail": detail, "place": place}
    name = type(error).__name__
    if edited:
        kind = "WGSL" if of_shader or isinstance(error, ShaderError) else name
        said = error.msg if isinstance(error, SyntaxError) else str(error)
        if of_shader:  # where Python was when it came tells nothing of the shader
            place = file = None
        where = f"{file}, line {line}: " if file else ""
        message = (
            f"The edited gpt2web failed: {where}{kind}: {said.rstrip('.')}. "
            "Correct that, or load the model without edits."
        )
        told = {"name": "EditError", "code": "edit-failed", "message": message}
        return {**told, "detail": detail, "place": place}
    message = f"Something in gpt2web went wrong that should not have ({name}: {error})."
    told = {"name": name, "code": "internal", "message": message}
    return {**told, "detail": detail, "place": None}


def camel_case(name: str) -> str:
    """
    >>> camel_case("gpu_bytes")
    'gpuBytes'
    """
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)
