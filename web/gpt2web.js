// gpt2web.js: GPT-2 in the reader's own tab, for any page that serves a copy of this folder.
//
//   import { load } from "./gpt2web.js";
//   const lm = await load("stories", { onProgress: ({ stage, done, total }) => {} });
//   for await (const piece of lm.generate("Once upon a time", { maxNewTokens: 60, seed: 7 }))
//     console.log(piece.text);
//
// Everything heavy happens in a worker (worker.js: Pyodide, the model, the GPU). This file has it started,
// sends it messages (link.js) and hands out what comes back. All addresses are relative to this file, so any
// sub-path will do.

import { abortable } from "./abort.js";
import { failure, invalid, kind, known } from "./errors.js";
import { inspect } from "./inspection.js";
import { Link, received, startWorker } from "./link.js";
import { wholeModel } from "./own_files.js";

export { keepOffline, models, removeModel } from "./stored.js";

const here = new URL("./", import.meta.url);
const IDLE = 2000; // milliseconds without a generation before a snapshot is made

// The options of GPT2CausalLM.stream, as they are written here and as they are written there.
const OPTIONS = {
  maxNewTokens: "max_new_tokens",
  temperature: "temperature",
  topK: "top_k",
  topP: "top_p",
  minP: "min_p",
  repetitionPenalty: "repetition_penalty",
  seed: "seed",
  stop: "stop",
  logprobs: "logprobs",
  parseSpecial: "parse_special",
  stepsPerSubmit: "steps_per_submit",
};

/**
 * Starts a worker and loads a model into it. What is downloaded stays stored in this browser, also when
 * the load fails or is given up: the next one goes on from there.
 *
 * @param {string} [name]  a folder under models/, "stories" where none is given; what to call the model
 *   where `files` are given
 * @param {object} [options]
 * @param {({stage, done, total}) => void} [options.onProgress]  stage: "runtime" (Pyodide), "download",
 *   "check" (the self-test), "model", "prepare"; done and total: bytes, total 0 where it is not known.
 *   Also `notice`, a sentence for the reader or null (there is no room to keep the model, say), and for
 *   "download" `stored`, the bytes that were here before
 * @param {(requests: {address: string, how: string, bytes: number, began: number}[]) => void} [options.onRequests]
 *   told of everything that the workers of this model ask for; see watchRequests in requests.js
 * @param {AbortSignal} [options.signal]  gives up: the promise rejects with the signal's reason
 * @param {string | null} [options.precision]  "f32", "f16", "int8" or "int4"; what the model is stored in
 *   where none is given
 * @param {Iterable<File>} [options.files]  a model's own files instead of a folder under models/: read by
 *   slices where they lie, neither copied nor sent anywhere
 * @param {Download} [options.download]  to pause and resume the download with
 * @param {Readonly<Record<string, string>> | null} [options.edits]  files of the Python package with texts to run instead of its own,
 *   by the paths that `sources` of a model has. Nothing that is remembered of the unedited ones is used, and the
 *   self-test, which an edited kernel would rightly fail, is not run. Never take these from a link or a file that
 *   somebody else made: they are programs
 * @returns {Promise<Model>}
 * @throws {Error} with name DeviceError (no WebGPU, no adapter), CheckpointError (no such model, a
 *   damaged one, or one that can't be fetched), LoadError (a damaged copy of this folder). `code` says
 *   what can be done, here and in all other methods: see docs/errors.md
 */
export async function load(name, options = {}) {
  const names = ["onProgress", "onRequests", "signal", "precision", "files", "download", "edits"];
  const { onProgress, onRequests, signal, precision, files, download, edits } = known(options, names, "load");
  const own = files ? wholeModel([...files]) : null;
  const model = name === undefined ? (own?.name ?? "stories") : name;
  if (typeof model !== "string") {
    throw invalid(`The model's name must be a string, not ${kind(model)}.`);
  }
  if (download !== undefined && !(download instanceof Download)) {
    throw invalid(`The option download must be a Download, not ${kind(download)}.`);
  }
  const edited = editsOf(edits);
  if (!own && here.origin !== location.origin) {
    const wanted = `Models are fetched from the page's own origin, ${location.origin}, and this gpt2web.js is of ${here.origin}`;
    throw failure("CheckpointError", `${wanted}. Serve a copy of the folder there, or load a model's files.`, "download-refused");
  }
  signal?.throwIfAborted();
  const link = new Link(onRequests);
  link.onRecovering = (notice) => notice && onProgress?.({ stage: "runtime", done: 0, total: 0, notice });
  const giveUp = () => link.close(signal.reason);
  const pause = () => link.tell({ type: download.paused ? "pause" : "resume" });
  signal?.addEventListener("abort", giveUp);
  download?.addEventListener("change", pause);
  try {
    onProgress?.({ stage: "runtime", done: 0, total: 0 });
    const message = () => {
      const made = { type: "load", model };
      if (own) made.files = own.files;
      if (precision !== undefined && precision !== null) made.precision = precision; // else as stored
      if (download?.paused) made.paused = true;
      if (edited) made.edits = edited;
      return made;
    };
    const info = await link.request(message, onProgress);
    link.loading = message;
    if (info.started === "anew" && !edited) makeSnapshotLater(link);
    return new Model(link, info);
  } catch (error) {
    link.close(error);
    throw error;
  } finally {
    signal?.removeEventListener("abort", giveUp);
    download?.removeEventListener("change", pause);
  }
}

