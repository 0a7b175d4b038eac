"""GPT2CausalLM: a backbone with its tied head and a tokenizer, from prompt to text."""

from __future__ import annotations

import operator
import sys
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from gpt2web import sampler as samplers
from gpt2web import selftest
from gpt2web.backbone import Decoder, GPT2Backbone
from gpt2web.checkpoint import CheckpointError, Folder, LocalFolder, open_checkpoint
from gpt2web.config import GPT2Config
from gpt2web.generate import Request, Run, Session, TextStream, collect
from gpt2web.gpu import MAX_ROWS, Device, block_on
from gpt2web.preprocessor import GPT2CausalLMPreprocessor
from gpt2web.safetensors import parse_json
from gpt2web.sampling import Sampling
from gpt2web.tokenizer import GPT2Tokenizer
from gpt2web.turn import Turn
from gpt2web.weights import Progress

MAX_ALTERNATIVES = 100  # log-probabilities of other ids with each id


class GPT2CausalLM:
    """GPT-2 with its language-modelling head, which is the token embedding again.

    Args:
        backbone: a GPT2Backbone.
        preprocessor: a GPT2CausalLMPreprocessor, for text; None for ids only.
    """

    def __init__(
        self, backbone: GPT2Backbone, preprocessor: GPT2CausalLMPreprocessor | None = None
    ) -> None:
        if preprocessor is not None:
            size = preprocessor.tokenizer.vocabulary_size()
            if size != backbone.config.vocabulary_size:
                raise ValueError(
                    f"the tokenizer has {size:,} ids, the model "
                    f"{backbone.config.vocabulary_size:,}: they must come from the same model"
                )
        self.backbone = backbone
        self.preprocessor = preprocessor
        self.name = "gpt2_causal_lm"
        self.add_start_token = False  # before a streamed prompt; from generation_config.json
        self.self_test = "not run"
        self.turn = Turn()
        self.sampler = samplers.get("top_k")
        self._decoder: Decoder | None = None
        self._sessions: dict[int, Session] = {}  # of the decoder, by number of alternatives
        self._closed = False

    # Loading.

    @classmethod
    async def from_preset_async(
        cls,
        preset: str | Path | Folder,
        *,
        precision: str | None = None,
        adapter: str | None = None,
        base_url: str | None = None,
        progress: Progress | None = None,
    ) -> GPT2CausalLM:
        """Load a model folder in Hugging Face's layout onto the GPU.

        Args:
            preset: a bundled model's name ("stories"), a local folder, or a Folder.
            precision: how matrices are stored, "f32" or "f16"; None takes f16 where the checkpoint
                itself holds no more, else f32. Arithmetic is f32 either way.
            adapter: part of the name of the GPU to use; natively only.
            base_url: in the page, where models/ lies.
            progress: called with (bytes done, bytes in all).

        Raises CheckpointError for what lies in the folder, DeviceError for the GPU.
        """
        folder = open_folder(preset, base_url) if isinstance(preset, str | Path) else preset
        config = await _read_config(folder)
        preprocessor = GPT2CausalLMPreprocessor(
            await _read_tokenizer(folder, config), sequence_length=config.max_sequence_length
        )
        add_start_token = await _reads_start_token(folder)
        checkpoint = await open_checkpoint(folder, config)
        device = None
        try:
            if precision is None:
                only_f16 = all(entry.dtype == "F16" for entry in checkpoint.entries)
                precision = "f16" if only_f16 else "f32"
            device = await Device.request(adapter)
            precision, self_test = await selftest.run(device, precision)
            backbone = GPT2Backbone.from_config(config, precision=precision, device=device)
            await backbone.load(checkpoint, progress)
            lm = cls(backbone, preprocessor)
            lm.name = folder.name
            lm.self_test = self_test
            lm.add_start_token = add_start_token
            await lm._warm_up()
        except BaseException:
            if device is not None:
                device.destroy()
            raise
        finally:
            checkpoint.close()
        return lm

    @classmethod
    def from_preset(cls, preset: str | Path | Folder, **options: Any) -> GPT2CausalLM:
        """from_preset_async, natively, to its end."""
        return block_on(cls.from_preset_async(preset, **options), "GPT2CausalLM.from_preset_async")

    async def _warm_up(self) -> None:
        """Run every pipeline of a single row once: drivers compile them at their first use."""
        session = await self.session(1, self.backbone.config.max_sequence_length, 0)
        run = Run(session, [Request([0, 0], Sampling(), 0, 0, 1, frozenset())])
        await run.prefill()
        await run.read()
        session.decoder.device.submit(session.long_step)  # the row is done: nothing is computed
        await session.decoder.device.settled()
        session.decoder.cached[0] = []

    @property
    def info(self) -> dict[str, Any]:
        """What is running: adapter, precision, kernels, self-test, sizes."""
        device, config = self.backbone.device, self.backbone.config
        return {
            "model": self.name,
            **(device.info if device else {"adapter": "", "backend": "", "software": False}),
            "precision": self.backbone.precision,
            "kernels": device.kernels if device else [],
            "self_test": self.self_test,
            "parameters": config.num_parameters,
            "gpu_bytes": device.live_bytes if device else 0,
            "context": config.max_sequence_length,
        }

    def close(self) -> None:
        """Free everything on the GPU. The model is of no use then; a stream of it raises."""
        self._closed = True
        self._drop_decoder()
        self.backbone.destroy()
        if self.backbone.device is not None:
            self.backbone.device.destroy()
            self.backbone.device = None

    # Generation.

    def compile(self, sampler: str | samplers.Sampler = "top_k") -> None:
        """Choose how generate() samples: a name or a sampler."""
        self.sampler = samplers.get(sampler)

    def stream(
        self,
        prompt: str | Sequence[str],
        *,
        max_new_tokens: int | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float = 1.0,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        logprobs: int = 0,
        parse_special: bool = False,
        steps_per_submit: int | None = None,
    ) -> TextStream:
        """Continue a prompt, or several as the rows of a batch: an async iterator of Piece.

        Args:
            prompt: text; taken as typed, unless parse_special, which reads <|endoftext|> in it.
            max_new_tokens: ids to generate; None goes on to the end of the context.
            temperature, top_k, top_p, min_p, repetition_penalty: see sampling.Sampling.
            seed: 0 to 2^32 - 1; row r of a batch is what it would be alone with seed + r. None
                draws one, in the stream's `seed`.
            stop: text, or several, that ends a row; it is never part of a piece.
            logprobs: how many alternatives to report with each id; 0 reports no probabilities.
            steps_per_submit: forces K, the steps in one submit (1 to 64).

        Raises TypeError and ValueError at once, DeviceError from the iterator.
        """
        tokenizer = self._tokenizer()
        sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty)
        checked_seed = samplers.check_seed(seed)
        seed = samplers.draw_seed() if checked_seed is None else checked_seed
        logprobs = _count("logprobs", logprobs, 0, MAX_ALTERNATIVES)
        if max_new_tokens is not None:
            max_new_tokens = _count("max_new_tokens", max_new_tokens, 1)
        if steps_per_submit is not None:
            steps_per_submit = _count("steps_per_submit", steps_per_submit, 1, 64)
        stops = (stop,) if isinstance(stop, str) else _texts("stop", () if stop is None else stop)
        if "" in stops:
            raise ValueError(f"stop must be text that is not empty, or a list of it, got {stop!r}")
        prompts = (prompt,) if isinstance(prompt, str) else _texts("prompt", prompt)
        if not 1 <= len(prompts) <= MAX_ROWS:
            raise ValueError(f"stream takes 1 to {MAX_ROWS} prompts, got {len(prompts)}")

        context = self.backbone.config.max_sequence_length
        requests, reasons = [], []
        for row, text in enumerate(prompts):
            ids = self.prompt_ids(text, parse_special)
            if len(ids) > context:
                raise ValueError(
                    f"the prompt has {len(ids):,} tokens, the model's context holds {context:,}: "
                    "shorten it, or keep its end"
                )
            room = context - len(ids)
            limit = room if max_new_tokens is None else min(room, max_new_tokens)
            reasons.append("length" if limit == max_new_tokens else "context")
            stop_ids = frozenset([tokenizer.end_token_id])
            row_seed = (seed + row) & 0xFFFFFFFF
            requests.append(Request(ids, sampling, row_seed, 0, limit, stop_ids))
        return TextStream(
            self,
            tokenizer,
            requests,
            reasons=reasons,
            stop=stops,
            alternatives=logprobs,
            steps_per_submit=steps_per_submit,
            seed=seed,
            length=self._length(requests),
        )

    def prompt_ids(self, text: str, parse_special: bool = False) -> list[int]:
        """The ids that `stream` continues: the text's, behind <|endoftext|> where the model wants
        it, or where there is no text."""
        tokenizer = self._tokenizer()
        ids: list[int] = tokenizer.tokenize(text) if parse_special else tokenizer.encode_plain(text)
        if self.add_start_token or not ids:
            ids = [tokenizer.start_token_id, *ids]
        return ids

    async def generate_async(
        self,
        inputs: str | Sequence[str],
        max_length: int | None = None,
        stop_token_ids: str | Sequence[int] | None = "auto",
        strip_prompt: bool = False,
    ) -> str | list[str]:
        """Continue texts with the compiled sampler: text in, text out; a list in, a list out.

        Args:
            inputs: text, in which <|endoftext|> is special; the prompt is cut at max_length.
            max_length: ids of prompt and continuation together, the start token counted; None is
                the preprocessor's sequence_length.
            stop_token_ids: ids that end a text; "auto" is the end token, None none.
            strip_prompt: return only what follows the prompt.
        """
        tokenizer = self._tokenizer()
        assert self.preprocessor is not None
        context = self.backbone.config.max_sequence_length
        if max_length is None:
            max_length = min(self.preprocessor.sequence_length, context)
        max_length = _count("max_length", max_length, 1)
        if max_length > context:
            raise ValueError(
                f"max_length is {max_length:,}, the model's context holds {context:,} tokens"
            )
        stop_ids = self._stop_ids(stop_token_ids)
        texts = (inputs,) if isinstance(inputs, str) else _texts("inputs", inputs)
        sampler, requests = self.sampler, []
        for row, text in enumerate(texts):
            ids: list[int] = tokenizer.tokenize(text)
            if self.preprocessor.add_start_token or not ids:
                ids = [tokenizer.start_token_id, *ids]
            ids = ids[:max_length]
            seed = (sampler.seed + row) & 0xFFFFFFFF
            limit = max_length - len(ids)
            requests.append(Request(ids, sampler.sampling, seed, sampler.calls, limit, stop_ids))
        sampler.calls += 1
        results = []
        for start in range(0, len(requests), MAX_ROWS):
            batch = requests[start : start + MAX_ROWS]
            generated = await collect(self, batch, self._length(batch))
            for request, new_ids in zip(batch, generated, strict=True):
                kept = new_ids if strip_prompt else request.prompt + new_ids
                special = set(tokenizer.special_token_ids)
                results.append(tokenizer.detokenize([i for i in kept if i not in special]))
        return results[0] if isinstance(inputs, str) else results

    def generate(self, inputs: str | Sequence[str], **options: Any) -> str | list[str]:
        """generate_async, natively, to its end."""
        return block_on(self.generate_async(inputs, **options), "generate_async")

    def _stop_ids(self, stop_token_ids: str | Sequence[int] | None) -> frozenset[int]:
        if stop_token_ids is None:
            return frozenset()
        if isinstance(stop_token_ids, str):
            if stop_token_ids != "auto":
                raise ValueError(f'stop_token_ids is "auto", None or ids, got {stop_token_ids!r}')
            return frozenset([self._tokenizer().end_token_id])
        last = self.backbone.config.vocabulary_size - 1
        return frozenset(_count("an id in stop_token_ids", i, 0, last) for i in stop_token_ids)

    async def session(self, rows: int, length: int, alternatives: int) -> Session:
        """The buffers and recorded calls for a batch; those of the last shape are kept."""
        if self._closed:
            raise RuntimeError("this model was closed: load it again")
        device, weights = await self.backbone.ready()
        decoder = self._decoder
        if decoder is None or (decoder.rows, decoder.length) != (rows, length):
            self._drop_decoder()
            decoder = Decoder(device, self.backbone.config, weights, rows, length)
            self._decoder = decoder
        if alternatives not in self._sessions:
            self._sessions[alternatives] = Session(decoder, alternatives)
        return self._sessions[alternatives]

    def _drop_decoder(self) -> None:
        for session in self._sessions.values():
            session.destroy()
        self._sessions.clear()
        if self._decoder is not None:
            self._decoder.destroy()
            self._decoder = None

    def _length(self, requests: Sequence[Request]) -> int:
        """Cache slots a row: one row gets the whole context, so that it can always go on."""
        context = self.backbone.config.max_sequence_length
        if len(requests) == 1:
            return context
        needed = max(len(request.prompt) + request.limit for request in requests)
        return min(context, -(-needed // 64) * 64)

    def _tokenizer(self) -> GPT2Tokenizer:
        if self.preprocessor is None:
            raise ValueError("this model has no preprocessor: give it one, or pass token ids")
        return self.preprocessor.tokenizer


def open_folder(preset: str | Path, base_url: str | None = None) -> Folder:
    """The folder of a bundled model's name, or of a path; in the page models/<name> at base_url."""
    if sys.platform == "emscripten":
        from gpt2web.webgpu import FetchFolder

        return FetchFolder(f"{base_url or ''}models/{preset}")
    if isinstance(preset, str) and "/" not in preset:
        bundled = files("gpt2web.models") / preset
        if bundled.is_dir():
            return LocalFolder(str(bundled))
    if Path(preset).is_dir():
        return LocalFolder(preset)
    raise CheckpointError(
        f"no model at {str(preset)!r}: wanted a bundled model (stories), or a folder with "
        "config.json, merges.txt and model.safetensors"
    )


async def _read_config(folder: Folder) -> GPT2Config:
    try:
        text = await folder.read_text("config.json")
    except FileNotFoundError:
        raise CheckpointError(
            f"{folder.name} has no config.json: wanted a model folder in Hugging Face's layout "
            "(config.json, merges.txt, model.safetensors)"
        ) from None
    fields = parse_json(f"{folder.name}/config.json", text)
    if not isinstance(fields, dict):
        raise CheckpointError(f"{folder.name}/config.json: wanted an object, got {text[:40]!r}")
    try:
        return GPT2Config.from_hugging_face(fields)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{folder.name}/config.json: {error}") from error


async def _read_tokenizer(folder: Folder, config: GPT2Config) -> GPT2Tokenizer:
    """The vocabulary follows from the merges; vocab.json is not needed."""
    try:
        merges = (await folder.read_text("merges.txt")).splitlines()
    except FileNotFoundError:
        raise CheckpointError(
            f"{folder.name} has no merges.txt: the tokenizer's merges are needed, a line each"
        ) from None
    try:
        tokenizer = GPT2Tokenizer(None, merges)
    except ValueError as error:
        raise CheckpointError(f"{folder.name}/merges.txt: {error}") from error
    size = tokenizer.vocabulary_size()
    if size != config.vocabulary_size:
        raise CheckpointError(
            f"{folder.name}: merges.txt makes {size:,} tokens, config.json says vocab_size "
            f"{config.vocabulary_size:,}: the two are not of one model"
        )
    return tokenizer


async def _reads_start_token(folder: Folder) -> bool:
    """Whether the model was trained with <|endoftext|> before each text."""
    try:
        text = await folder.read_text("generation_config.json")
    except FileNotFoundError:
        return False
    fields = parse_json(f"{folder.name}/generation_config.json", text)
    return isinstance(fields, dict) and bool(fields.get("add_start_token"))


def _texts(name: str, value: object) -> tuple[str, ...]:
    """value as texts."""
    if not isinstance(value, Iterable) or isinstance(value, bytes):
        raise TypeError(f"{name} must be a str or a list of them, got {value!r}")
    texts = tuple(value)
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"{name} must be a str or a list of them, got {text!r} in it")
    return texts


def _count(name: str, value: object, least: int, most: int | None = None) -> int:
    """value as an int from least to most."""
    wanted = f"{name} must be a whole number of at least {least}" + (
        f" and at most {most}" if most is not None else ""
    )
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{wanted}, got {value!r}")
    number = operator.index(value)
    if number < least or (most is not None and number > most):
        raise ValueError(f"{wanted}, got {number}")
    return number
