"""GPT2CausalLM: a backbone with its tied head and a tokenizer, from prompt to text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakSet

from gpt2web import samplers
from gpt2web.arguments import (
    PromptTooLong,
    count,
    texts_of,
    to_lists,
    to_rows,
    whole_number,
    whole_numbers,
)
from gpt2web.backbone import GPT2Backbone
from gpt2web.blocking import block_on, blocking
from gpt2web.checkpoint import Folder
from gpt2web.chunks import KVCache, hidden_states, logits_of, losses_of, uncached_states
from gpt2web.decoder import Decoder
from gpt2web.generate import Request, Run, Session, Tally, collect
from gpt2web.generation import write
from gpt2web.gpu import MAX_ROWS, Device, DeviceLost, OutOfMemory, Tensor
from gpt2web.head_start import Memory
from gpt2web.inspection import MAX_TOP, Inspection, inspect
from gpt2web.likeliest import likeliest_of
from gpt2web.limits import Parameters
from gpt2web.origin import Origin
from gpt2web.preprocessor import GPT2CausalLMPreprocessor
from gpt2web.preset import (
    hold_to_manifest,
    is_padded,
    open_folder,
    read_config,
    read_tokenizer,
    reads_start_token,
)
from gpt2web.progress import Progress, shown
from gpt2web.prompts import filled, prompt_rows, prompts_of, resized, without
from gpt2web.sampler import check_seed, draw_seed
from gpt2web.sampling import Sampling
from gpt2web.search import Beam, search
from gpt2web.searchers import BeamSampler, ContrastiveSampler
from gpt2web.stream import TextStream
from gpt2web.tokenizer import GPT2Tokenizer
from gpt2web.turn import Turn
from gpt2web.weights import Weights

MAX_ALTERNATIVES = 100  # log-probabilities of other ids with each id


class GPT2CausalLM:
    """GPT-2 with its language-modelling head, which is the token embedding again.

    Args:
        backbone: a GPT2Backbone.
        preprocessor: a GPT2CausalLMPreprocessor, for text; None for ids only.
    """

    def __init__(
        self,
        backbone: GPT2Backbone,
        preprocessor: GPT2CausalLMPreprocessor | None = None,
        *,
        name: str = "gpt2_causal_lm",
        trainable: bool = True,
    ) -> None:
        if preprocessor is not None:
            size = preprocessor.tokenizer.id_count()
            if not is_padded(size, backbone.config.vocabulary_size):
                raise ValueError(
                    f"the tokenizer has {size:,} ids, the model "
                    f"{backbone.config.vocabulary_size:,}: they must come from the same model"
                )
        self.backbone = backbone
        self.preprocessor = preprocessor
        self.name = name
        self.trainable = trainable  # kept in the config: this is inference
        self.add_start_token = False  # before a streamed prompt; from generation_config.json
        self.origin: Origin | None = None  # where the weights came from, if from a folder
        self.turn = Turn()
        self.sampler = samplers.get("top_k")
        self._decoder: Decoder | None = None
        self._sessions: dict[int, Session] = {}  # of the decoder, by number of alternatives
        self.inspections: WeakSet[Inspection] = WeakSet()

    # Loading.

    @classmethod
    async def from_preset_async(
        cls,
        preset: str | Path | Folder,
        *,
        precision: str | None = None,
        adapter: str | None = None,
        base_url: str | None = None,
        progress: Progress = None,
        memory: Memory | None = None,
        recovering: Callable[[str | None], object] | None = None,
        tested: bool = True,
    ) -> GPT2CausalLM:
        """Load a model folder in Hugging Face's layout onto the GPU.

        Args:
            preset: a bundled model's name ("stories"), a local folder, or a Folder.
            precision: how matrices are kept on the GPU: "f32", "f16", "int8" (a scale for each 32
                weights) or "int4" (a scale for each 16; the embedding, which is also the head, in
                int8). None takes what the folder holds: f32 for bf16. Floats are packed to any of
                them while they load; what is stored in int8 or int4 stays that. Arithmetic is f32
                whatever it is.
            adapter: part of the name of the GPU to use; natively only.
            base_url: in the page, where models/ lies.
            progress: of its bytes: see progress.py.
            memory: in the page, what earlier visits found out: a self-test that has passed is not
                run again, and pipelines are compiled before Python is up.
            recovering: called with a sentence when the weights begin to be put on another device
                because theirs was lost, now or later, and with None when that is over.
            tested: whether the GPU has to pass the self-test first. False is for kernels of your
                own, which compute something else.

        A GPU without room for the precision gets the next smaller one, and `info` has a notice.
        Raises CheckpointError for what lies in the folder, also weights that are not finite;
        DeviceError for the GPU; ValueError for a precision that the folder cannot be had in.
        """
        if not isinstance(preset, str | Path) and not hasattr(preset, "read_text"):
            raise TypeError(f"preset is a name, a path, a URL or a Folder, got {preset!r}")
        folder = open_folder(preset, base_url) if isinstance(preset, str | Path) else preset
        folder = await hold_to_manifest(folder)
        config = await read_config(folder)
        preprocessor = GPT2CausalLMPreprocessor(
            await read_tokenizer(folder, config), sequence_length=config.max_sequence_length
        )
        add_start_token = await reads_start_token(folder)
        lm = cls(GPT2Backbone.from_config(config), preprocessor)
        lm.name = folder.name
        lm.add_start_token = add_start_token
        lm.origin = Origin(folder, precision, adapter, memory, recovering, tested)
        with shown(progress, "loading", "B") as report:
            await lm.origin.start(lm.backbone, report, lm._warm_up)
        lm.backbone.restart = lm.origin.start
        return lm

    @classmethod
    def from_preset(cls, preset: str | Path | Folder, **options: Any) -> GPT2CausalLM:
        """from_preset_async, natively, to its end."""
        return block_on(cls.from_preset_async(preset, **options), "GPT2CausalLM.from_preset_async")

    async def _warm_up(self) -> None:
        """Run every pipeline of a single row once: drivers compile them at their first use, but for
        those that were compiled on their own."""
        assert self.backbone.weights is not None
        length = self.backbone.config.max_sequence_length
        session = await self._session(self.backbone.weights, 1, length, 0)
        device = session.decoder.device
        if device.used.keys() <= device.compiled:
            return
        run = Run(session, [Request([0, 0], Sampling(), 0, 0, 1, frozenset())])
        await run.prefill()
        await run.read()
        # what only a long cache needs, one call of each: the row is done, nothing is computed
        device.submit(list({c.kernel: c for c in session.long_step}.values()))
        await device.settled()
        session.decoder.cached[0] = []

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, nested; weights are not part of it."""
        return {
            "name": self.name,
            "trainable": self.trainable,
            "backbone": self.backbone.get_config(),
            "preprocessor": self.preprocessor.get_config() if self.preprocessor else None,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> GPT2CausalLM:
        """A model of a config from get_config, with new weights."""
        rest = dict(config)
        preprocessor = rest.pop("preprocessor", None)
        return cls(
            GPT2Backbone.from_config(rest.pop("backbone")),
            GPT2CausalLMPreprocessor.from_config(preprocessor) if preprocessor else None,
            **rest,
        )

    def count_params(self) -> int:
        """The number of weights; the head is the token embedding, so it is counted once."""
        return self.backbone.count_params()

    def parameters(self) -> Parameters:
        """A map of the model: GPT2Backbone.parameters."""
        return self.backbone.parameters()

    def summary(self) -> str:
        """Preprocessor and model, with shapes and parameters, as a table."""
        table = self.backbone.config.summary()
        if self.preprocessor is None:
            return table
        size = self.preprocessor.tokenizer.vocabulary_size()
        return f"{type(self.preprocessor.tokenizer).__name__}: {size:,} tokens\n{table}"

    @property
    def info(self) -> dict[str, Any]:
        """What is running: adapter, precision, kernels, self-test, sizes; notice: a sentence where
        the precision is not the one asked for, else None."""
        device, config, origin = self.backbone.device, self.backbone.config, self.origin
        return {
            "model": self.name,
            **(device.info if device else {"adapter": "", "backend": "", "software": False}),
            "precision": self.backbone.precision,
            "kernels": device.kernels if device else [],
            "self_test": origin.self_test if origin else "not run",
            "notice": origin.notice if origin else None,
            "parameters": config.num_parameters,
            "gpu_bytes": device.live_bytes if device else 0,
            "context": config.max_sequence_length,
        }

    def close(self) -> None:
        """Free everything on the GPU, but for a device that was given. The model is of no use
        then: calls raise DeviceError."""
        for inspection in list(self.inspections):
            inspection.close()
        self._drop_decoder()
        self.backbone.destroy()

    # Generation.

    def compile(self, sampler: str | Mapping[str, Any] | samplers.Sampler | None = "top_k") -> None:
        """Choose how generate() samples: what samplers.get takes, and None for the default."""
        self.sampler = samplers.get("top_k" if sampler is None else sampler)

    def stream(
        self,
        prompt: str | Sequence[int] | Sequence[str | Sequence[int]],
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
            prompt: text, taken as typed, unless parse_special, which reads <|endoftext|> in it; or
                token ids, which are read as they are, with nothing put before them; or a list of
                those.
            max_new_tokens: ids to generate; None goes on to the end of the context.
            temperature, top_k, top_p, min_p, repetition_penalty: see sampling.Sampling.
            seed: 0 to 2^32 - 1; row r of a batch is what it would be alone with seed + r. None
                draws one, in the stream's `seed`.
            stop: text, or several, that ends a row; it is never part of a piece.
            logprobs: how many alternatives to report with each id; 0 reports no probabilities.
            steps_per_submit: forces K, the steps in one submit (1 to 64).

        Raises TypeError and ValueError at once, DeviceError from the iterator.
        """
        tokenizer = self.tokenizer
        sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty)
        checked_seed = check_seed(seed)
        seed = draw_seed() if checked_seed is None else checked_seed
        logprobs = count("logprobs", logprobs, 0, MAX_ALTERNATIVES)
        if max_new_tokens is not None:
            max_new_tokens = count("max_new_tokens", max_new_tokens, 1)
        if steps_per_submit is not None:
            steps_per_submit = count("steps_per_submit", steps_per_submit, 1, 64)
        stops = (stop,) if isinstance(stop, str) else texts_of("stop", () if stop is None else stop)
        if "" in stops:
            raise ValueError(f"stop must be text that is not empty, or a list of it, got {stop!r}")
        prompts = prompts_of(prompt)
        if not 1 <= len(prompts) <= MAX_ROWS:
            raise ValueError(f"stream takes 1 to {MAX_ROWS} prompts, got {len(prompts)}")

        context = self.backbone.config.max_sequence_length
        stop_ids = frozenset([tokenizer.end_token_id])
        requests, reasons = [], []
        for row, given in enumerate(prompts):
            if isinstance(given, str):
                ids = self.prompt_ids(given, parse_special)
            else:
                self.backbone.check_row(given, "prompt")
                ids = given or self.prompt_ids("")
            if len(ids) > context:
                raise PromptTooLong(
                    f"the prompt has {len(ids):,} tokens, the model's context holds {context:,}: "
                    "shorten it, or keep its end"
                )
            room = context - len(ids)
            limit = room if max_new_tokens is None else min(room, max_new_tokens)
            reasons.append("length" if limit == max_new_tokens else "context")
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

    async def write_async(
        self,
        prompt: str | Sequence[int] | Sequence[str | Sequence[int]],
        *,
        max_new_tokens: int | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float = 1.0,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        parse_special: bool = False,
        steps_per_submit: int | None = None,
        top: int = 5,
        show: bool | None = None,
    ) -> Any:
        """What `stream` writes, as a whole: a Generation, and for a list of prompts Generations.

        Args:
            prompt and the others: as stream has them.
            top: how many alternatives to keep with each token (1 to 100).
            show: whether it can be watched while it is written, in a notebook in colours, elsewhere
                as text on standard output. None: in a notebook only.

        Natively, while the plain form is watched, an interrupt ends the text and gives back what
        there is, with the finish_reason "cancelled"; a second one, or the first of a text that is
        not shown, raises KeyboardInterrupt.
        """
        settings: dict[str, Any] = {
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "min_p": min_p,
            "repetition_penalty": repetition_penalty,
            "seed": seed,
            "stop": stop,
            "parse_special": parse_special,
        }
        top = count("top", top, 1, MAX_ALTERNATIVES)
        stream = self.stream(prompt, logprobs=top, steps_per_submit=steps_per_submit, **settings)
        rows = prompts_of(prompt)
        tokenizer = self.tokenizer
        start = [tokenizer.start_token_id]  # is not part of the text
        texts = [
            row
            if isinstance(row, str)
            else tokenizer.detokenize(row[1:] if row[:1] == start else row)
            for row in rows
        ]
        found = await write(stream, texts, settings, self.name, show)
        return found[0] if isinstance(prompt, str) or rows == [to_lists(prompt)] else found

    write = blocking(write_async)

    def prompt_ids(self, text: str, parse_special: bool = False) -> list[int]:
        """The ids that `stream` continues: the text's, behind <|endoftext|> where the model wants
        it, or where there is no text."""
        tokenizer = self.tokenizer
        ids: list[int] = tokenizer.tokenize(text) if parse_special else tokenizer.encode_plain(text)
        if self.add_start_token or not ids:
            ids = [tokenizer.start_token_id, *ids]
        return ids

    async def generate_async(
        self,
        inputs: Any,
        max_length: int | None = None,
        stop_token_ids: str | Sequence[int] | None = "auto",
        strip_prompt: bool = False,
        *,
        progress: Progress = None,
    ) -> Any:
        """Continue prompts with the compiled sampler.

        Args:
            inputs: a text, or a list of them, in which <|endoftext|> is special; or, with ids in
                and out, {"token_ids", "padding_mask"}, a row or a batch, whose masks begin each row
                and are True where the prompt is.
            max_length: ids of prompt and continuation together, the start token counted; None is
                the preprocessor's sequence_length, or the ids' own length. A longer prompt is cut.
            stop_token_ids: ids that end a row; "auto" is the end token, None none.
            strip_prompt: return only what follows the prompt.
            progress: of the ids to generate, which are fewer where rows end early: see progress.py.

        Returns what came in: a text, a list, or a dict whose mask is True through the first new
        stop id. With BeamSampler(return_all_beams=True), for each text its beams, [(text, score)],
        best first; and what generate_step gives. Raises ValueError for a max_length beyond the
        context, and for what is no prompt.
        """
        if self.preprocessor is None and not isinstance(inputs, Mapping):
            raise ValueError("this model has no preprocessor: pass token_ids and padding_mask")
        stop_ids = self._stop_ids(stop_token_ids)
        if max_length is not None:
            context = self.backbone.config.max_sequence_length
            max_length = count("max_length", max_length, 1)
            if max_length > context:
                raise ValueError(
                    f"max_length is {max_length:,}, the model's context holds {context:,} tokens"
                )
        if isinstance(inputs, Mapping):
            prompt = resized(inputs, max_length)
        else:
            assert self.preprocessor is not None
            texts = list(inputs) if isinstance(inputs, Iterator) else inputs
            length = max_length or min(
                self.preprocessor.sequence_length, self.backbone.config.max_sequence_length
            )
            prompt = self.preprocessor.generate_preprocess(texts, length)
        outputs = await self.generate_step_async(prompt, stop_ids, progress=progress)
        if strip_prompt:
            outputs["padding_mask"] = without(outputs["padding_mask"], prompt["padding_mask"])
        if isinstance(inputs, Mapping):
            return outputs
        return self._as_texts(outputs)

    generate = blocking(generate_async)

    def _as_texts(self, outputs: Mapping[str, Any]) -> Any:
        """What generate_step gave, as a text or a list; of all beams as (text, score)."""
        assert self.preprocessor is not None
        if "scores" not in outputs:
            return self.preprocessor.generate_postprocess(outputs)
        ids, masks, scores = (outputs[name] for name in ("token_ids", "padding_mask", "scores"))
        if scores and not isinstance(scores[0], list):
            beams = {"token_ids": ids, "padding_mask": masks}
            return list(zip(self.preprocessor.generate_postprocess(beams), scores, strict=True))
        return [
            self._as_texts({"token_ids": i, "padding_mask": m, "scores": s})
            for i, m, s in zip(ids, masks, scores, strict=True)
        ]

    async def generate_step_async(
        self,
        inputs: Mapping[str, Any],
        stop_token_ids: Iterable[int] | None = None,
        *,
        progress: Progress = None,
    ) -> dict[str, Any]:
        """Fill rows of ids behind their prompts, with the compiled sampler.

        Args:
            inputs: {"token_ids": [batch, length], "padding_mask": the same}; each row begins with
                its prompt, where the mask is True. One row may come flat.
            stop_token_ids: ids after which a row is left as it was.
            progress: of the ids: see progress.py.

        Returns {"token_ids", "padding_mask"} of the same shape: prompts are never overwritten, the
        mask is True through the first new stop id. With BeamSampler(return_all_beams=True) each row
        becomes its beams, best first, [batch, beams, length], and "scores" [batch, beams] joins.
        """
        stop_ids = self._checked_stops(stop_token_ids)
        rows, masks, batched = prompt_rows(inputs)
        sampler, sampling = self.sampler, self.sampler.sampling
        requests = []
        for row, (ids, mask) in enumerate(zip(rows, masks, strict=True)):
            prompt = ids[: sum(mask)]
            self.backbone.check_row(prompt)
            seed = (sampler.seed + row) & 0xFFFFFFFF
            limit = len(ids) - len(prompt)
            requests.append(Request(prompt, sampling, seed, sampler.calls, limit, stop_ids))
        context = self.backbone.config.max_sequence_length
        if rows and len(rows[0]) > context:
            raise PromptTooLong(
                f"token_ids: rows of {len(rows[0]):,} are longer than the model's context, "
                f"{context:,}"
            )
        at_once = MAX_ROWS // sampler.rows_per_prompt
        if at_once == 0:
            raise ValueError(
                f"{type(sampler).__name__} follows {sampler.rows_per_prompt} continuations of a "
                f"prompt at once, a batch has at most {MAX_ROWS} rows"
            )
        sampler.calls += 1
        found: list[list[Beam]] = []
        with shown(progress, "generating") as report:
            tally = Tally(report, requests)
            for start in range(0, len(requests), at_once):
                batch = requests[start : start + at_once]
                tally.begin(start)
                length = self._length(batch, sampler)
                if isinstance(sampler, BeamSampler | ContrastiveSampler):
                    found += await search(self, batch, length, sampler, tally)
                else:
                    rows_ids = await collect(self, batch, length, sampler, tally)
                    found += [[Beam(new, 0.0)] for new in rows_ids]
        beams = [
            [filled(ids, mask, beam.ids) for beam in own]
            for ids, mask, own in zip(rows, masks, found, strict=True)
        ]
        if isinstance(sampler, BeamSampler) and sampler.return_all_beams:
            outputs: dict[str, list[Any]] = {
                "token_ids": [[ids for ids, _ in own] for own in beams],
                "padding_mask": [[mask for _, mask in own] for own in beams],
                "scores": [[beam.score for beam in own] for own in found],
            }
        else:
            outputs = {
                "token_ids": [own[0][0] for own in beams],
                "padding_mask": [own[0][1] for own in beams],
            }
        return outputs if batched else {name: values[0] for name, values in outputs.items()}

    generate_step = blocking(generate_step_async)

    def make_generate_function(self) -> Callable[..., dict[str, Any]]:
        """What generate() runs on ids: generate_step. Nothing is compiled that could be kept."""
        return self.generate_step

    def _stop_ids(self, stop_token_ids: str | Iterable[int] | None) -> frozenset[int]:
        if isinstance(stop_token_ids, str) and stop_token_ids == "auto":
            if self.preprocessor is None:
                raise ValueError(
                    'stop_token_ids="auto" takes the end token from the preprocessor, and this '
                    "model has none: pass ids, or None"
                )
            return frozenset([self.preprocessor.tokenizer.end_token_id])
        return self._checked_stops(stop_token_ids)

    def _checked_stops(self, stop_token_ids: str | int | Iterable[int] | None) -> frozenset[int]:
        if stop_token_ids is None:
            return frozenset()
        ids = whole_numbers(to_lists(stop_token_ids))
        if isinstance(ids, int):
            ids = [ids]
        if isinstance(ids, str) or not isinstance(ids, Iterable):
            raise ValueError(f'stop_token_ids is "auto", None or a list of ids, got {ids!r}')
        ids = list(ids)
        self.backbone.check_row(ids, "stop_token_ids")
        return frozenset(ids)

    # The model as a function.

    async def call_async(self, inputs: Any) -> Tensor:
        """Logits of every token: Tensor [batch, length, vocabulary_size].

        inputs: as GPT2Backbone takes them, and its errors. DeviceError, before anything is
        computed: logits beyond what the adapter's buffers hold; score's losses never need them.
        """
        token_ids, mask = self.backbone.check_inputs(inputs)
        async with self.backbone.computing() as weights:
            _check_logits(weights, token_ids)
            return self._head(weights, await uncached_states(weights, token_ids, mask))

    __call__ = blocking(call_async)

    call = blocking(call_async)

    async def call_with_cache_async(
        self, token_ids: Any, cache: Any, cache_update_index: int
    ) -> tuple[Tensor, Tensor, KVCache]:
        """Run tokens that stand at columns cache_update_index.. over a cache of those before.

        Args:
            token_ids: [batch, n].
            cache: from build_cache, updated in place; or an array in KerasHub's layout,
                [batch, layers, 2, length, heads, head_dim], which is copied.
            cache_update_index: the first token's column.

        Returns logits [batch, n, vocabulary_size], hidden states [batch, n, hidden_dim] after the
        final norm, and the cache. ValueError: a cache of another model or number of rows, columns
        beyond its end. DeviceError: as call.
        """
        ids = self.backbone.check_ids(token_ids)
        index = count("cache_update_index", cache_update_index, 0)
        async with self.backbone.computing() as weights:
            _check_logits(weights, ids)
            if not isinstance(cache, KVCache):
                cache = KVCache.from_array(weights.device, weights.config, cache)
            elif cache.device.lost is not None:
                raise DeviceLost("the cache lay on a GPU device that was lost: build it again")
            elif cache.device is not weights.device or cache.config != weights.config:
                raise ValueError("cache: another model's; wanted one of this model, or an array")
            length = min(cache.length, weights.config.max_sequence_length)
            if len(ids) != cache.rows:
                raise ValueError(f"token_ids has {len(ids)} rows, the cache {cache.rows}")
            if index + len(ids[0]) > length:
                raise ValueError(
                    f"{len(ids[0])} tokens at cache_update_index {index} go beyond the cache's "
                    f"{length}"
                )
            hidden = await hidden_states(weights, cache, ids, index)
            return self._head(weights, hidden), hidden, cache

    call_with_cache = blocking(call_with_cache_async)

    async def build_cache_async(self, token_ids: Any) -> tuple[Tensor, KVCache]:
        """Hidden states [batch, length, hidden_dim] of token_ids [batch, length], and a cache of
        `length` slots that holds them: to go on, pass ids padded to the length wanted in the end.
        """
        ids = self.backbone.check_ids(token_ids)
        async with self.backbone.computing() as weights:
            cache = KVCache(weights.device, weights.config, len(ids), len(ids[0]))
            return await hidden_states(weights, cache, ids), cache

    build_cache = blocking(build_cache_async)

    def _head(self, weights: Weights, hidden: Tensor) -> Tensor:
        rows, n, _ = hidden.shape
        logits = weights.device.tensor((rows, n, weights.config.vocabulary_size))
        weights.device.submit(logits_of(weights, hidden, logits, rows * n))
        return logits

    # Scoring.

    async def score_async(
        self,
        token_ids: Any,
        padding_mask: Any = None,
        scoring_mode: str = "logits",
        target_ids: Any = None,
    ) -> Tensor:
        """Logits [batch, length, vocabulary_size], or with scoring_mode "loss" the cross-entropy of
        target_ids [batch, length] under them, in nats: Tensor [batch, length].

        Losses are taken a chunk at a time: their logits are never held together. ValueError: a mode
        that is neither, targets that are missing or of another shape, and GPT2Backbone's errors.
        """
        if scoring_mode not in ("logits", "loss"):
            raise ValueError(f'scoring_mode is "logits" or "loss", got {scoring_mode!r}')
        inputs = {"token_ids": token_ids, "padding_mask": padding_mask}
        if scoring_mode == "logits":
            return await self.call_async(inputs)
        if target_ids is None:
            raise ValueError('scoring_mode="loss" wants target_ids, the ids that should follow')
        targets = self.backbone.check_ids(target_ids, "target_ids")
        ids, mask = self.backbone.check_inputs(inputs)
        shape, found = [len(ids), len(ids[0])], [len(targets), len(targets[0])]
        if found != shape:
            raise ValueError(f"target_ids: wanted the shape of token_ids, {shape}, got {found}")
        async with self.backbone.computing() as weights:
            hidden = await uncached_states(weights, ids, mask)
            return await losses_of(weights, hidden, [i for row in targets for i in row])

    score = blocking(score_async)

    async def log_probabilities_async(
        self, text: str | Sequence[int], progress: Progress = None, *, top: int = 0
    ) -> list[Any]:
        """Each id of a text with its natural log-probability after those before it.

        Args:
            text: as `stream` has a prompt; ids are read as they are, so the first is told. One that
                is longer than the context is taken in `windows`.
            progress: of its ids, told behind each window: see progress.py.
            top: how many of the likeliest ids in its place to give with each (0 to 100).

        Returns (id, log-probability) of each, and with `top` (id, log-probability, [(id,
        log-probability), ...]).
        """
        windows = self.windows(text)
        top = count("top", top, 0, MAX_ALTERNATIVES)
        total = sum(len(targets) for _, targets in windows)
        found: list[Any] = []
        with shown(progress, "scoring") as report:
            for inputs, targets in windows:
                found += await self._scored(inputs, targets, top)
                if report is not None:
                    report(len(found), total)
        return found

    log_probabilities = blocking(log_probabilities_async)

    async def _scored(self, inputs: list[int], targets: list[int], top: int) -> list[Any]:
        """A window of log_probabilities."""
        async with self.backbone.computing() as weights:
            hidden = await uncached_states(weights, [inputs], None)
            losses = await losses_of(weights, hidden, targets)
            ranked = await likeliest_of(weights, hidden, top) if top else []
        logprobs = [-loss for loss in (await losses.read()).cast("B").cast("f")]
        if not top:
            return list(zip(targets, logprobs, strict=True))
        return list(zip(targets, logprobs, ranked, strict=True))

    def windows(self, text: str | Sequence[int]) -> list[tuple[list[int], list[int]]]:
        """A text in parts of at most the context: (ids, the id that follows each), where each of
        the text's ids follows once.

        Windows begin with <|endoftext|> where the model wants it; else with the last id of the
        window before, and the very first id, which nothing foretells, is left out.
        """
        if isinstance(text, str):
            ids = self.prompt_ids(text)
        else:
            (ids,) = [whole_numbers(to_lists(text))]
            self.backbone.check_row(ids, "text")
        context = self.backbone.config.max_sequence_length
        found = []
        for at in range(1, len(ids), context):  # of the next id to score
            first = ids[at - 1]
            if self.add_start_token and at > 1:
                first = self.tokenizer.start_token_id
            window = [first, *ids[at : at + context]]
            found.append((window[:-1], window[1:]))
        return found

    async def perplexity_async(
        self, text: str | Sequence[int], *, progress: Progress = None
    ) -> float:
        """exp of the mean loss of a text's ids, as log_probabilities_async gives them."""
        found = await self.log_probabilities_async(text, progress)
        if not found:
            raise ValueError("perplexity: the text has no token that another one foretells")
        return math.exp(-math.fsum(logprob for _, logprob in found) / len(found))

    perplexity = blocking(perplexity_async)

    # Looking into it.

    async def inspect_async(
        self, token_ids: Sequence[int], position: int = -1, *, top: int = 10
    ) -> Inspection:
        """What the model computes at one token of a text: what it attends to, what each layer would
        say next, and by `next_tokens` what sampling makes of it. See Inspection.

        Args:
            token_ids: the text, as `stream` has it: prompt_ids and what was generated. What of it
                the cache still holds is not computed again, and a text goes on as if nobody had
                looked.
            position: of the token, from the end where it is negative; it has read all before it.
            top: how many ids of each layer to report (0 to 100; 0 leaves this part out).

        A stream that is being read ends first. ValueError: ids outside the vocabulary, a text
        longer than the context, a position outside of it. DeviceError: a model that was closed, or
        values beyond what the adapter's buffers hold.
        """
        ids = self._one_row("token_ids", token_ids)
        at = range(len(ids))[whole_number(position, "position", -len(ids), len(ids) - 1)]
        top = whole_number(top, "top", 0, MAX_TOP)
        tokenizer = self.preprocessor.tokenizer if self.preprocessor else None
        length = self.backbone.config.max_sequence_length
        return await inspect(self, ids[: at + 1], top, tokenizer, length)

    inspect = blocking(inspect_async)

    def _one_row(self, name: str, token_ids: Any) -> list[int]:
        """Ids of one text, checked."""
        rows, batched = to_rows(whole_numbers(to_lists(token_ids)), name)
        if batched or not rows[0]:
            raise ValueError(f"{name}: wanted a list of ids, at least one, got {token_ids!r}")
        (ids,) = self.backbone.check_ids(rows, name)
        return ids

    async def session(self, rows: int, length: int, alternatives: int) -> Session:
        """The buffers and recorded calls for a batch; those of the last shape are kept."""
        _, weights = await self.backbone.ready()
        return await self._session(weights, rows, length, alternatives)

    async def decoder(self, rows: int, length: int) -> Decoder:
        """The cache and the recorded calls of a batch; those of the last shape are kept."""
        _, weights = await self.backbone.ready()
        return await self._decoder_of(weights, rows, length)

    async def _session(
        self, weights: Weights, rows: int, length: int, alternatives: int
    ) -> Session:
        decoder = await self._decoder_of(weights, rows, length)
        if alternatives not in self._sessions:
            self._sessions[alternatives] = Session(decoder, alternatives)
            await self._allocated(weights.device)
        return self._sessions[alternatives]

    async def _decoder_of(self, weights: Weights, rows: int, length: int) -> Decoder:
        config, decoder = weights.config, self._decoder
        tokens = config.vocabulary_size
        if self.preprocessor is not None:
            tokens = self.preprocessor.tokenizer.id_count()
        if (
            decoder is None
            or decoder.weights is not weights
            or (decoder.rows, decoder.length, decoder.tokens) != (rows, length, tokens)
        ):
            self._drop_decoder()
            decoder = Decoder(weights.device, config, weights, rows, length, tokens)
            self._decoder = decoder
            await self._allocated(weights.device)
        return decoder

    async def _allocated(self, device: Device) -> None:
        """Raises OutOfMemory where what was just made had no room, and frees it."""
        try:
            await device.allocated()
        except OutOfMemory:
            self._drop_decoder()
            raise

    def _drop_decoder(self) -> None:
        for session in self._sessions.values():
            session.destroy()
        self._sessions.clear()
        if self._decoder is not None:
            self._decoder.destroy()
            self._decoder = None

    def _length(self, requests: Sequence[Request], sampler: samplers.Sampler | None = None) -> int:
        """Cache slots a row: one row gets the whole context, so that it can always go on."""
        context = self.backbone.config.max_sequence_length
        if len(requests) == 1 and (sampler is None or sampler.rows_per_prompt == 1):
            return context
        needed = max(len(request.prompt) + request.limit for request in requests)
        return min(context, -(-needed // 64) * 64)

    @property
    def tokenizer(self) -> GPT2Tokenizer:
        """The preprocessor's. Raises ValueError where there is none."""
        if self.preprocessor is None:
            raise ValueError("this model has no preprocessor: give it one, or pass token ids")
        return self.preprocessor.tokenizer


def _check_logits(weights: Weights, ids: Sequence[Sequence[int]]) -> None:
    """Raises DeviceError where the logits of ids [rows, n] would not fit."""
    weights.device.tensor_bytes((len(ids), len(ids[0]), weights.config.vocabulary_size))