/**
 * What pauses the download of a load: `const download = new Download()`, given to `load`. Bytes that
 * have come stay; other tabs may go on with them. Sends itself a "change" event at each change.
 */
export class Download extends EventTarget {
  #paused = false;

  get paused() {
    return this.#paused;
  }

  pause() {
    this.#set(true);
  }

  resume() {
    this.#set(false);
  }

  #set(paused) {
    if (this.#paused === paused) return;
    this.#paused = paused;
    this.dispatchEvent(new Event("change"));
  }
}

/**
 * A loaded model. Made by `load`. A graphics device or worker that is lost is started again, and what was
 * asked of the model goes on; it sends itself a "change" event when `recovering`, `info` or `closed` changes.
 */
class Model extends EventTarget {
  /** A sentence for the reader while something lost is started again, else null. */
  recovering = null;

  #link;

  constructor(link, info) {
    super();
    this.#link = link;
    /**
     * model, adapter, backend, software, precision, kernels, selfTest, notice (a sentence where the
     * precision is not the one asked for, or null), parameters, gpuBytes, context,
     * started: how Python came up, "anew" or from a "snapshot", and edited: the files that `load` was given edits of
     */
    this.info = Object.freeze(info);
    link.onRecovering = (sentence, info) => {
      this.recovering = sentence;
      if (info) this.info = Object.freeze(info);
      this.dispatchEvent(new Event("change"));
    };
  }

