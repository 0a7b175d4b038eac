// gpt2web.d.ts: the types of gpt2web.js. What each thing does is said there and in docs/embedding.md.

/** What a model is stored in, or kept in on the GPU. */
export type Precision = "f32" | "f16" | "int8" | "int4";

/** Typed text, or token ids, which are read as they are. */
export type Prompt = string | readonly number[];

/** One of docs/errors.md. */
export type ErrorCode =
  | "device-missing"
  | "device-limit"
  | "device-memory"
  | "device-lost"
  | "device-wrong"
  | "device-failed"
  | "checkpoint-missing"
  | "checkpoint-damaged"
  | "checkpoint-unsupported"
  | "download-broken"
  | "download-refused"
  | "storage-damaged"
  | "busy"
  | "option-invalid"
  | "prompt-too-long"
  | "runtime-damaged"
  | "runtime-lost"
  | "closed"
  | "edit-failed"
  | "internal";

/** The kind of an error, which is its `name`; with the code "internal" it may be any other. */
export type ErrorName =
  | "BusyError"
  | "CheckpointError"
  | "ClosedError"
  | "DeviceError"
  | "EditError"
  | "LoadError"
  | "TypeError"
  | "ValueError"
  | "WorkerError";

/**
 * What everything here throws or rejects with, but for what was given up by its `signal`: that fails with
 * the signal's own reason.
 *
 *     catch (error) { if ((error as Gpt2webError).code === "prompt-too-long") ... }
 */
export interface Gpt2webError extends Error {
  name: ErrorName | (string & {});
  code: ErrorCode;
  /** The traceback in the worker, for developers. */
  detail?: string;
  /** Of a model with edits: the file, one of `sources`, and the line that it comes from. */
  place?: { file: string; line: number };
}

/** How far a load is. */
export interface Progress {
  stage: "runtime" | "download" | "check" | "model" | "prepare";
  /** Bytes. */
  done: number;
  /** Bytes; 0 where it is not known. */
  total: number;
  /** For "download": the bytes that were here before. */
  stored?: number;
  /** A sentence for the reader. */
  notice?: string | null;
}

/** One request that the browser made or refused: see requests.js. */
export interface RequestRecord {
  address: string;
  how: string;
  bytes: number;
  /** Milliseconds since 1970. */
  began: number;
}

export interface SignalOption {
  /** Gives up: what was called rejects with the signal's reason. */
  signal?: AbortSignal;
}

export interface LoadOptions extends SignalOption {
  onProgress?: (progress: Progress) => void;
  onRequests?: (requests: RequestRecord[]) => void;
  precision?: Precision | null;
  files?: Iterable<File>;
  download?: Download;
  /** Texts to run instead of the package's own, by the paths of `Model.sources`. */
  edits?: Readonly<Record<string, string>> | null;
}

export interface GenerateOptions {
  maxNewTokens?: number | null;
  temperature?: number | null;
  topK?: number | null;
  topP?: number | null;
  minP?: number | null;
  repetitionPenalty?: number | null;
  /** 0 to 2 ** 32 - 1; drawn, and told by the Generation, where none is given. */
  seed?: number | null;
  stop?: string | readonly string[] | null;
  /** How many alternatives to tell of with each id, at most 100; 0 for no probabilities. */
  logprobs?: number | null;
  parseSpecial?: boolean | null;
  stepsPerSubmit?: number | null;
  /** Ends the generation with pieces that say "cancelled". */
  signal?: AbortSignal;
}

export interface TokenizeOptions extends SignalOption {
  /** The ids that `generate` continues, with what the model wants before a text. */
  asPrompt?: boolean;
  /** Reads "<|endoftext|>" as one token. */
  parseSpecial?: boolean;
}

export interface InspectOptions extends SignalOption {
  /** Of the token in the text, from the end where it is negative; the last one where it is left out. */
  position?: number | null;
  /** How many ids of each layer to tell of: 0 to 100, 10 where it is left out. */
  top?: number | null;
}

export interface NextTokensSettings extends SignalOption {
  temperature?: number | null;
  topK?: number | null;
  topP?: number | null;
  minP?: number | null;
  repetitionPenalty?: number | null;
  /** How many candidates to list: 1 to 100, 20 where it is left out. */
  top?: number | null;
}

/** An id that may come next. */
export interface Candidate {
  id: number;
  /** Its own: of a part of a character, U+FFFD. */
  text: string;
  /** The model's, before any setting; the latter is a natural logarithm. */
  logit: number;
  logprob: number;
  /** Probability after repetition penalty and temperature. */
  afterTemperature: number;
  /** Probability after top-k, top-p and min-p as well: what it is drawn with. */
  afterCuts: number;
  /** Whether it can be drawn. */
  kept: boolean;
}

export interface NextTokens {
  /** The most probable first. */
  candidates: Candidate[];
  /** How many ids of the whole vocabulary can be drawn. */
  kept: number;
}

/** What a layer would say. */
export interface LensToken {
  id: number;
  text: string;
  /** A natural logarithm. */
  logprob: number;
}

