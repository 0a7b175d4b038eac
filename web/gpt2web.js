// gpt2web.js: GPT-2 in the reader's own tab, for any page that serves a copy of this folder.
//
//   import { load } from "./gpt2web.js";
//   const lm = await load("stories", { onProgress: ({ stage, done, total }) => {} });
//   for await (const piece of lm.generate("Once upon a time", { maxNewTokens: 60, seed: 7 }))
//     console.log(piece.text);
//
// Everything heavy happens in a worker (worker.js: Pyodide, the model, the GPU). This file starts
// it, sends it messages and hands out what comes back. All addresses are relative to this file, so
// any sub-path will do.
//
// To the worker                             From the worker, with the id of what it answers
//   {type: "load", id, model, precision,      {type: "progress", id, stage, done, total, and of stage
//    paused, files: [{name, file: File}]}      "download" also stored, notice} ...
//    (from precision on where given)          {type: "result", id, value}
//   {type: "pause"}, {type: "resume"}         (the download of the load under way)
//   {type: "generate", id, prompt, options}   {type: "started", id, seed}
//                                             {type: "pieces", id, pieces, timing} ...
//   {type: "cancel", id}                      (that generation ends with a "cancelled" piece)
//   {type: "tokenize", id, text, options}     {type: "result", id, value}
//   {type: "detokenize", id, ids}             {type: "result", id, value}
//   {type: "bytes", id, ids}                  {type: "result", id, value}
//   {type: "parameters", id}                  {type: "result", id, value}
//   {type: "inspect", id, inspection,         {type: "result", id, value}: null where it was closed before
//    tokenIds, options}
//   {type: "nextTokens", id, inspection,      {type: "result", id, value}
//    options}
//   {type: "closeInspection", inspection}     (inspection: a number that inspection.js gives)
// Instead of the last answer there may be     {type: "error", id, error: {name, code, message, detail}}
// Not about one message: {type: "ready"}, once, {type: "requests", requests} (see requests.js), and
// {type: "broken", message} when all is over.

