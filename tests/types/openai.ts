// What completions.js takes and gives, held against the types of OpenAI's own package; see test_types.py.

import type { CompletionCreateParamsNonStreaming, Completion as Theirs } from "openai/resources/completions";
import type { Completion, CompletionChunk, CompletionParametersStreaming, Completions } from "../../web/completions.js";

// A response is one of theirs, so what was written for theirs takes it.
export const response = (ours: Completion): Theirs => ours;

// So is a part of a stream, but that theirs have no null for what is not over or not known yet.
type Told<T> = { [K in keyof T]: T[K] extends (infer E)[] ? Told<E>[] : Exclude<T[K], null> | (K extends "logprobs" ? null : never) };
export const part = (ours: Told<CompletionChunk>): Theirs => ours;

// A request that uses nothing but what is supported here goes to either.
type Supported = Pick<CompletionCreateParamsNonStreaming, Exclude<keyof CompletionParametersStreaming, "stream" | "stream_options">>;
export const request = (completions: Completions, theirs: Supported): Promise<Completion> => completions.create(theirs);

// Every parameter here is one of theirs.
export const name = (ours: keyof CompletionParametersStreaming): keyof CompletionCreateParamsNonStreaming => ours;
