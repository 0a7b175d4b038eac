// completions.d.ts: the types of completions.js.

import type { Gpt2webError, Model, Prompt, SignalOption } from "./gpt2web.js";

interface Parameters {
  /** The name of the model that is loaded. */
  model?: string | null;
  /** "", which begins a text, where none is given. */
  prompt?: Prompt | readonly Prompt[] | null;
  /** 16 where none is given. */
  max_tokens?: number | null;
  temperature?: number | null;
  top_p?: number | null;
  n?: number | null;
  /** 0 to 100: how many alternatives, beside the chosen token's own. */
  logprobs?: number | null;
  echo?: boolean | null;
  stop?: string | readonly string[] | null;
  /** 0 to 2 ** 32 - 1. */
  seed?: number | null;
}

export interface CompletionParametersNonStreaming extends Parameters {
  stream?: false | null;
}

export interface CompletionParametersStreaming extends Parameters {
  stream: true;
  stream_options?: { include_usage?: boolean } | null;
}

export type CompletionParameters = CompletionParametersNonStreaming | CompletionParametersStreaming;

export interface Logprobs {
  /** A token's text, or `bytes:\xe6\x9d` for a part of a character. */
  tokens: string[];
  token_logprobs: number[];
  top_logprobs: { [token: string]: number }[];
  /** From the prompt's beginning, in JavaScript's characters. */
  text_offset: number[];
}

export interface CompletionChoice {
  text: string;
  index: number;
  logprobs: Logprobs | null;
  finish_reason: "stop" | "length";
}

export interface CompletionUsage {
  prompt_tokens: number;
  completion_tokens: number;
  total_tokens: number;
}

export interface Completion {
  id: string;
  object: "text_completion";
  /** Seconds since 1970. */
  created: number;
  model: string;
  system_fingerprint: string;
  choices: CompletionChoice[];
  usage: CompletionUsage;
}

export interface CompletionChunk extends Omit<Completion, "choices" | "usage"> {
  /** Null until a choice's last chunk. */
  choices: (Omit<CompletionChoice, "finish_reason"> & { finish_reason: "stop" | "length" | null })[];
  /** Where stream_options ask for it: null, and in the last chunk, which has no choices, what was used. */
  usage?: CompletionUsage | null;
}

/** A TypeError for a parameter that does not exist, is not supported, or is of a wrong type. */
export interface ParameterError extends Gpt2webError {
  param: string;
}

export class Completions {
  constructor(lm: Model);
  create(parameters: CompletionParametersNonStreaming, options?: SignalOption): Promise<Completion>;
  create(
    parameters: CompletionParametersStreaming,
    options?: SignalOption,
  ): Promise<AsyncGenerator<CompletionChunk, void, void>>;
  create(
    parameters: CompletionParameters,
    options?: SignalOption,
  ): Promise<Completion | AsyncGenerator<CompletionChunk, void, void>>;
}