export interface ScoreOptions extends SignalOption {
  /** How many of the likeliest tokens to tell of in the place of each: 0 to 100. */
  top?: number | null;
}

/** A token of a text, with its log-probability after those before it. */
export interface ScoredToken {
  id: number;
  /** Natural. */
  logprob: number;
  /** The likeliest in its place, with theirs; null where none were asked for. */
  top: [id: number, logprob: number][] | null;
}

/** What the model computed at one token of a text. Made by `Model.inspect`. */
export interface Inspection {
  /** The text up to the token, which is its last, at `position`. */
  readonly tokenIds: number[];
  readonly position: number;
  /** How much of each token up to its own every head took: [layers, heads, position + 1], row-major; rows sum to 1. */
  readonly attention: Float32Array;
  readonly shape: [layers: number, heads: number, tokens: number];
  /** Behind the embedding and behind each layer, [layers + 1]; the last is what the model says. */
  readonly lens: LensToken[][];
  nextTokens(settings?: NextTokensSettings): Promise<NextTokens>;
  /** Frees what it holds on the GPU. */
  close(): void;
}

/** A tensor of a model, by its name and shape in a checkpoint. */
export interface Parameter {
  name: string;
  shape: number[];
  parameters: number;
  precision: Precision;
  gpuBytes: number;
}

export type FinishReason = "stop" | "length" | "context" | "cancelled";

export interface Piece {
  text: string;
  ids: number[];
  /** Natural logarithms, of the raw logits; null where none were asked for. */
  logprobs: number[] | null;
  /** The most probable ids with theirs, beside each of `ids`. */
  top: [id: number, logprob: number][][] | null;
  /** Of a batch; 0 for a single prompt. */
  row: number;
  /** Of a row's last piece; null in all others. */
  finishReason: FinishReason | null;
}

export interface Timing {
  tokens: number;
  /** Seconds to the first token, and to the last, so far. */
  firstToken: number | null;
  seconds: number;
}

/** Made by `Model.generate`. */
export interface Generation extends AsyncIterableIterator<Piece> {
  /** Null until it has started. */
  readonly seed: number | null;
  readonly timing: Timing;
  cancel(): void;
  return(value?: unknown): Promise<IteratorResult<Piece>>;
}

export interface ModelInfo {
  readonly model: string;
  readonly adapter: string;
  readonly backend: string;
  readonly software: boolean;
  readonly precision: Precision;
  readonly kernels: string[];
  readonly selfTest: string;
  /** Where the precision is not the one asked for, a sentence that says so. */
  readonly notice: string | null;
  readonly parameters: number;
  readonly gpuBytes: number;
  /** Tokens. */
  readonly context: number;
  /** How Python came up. */
  readonly started: "anew" | "snapshot";
  /** The files that `load` was given edits of. */
  readonly edited: readonly string[];
}

/** A loaded model. Made by `load`. Sends itself a "change" event when `info`, `recovering` or `closed` changes. */
export interface Model extends EventTarget {
  readonly info: ModelInfo;
  /** A sentence for the reader while a lost graphics device or worker is started again. */
  readonly recovering: string | null;
  /** Why it is of no use any more: what is asked of it fails with that. */
  readonly closed: Gpt2webError | null;
  /** Several prompts are the rows of a batch: row r is what it would be alone with seed + r. */
  generate(prompt: Prompt | readonly Prompt[], options?: GenerateOptions): Generation;
  tokenize(text: string, options?: TokenizeOptions): Promise<number[]>;
  detokenize(ids: readonly number[], options?: SignalOption): Promise<string>;
  detokenize(ids: readonly (readonly number[])[], options?: SignalOption): Promise<string[]>;
  tokenBytes(ids: readonly number[], options?: SignalOption): Promise<Uint8Array[]>;
  score(text: string | ArrayLike<number>, options?: ScoreOptions): Promise<ScoredToken[]>;
  /** Close it when it is not looked at any more. */
  inspect(tokenIds: ArrayLike<number>, options?: InspectOptions): Promise<Inspection>;
  parameters(options?: SignalOption): Promise<Parameter[]>;
  /** The Python and WGSL that run, by path. */
  sources(options?: SignalOption): Promise<Record<string, string>>;
  close(): void;
}

export interface StoredModel {
  name: string;
  title: string;
  license: string;
  precision: Precision;
  parameters: number;
  /** Tokens. */
  context: number;
  /** What a load needs in all, and what of it this browser has. */
  bytes: number;
  stored: number;
}

/** Pauses the download of a load. Sends itself a "change" event. */
export class Download extends EventTarget {
  get paused(): boolean;
  pause(): void;
  resume(): void;
}

export function load(name?: string, options?: LoadOptions): Promise<Model>;
export function models(options?: SignalOption): Promise<StoredModel[]>;
export function removeModel(name: string, options?: SignalOption): Promise<void>;
export function keepOffline(options?: SignalOption): Promise<boolean>;