import { abortable } from "./abort.js";
import { failure, invalid, kind, known } from "./errors.js";
import { inspect } from "./inspection.js";
import { wholeModel } from "./own_files.js";
import { VERSION } from "./version.js";

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
 *   For "download" also `stored`, the bytes that were here before, and `notice`: a sentence for the
 *   reader, or null (there is no room to keep the model, say)
 * @param {(requests: {address: string, how: string, bytes: number, began: number}[]) => void} [options.onRequests]
 *   told of everything that the workers of this model ask for; see watchRequests in requests.js
 * @param {AbortSignal} [options.signal]  gives up: the promise rejects with the signal's reason
 * @param {string | null} [options.precision]  "f32", "f16", "int8" or "int4"; what the model is stored in
 *   where none is given
 * @param {Iterable<File>} [options.files]  a model's own files instead of a folder under models/: read by
 *   slices where they lie, neither copied nor sent anywhere
 * @param {Download} [options.download]  to pause and resume the download with
 * @returns {Promise<Model>}
 * @throws {Error} with name DeviceError (no WebGPU, no adapter), CheckpointError (no such model, a
 *   damaged one, or one that can't be fetched), LoadError (a damaged copy of this folder). `code` says
 *   what can be done, here and in all other methods: see docs/errors.md
 */
export async function load(name, options = {}) {
  const names = ["onProgress", "onRequests", "signal", "precision", "files", "download"];
  const { onProgress, onRequests, signal, precision, files, download } = known(options, names, "load");
  const own = files ? wholeModel([...files]) : null;
  const model = name === undefined ? (own?.name ?? "stories") : name;
  if (typeof model !== "string") {
    throw invalid(`The model's name must be a string, not ${kind(model)}.`);
  }
  if (download !== undefined && !(download instanceof Download)) {
    throw invalid(`The option download must be a Download, not ${kind(download)}.`);
  }
  if (!own && here.origin !== location.origin) {
    const wanted = `Models are fetched from the page's own origin, ${location.origin}, and this gpt2web.js is of ${here.origin}`;
    throw failure("CheckpointError", `${wanted}. Serve a copy of the folder there, or load a model's files.`, "download-refused");
  }
  signal?.throwIfAborted();
  const link = new Link(onRequests);
  const giveUp = () => link.close(signal.reason);
  const pause = () => link.tell({ type: download.paused ? "pause" : "resume" });
  signal?.addEventListener("abort", giveUp);
  download?.addEventListener("change", pause);
  try {
    onProgress?.({ stage: "runtime", done: 0, total: 0 });
    const message = { type: "load", model };
    if (own) message.files = own.files;
    if (precision !== undefined && precision !== null) message.precision = precision; // else as stored
    if (download?.paused) message.paused = true;
    const info = await link.request(message, onProgress);
    if (info.started === "anew") makeSnapshotLater(link);
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

/** A loaded model. Made by `load`. */
class Model {
  #link;

  constructor(link, info) {
    this.#link = link;
    /**
     * model, adapter, backend, software, precision, kernels, selfTest, parameters, gpuBytes, context, and
     * started: how Python came up, "anew" or from a "snapshot"
     */
    this.info = Object.freeze(info);
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
    return abortable(this.#link.request({ type: "tokenize", text, options: named }), signal);
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
    return abortable(this.#link.request({ type: "detokenize", ids }), signal);
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
    const bytes = await abortable(this.#link.request({ type: "bytes", ids }), signal);
    return bytes.map((of) => Uint8Array.from(of));
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
    return abortable(this.#link.request({ type: "parameters" }), signal);
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
  #pieces = []; // arrived, not yet asked for
  #waiting = []; // asked for, not yet arrived: [resolve, reject]
  #over = false; // nothing more will arrive
  #error = null;

  constructor(link, prompt, options, signal, rows) {
    this.#link = link;
    this.#running = rows;
    this.#signal = signal;
    this.#id = link.send({ type: "generate", prompt, options }, (message) => this.#receive(message));
    if (signal?.aborted) this.cancel();
    else signal?.addEventListener("abort", this.cancel);
  }

  /** Asks the model to stop. The last piece of each row is still to come, with finishReason "cancelled". */
  cancel = () => {
    if (!this.#over) this.#link.tell({ type: "cancel", id: this.#id });
  };

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
      this.timing = message.timing;
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
 * A worker that runs a file of this folder.
 *
 * One whose script is a blob inherits this page's Content-Security-Policy; one fetched from a host that
 * sends no headers would run under none. The blob only imports the file, by an address that tells sw.js
 * which version it is to be. It posts "broken" where that fails.
 */
function startWorker(file) {
  const address = new URL(`${file}?version=${VERSION}`, here).href;
  const script = `self.version = "${VERSION}";
    import(${JSON.stringify(address)})
      .catch((error) => postMessage({ type: "broken", message: String(error) }));`;
  const blob = URL.createObjectURL(new Blob([script], { type: "text/javascript" }));
  const worker = new Worker(blob, { type: "module", name: "gpt2web" });
  worker.addEventListener("message", () => URL.revokeObjectURL(blob), { once: true });
  return worker;
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

/** The worker and the messages under way to and from it. */
class Link {
  #worker;
  #handlers = new Map(); // id -> what its answers are given to
  #early = []; // messages sent before the worker's module had loaded
  #last = 0;
  #closed = null; // the error that says why
  #onRequests;

  constructor(onRequests) {
    this.#onRequests = onRequests;
    this.#worker = startWorker("worker.js");
    this.#worker.onmessage = ({ data }) => this.#receive(data);
    this.#worker.onerror = (event) => {
      event.preventDefault();
      this.#receive({ type: "broken", message: event.message ?? "it could not be started" });
    };
  }

  /** Tells who loaded the model what was asked for. */
  listRequests(requests) {
    this.#onRequests?.(requests);
  }

  /** Sends a message under a new id and gives every answer to `handler`. */
  send(message, handler) {
    const id = ++this.#last;
    this.#handlers.set(id, handler);
    if (this.#closed) queueMicrotask(() => handler({ type: "error", id, error: this.#closed }));
    else this.tell({ ...message, id });
    return id;
  }

  /** Sends a message that has no answer of its own. */
  tell(message) {
    if (this.#early) this.#early.push(message);
    else if (!this.#closed) this.#worker.postMessage(message);
  }

  /** A message with one result; other answers before it go to `onProgress`. */
  request(message, onProgress) {
    return new Promise((resolve, reject) => {
      const id = this.send(message, ({ type, id: _, value, error, ...progress }) => {
        if (type === "progress") return onProgress?.(progress);
        this.forget(id);
        if (type === "error") reject(received(error));
        else resolve(value);
      });
    });
  }

  forget(id) {
    this.#handlers.delete(id);
  }

  /** Whether an answer is still to come. */
  get busy() {
    return this.#handlers.size > 0;
  }

  get closed() {
    return this.#closed !== null;
  }

  close(error) {
    if (this.#closed) return;
    this.#closed = error;
    this.#early = null;
    this.#worker.terminate();
    for (const [id, handler] of [...this.#handlers]) handler({ type: "error", id, error });
  }

  #receive(message) {
    if (message.type === "ready") {
      const early = this.#early;
      this.#early = null;
      for (const waiting of early) this.#worker.postMessage(waiting);
    } else if (message.type === "requests") {
      this.listRequests(message.requests);
    } else if (message.type === "broken") {
      const way = "Reload the page; if that does not help, this copy of gpt2web is damaged.";
      this.close(failure("LoadError", `The worker failed: ${message.message}. ${way}`, "runtime-damaged"));
    } else {
      this.#handlers.get(message.id)?.(message);
    }
  }
}

/** What the worker tells of an error, as an Error; `detail` has the traceback there, for developers. */
function received(error) {
  if (!error || error instanceof Error || error instanceof DOMException || !error.name) return error;
  const { name, code, message, detail } = error;
  const made = name === "TypeError" ? invalid(message) : failure(name, message, code);
  if (detail) made.detail = detail;
  return made;
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