  /**
   * Continues a prompt. The work starts at once; two generations at the same time are done in order.
   *
   * @param {string | readonly (number | string | readonly number[])[]} prompt  typed text: nothing in it is special unless
   *   parseSpecial; or token ids, which are read as they are; or several of these, the rows of a batch:
   *   row r is what it would be alone with seed + r
   * @param {object} [options]  those of GPT2CausalLM.stream in camelCase, and `signal`, an AbortSignal
   * @returns {Generation} to be read with `for await`
   * @throws {TypeError} for a prompt that is none of these or an option that does not exist
   */
  generate(prompt, options = {}) {
    const rows = rowsOf(prompt);
    const { signal, ...rest } = known(options, ["signal", ...Object.keys(OPTIONS)], "generate");
    const named = {};
    for (const [key, value] of Object.entries(rest)) {
      if (value !== undefined && value !== null) named[OPTIONS[key]] = value; // else the default
    }
    return new Generation(this.#link, prompt, named, signal, rows);
  }

  /**
   * The token ids of a text. With asPrompt those that `generate` continues, with what the model wants before
   * a text; with parseSpecial "<|endoftext|>" in it is one token.
   *
   * @param {string} text
   * @param {{asPrompt?: boolean, parseSpecial?: boolean, signal?: AbortSignal}} [options]
   * @returns {Promise<number[]>}
   */
  tokenize(text, options = {}) {
    const names = ["asPrompt", "parseSpecial", "signal"];
    const { asPrompt, parseSpecial, signal } = known(options, names, "tokenize");
    const named = { as_prompt: Boolean(asPrompt), parse_special: Boolean(parseSpecial) };
    return abortable(this.#link.request(() => ({ type: "tokenize", text, options: named })), signal);
  }

  /**
   * The text of token ids, or the texts of several lists of them.
   *
   * @param {readonly (number | readonly number[])[]} ids
   * @param {{signal?: AbortSignal}} [options]
   * @returns {Promise<any>}  string, or string[]
   */
  detokenize(ids, options = {}) {
    const { signal } = known(options, ["signal"], "detokenize");
    return abortable(this.#link.request(() => ({ type: "detokenize", ids })), signal);
  }

  /**
   * The UTF-8 bytes of each token id, which may be part of a character.
   *
   * @param {readonly number[]} ids
   * @param {{signal?: AbortSignal}} [options]
   * @returns {Promise<Uint8Array[]>}
   */
  async tokenBytes(ids, options = {}) {
    const { signal } = known(options, ["signal"], "tokenBytes");
    const bytes = await abortable(this.#link.request(() => ({ type: "bytes", ids })), signal);
    return bytes.map((of) => Uint8Array.from(of));
  }

  /**
   * How likely the model finds each token of a text, after those before it. A text that is longer than the context
   * is taken in parts. Where the model wants nothing before a text, and of ids, the first is told and left out.
   *
   * @param {string | ArrayLike<number>} text  typed text, or token ids, as for `generate`
   * @param {{top?: number | null, signal?: AbortSignal}} [options]  top: how many of the likeliest ids to tell of in
   *   the place of each (0: none)
   * @returns {Promise<import("./gpt2web.js").ScoredToken[]>}  of each {id, logprob, top: [[id, logprob], ...] or null}
   */
  async score(text, options = {}) {
    const { signal, top } = known(options, ["top", "signal"], "score");
    const given = typeof text === "string" ? text : Array.isArray(text) || ArrayBuffer.isView(text) ? [...text] : null;
    if (given === null) throw invalid(`The text must be a string or an array of token ids, not ${kind(text)}.`);
    const message = { type: "score", text: given, options: { top: top ?? 0 } };
    return abortable(this.#link.request(() => message), signal);
  }

  /**
   * Looks into the model at one token of a text: what it attends to, what each layer would say next, and by
   * `nextTokens` what sampling makes of it. `close()` it when it is not looked at any more. A generation under
   * way ends first.
   *
   * @param {ArrayLike<number>} tokenIds  the text: those of tokenize with asPrompt, and of the pieces
   * @param {{position?: number | null, top?: number | null, signal?: AbortSignal}} [options]  position: of the
   *   token, from the end where it is negative (-1); top: how many ids of each layer (10; 0 leaves them out)
   * @returns {Promise<import("./gpt2web.js").Inspection>}  see inspection.js
   */
  async inspect(tokenIds, options = {}) {
    return inspect(this.#link, tokenIds, options);
  }

  /**
   * Where the weights are: for every tensor its name and shape in a checkpoint, its parameters, the
   * precision it is kept in, and its bytes on the GPU.
   *
   * @param {{signal?: AbortSignal}} [options]
   * @returns {Promise<import("./gpt2web.js").Parameter[]>}
   */
  async parameters(options = {}) {
    const { signal } = known(options, ["signal"], "parameters");
    return abortable(this.#link.request(() => ({ type: "parameters" })), signal);
  }

  /**
   * The Python and WGSL that run: the text of every file of the package by its path, "gpt2web/sampling.py" for
   * instance; of edited ones the edited text.
   *
   * @param {{signal?: AbortSignal}} [options]
   * @returns {Promise<Record<string, string>>}
   */
  async sources(options = {}) {
    const { signal } = known(options, ["signal"], "sources");
    return abortable(this.#link.request(() => ({ type: "sources" })), signal);
  }

  /** Why it is of no use any more: the error that what is asked of it fails with; else null. */
  get closed() {
    return this.#link.closed;
  }

  /** Ends the worker and frees the GPU. What was still going on fails with a ClosedError. */
  close() {
    const message = "The model was closed. Load it again to go on.";
    this.#link.close(failure("ClosedError", message, "closed"));
  }
}

/**
 * One generation: an async iterator of pieces {text, ids, logprobs, top, row, finishReason}. The last
 * piece of a row has as its finishReason "stop", "length", "context" or "cancelled"; that of the others is null.
 */
class Generation {
  /** The seed in use, drawn by the model where none was given; null until the generation has started. */
  seed = null;
  /** {tokens, firstToken, seconds}: how many, seconds to the first and to the last, so far. */
  timing = { tokens: 0, firstToken: null, seconds: 0 };

  #link;
  #id;
  #signal;
  #running; // rows whose last piece is still to come
  #logprobs; // whether they were asked for
  #sent; // of each row: {ids, characters, finished} of the pieces that have arrived
  #before = { tokens: 0, firstToken: null, seconds: 0 }; // timing in workers that died
  #pieces = []; // arrived, not yet asked for
  #waiting = []; // asked for, not yet arrived: [resolve, reject]
  #over = false; // nothing more will arrive
  #error = null;

  constructor(link, prompt, options, signal, rows) {
    this.#link = link;
    this.#running = rows;
    this.#sent = Array.from({ length: rows }, () => ({ ids: [], characters: 0, finished: false }));
    this.#signal = signal;
    this.#logprobs = Boolean(options.logprobs);
    this.#id = link.send(() => this.#message(prompt, options), (message) => this.#receive(message));
    if (signal?.aborted) this.cancel();
    else signal?.addEventListener("abort", this.cancel);
  }

  /** Asks the model to stop. The last piece of each row is still to come, with finishReason "cancelled". */
  cancel = () => {
    if (this.#over) return;
    this.#link.cancel(this.#id);
    if (!this.#link.recovering) return;
    // The worker's last pieces would be long in coming.
    const lists = this.#logprobs ? { logprobs: [], top: [] } : { logprobs: null, top: null };
    for (const [row, { finished }] of this.#sent.entries()) {
      if (!finished) this.#pieces.push({ text: "", ids: [], ...lists, row, finishReason: "cancelled" });
    }
    this.#end();
  };

  /** What a worker is asked: the first one for all, another for what has not come. */
  #message(prompt, options) {
    if (this.seed === null) return { type: "generate", prompt, options };
    this.#before = this.timing;
    return { type: "generate", prompt, options: { ...options, seed: this.seed }, resume: this.#sent };
  }

  next() {
    if (this.#pieces.length > 0) {
      return Promise.resolve({ value: this.#pieces.shift(), done: false });
    }
    if (this.#error) {
      const error = this.#error;
      this.#error = null;
      return Promise.reject(error);
    }
    if (this.#over) return Promise.resolve({ value: undefined, done: true });
    return new Promise((resolve, reject) => this.#waiting.push([resolve, reject]));
  }

  /** What `break` in a `for await` calls: cancels what is left. */
  return(value) {
    this.cancel();
    this.#pieces = [];
    this.#error = null;
    this.#end();
    return Promise.resolve({ value, done: true });
  }

  [Symbol.asyncIterator]() {
    return this;
  }

  #receive(message) {
    if (this.#over) return;
    if (message.type === "started") {
      this.seed = message.seed;
    } else if (message.type === "pieces") {
      const { tokens, firstToken, seconds } = message.timing;
      const before = this.#before;
      this.timing = {
        tokens: before.tokens + tokens,
        firstToken: before.firstToken ?? firstToken,
        seconds: before.seconds + seconds,
      };
      for (const { text, ids, row, finishReason } of message.pieces) {
        const sent = this.#sent[row];
        sent.ids.push(...ids);
        sent.characters += [...text].length; // as Python counts them
        sent.finished = finishReason !== null;
      }
      this.#pieces.push(...message.pieces);
      this.#running -= message.pieces.filter(({ finishReason }) => finishReason).length;
      if (this.#running === 0) this.#end();
    } else if (message.type === "error") {
      this.#error = received(message.error);
      this.#end();
    }
    this.#answer();
  }

  #end() {
    this.#over = true;
    this.#link.forget(this.#id);
    this.#signal?.removeEventListener("abort", this.cancel);
    this.#answer();
  }

  #answer() {
    while (this.#waiting.length > 0 && (this.#pieces.length > 0 || this.#over)) {
      const [resolve, reject] = this.#waiting.shift();
      this.next().then(resolve, reject);
    }
  }
}

/**
 * Has a second interpreter make the snapshot that the next visit starts from, once this one is idle. Only
 * where a service worker keeps this folder (sw.js): nothing is to be fetched for it.
 */
async function makeSnapshotLater(link) {
  const container = navigator.serviceWorker;
  if (!container) return;
  do await new Promise((resolve) => setTimeout(resolve, IDLE));
  while (!link.closed && (link.busy || !container.controller));
  if (link.closed) return;
  const worker = startWorker("snapshot_worker.js");
  worker.onmessage = ({ data }) => {
    if (data.requests) link.listRequests(data.requests);
    else worker.terminate(); // it has made it, or can't: the next visit starts anew, then
  };
  worker.onerror = () => worker.terminate();
}

/** A copy of the edits, null where there are none. */
function editsOf(edits) {
  if (edits === undefined || edits === null) return null;
  const isTexts = typeof edits === "object" && Object.values(edits).every((text) => typeof text === "string");
  if (!isTexts || Array.isArray(edits)) {
    throw invalid("The option edits must be an object of texts by path, as sources() gives them.");
  }
  return Object.keys(edits).length > 0 ? { ...edits } : null;
}

/** How many rows a prompt is. */
function rowsOf(prompt) {
  const isIds = (value) => Array.isArray(value) && value.every(Number.isInteger);
  const isOne = (value) => typeof value === "string" || isIds(value);
  if (typeof prompt === "string" || (isIds(prompt) && prompt.length > 0)) return 1;
  if (Array.isArray(prompt) && prompt.length > 0 && prompt.every(isOne)) return prompt.length;
  const got = Array.isArray(prompt) ? (prompt.length === 0 ? "an empty array" : "an array of other things") : kind(prompt);
  throw invalid(`The prompt must be a string, an array of token ids, or an array of those, not ${got}.`);
}
