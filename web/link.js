// link.js: the worker that gpt2web.js talks to: how it is started, the messages to it and from it, and how it
// is started again when it dies.
//
// To the worker                             From the worker, with the id of what it answers
//   {type: "load", id, model, precision,      {type: "progress", id, stage, done, total, notice, and of
//    paused, files: [{name, file: File}],      stage "download" also stored} ...
//    edits: {path: text}}                     {type: "result", id, value}
//    (from precision on where given)
//   {type: "pause"}, {type: "resume"}         (the download of the load under way)
//   {type: "generate", id, prompt, options,   {type: "started", id, seed}
//    resume: [{ids, characters, finished}]}    (resume, of each row, where a worker that died had begun it)
//                                             {type: "pieces", id, pieces, timing} ...
//   {type: "cancel", id}                      (that generation ends with a "cancelled" piece)
//   {type: "tokenize", id, text, options}     {type: "result", id, value}
//   {type: "detokenize", id, ids}             {type: "result", id, value}
//   {type: "bytes", id, ids}                  {type: "result", id, value}
//   {type: "score", id, text, options}        {type: "result", id, value}
//   {type: "parameters", id}                  {type: "result", id, value}
//   {type: "sources", id}                     {type: "result", id, value}
//   {type: "inspect", id, inspection,         {type: "result", id, value}: null where it was closed before
//    tokenIds, options}
//   {type: "nextTokens", id, inspection,      {type: "result", id, value}
//    options}
//   {type: "closeInspection", inspection}     (inspection: a number that inspection.js gives)
// Instead of the last answer there may be     {type: "error", id, error: {name, code, message, detail, place}}
// Not about one message: {type: "alive"} (see HOLD) and {type: "ready"}, once each; {type: "requests",
// requests} (see requests.js); {type: "broken", message} when it can't be started;
// {type: "died", message} when it is of no use any more; {type: "recovering", message, info}: a sentence
// while a lost device is replaced, then null, and the model's info as it is then.
//
// A worker that dies is replaced by a new one, as soon as anything is asked of it. That loads the same
// model and goes on with what was asked of the old one: behind the pieces that have come, with the same seed.

import { failure, invalid } from "./errors.js";
import { VERSION } from "./version.js";

const here = new URL("./", import.meta.url);

// The page asks for a worker's lock as well, and gets it when the worker is no more: nothing else tells of that.
const HOLD = `navigator.locks?.request(self.name, () => {
  postMessage({ type: "alive" });
  return new Promise(() => {});
});`;

/**
 * A worker that runs a file of this folder.
 *
 * One whose script is a blob inherits this page's Content-Security-Policy; one fetched from a host that
 * sends no headers would run under none. The blob only imports the file, by an address that tells sw.js
 * which version it is to be. It posts "broken" where that fails. `lock`: the name of a lock that it holds
 * from its first moment to its last, which it says by posting "alive".
 */
export function startWorker(file, lock) {
  const address = new URL(`${file}?version=${VERSION}`, here).href;
  const script = `self.version = "${VERSION}"; ${lock ? HOLD : ""}
    import(${JSON.stringify(address)})
      .catch((error) => postMessage({ type: "broken", message: String(error) }));`;
  const blob = URL.createObjectURL(new Blob([script], { type: "text/javascript" }));
  const worker = new Worker(blob, { type: "module", name: lock ?? "gpt2web" });
  worker.addEventListener("message", () => URL.revokeObjectURL(blob), { once: true });
  return worker;
}

const MAX_DEATHS = 3; // of workers in a row

/** The worker and the messages under way to and from it. */
export class Link {
  /** Called when `recovering` changes, with that, and with the model's info where it is another. */
  onRecovering = null;
  /** A sentence for the reader while something lost is started again. */
  recovering = null;
  /** What gives the message that loads the model, once it is loaded: a new worker gets it first. */
  loading = null;
  /** The error that ended it. */
  closed = null;

  #worker = null; // none once it has died, until something is asked of it
  #ready = false; // it takes messages
  #asked = new Map(); // id -> {message, handler, cancelled}: what is not answered to the end
  #last = 0; // id
  #reload = null; // id of the load that a new worker began with
  #deaths = 0; // of workers in a row, with no answer in between
  #onRequests;

  constructor(onRequests) {
    this.#onRequests = onRequests;
    this.#start();
  }

  #start() {
    if (this.#deaths > 0) this.#recover("Python stopped running; starting it again.");
    const name = `gpt2web ${Math.random().toString(36).slice(2)}`; // and that of a lock which it holds
    const worker = startWorker("worker.js", name);
    const receive = (message) => {
      if (worker === this.#worker && !this.closed) this.#receive(message);
    };
    this.#worker = worker;
    worker.onmessage = ({ data }) => {
      const ended = () => receive({ type: "died", message: "it was ended" });
      if (data.type === "alive") navigator.locks.request(name, ended);
      else receive(data);
    };
    worker.onerror = (event) => {
      event.preventDefault();
      const message = event.message ?? "it could not be started";
      receive({ type: this.#ready ? "died" : "broken", message });
    };
  }

  /** Tells who loaded the model what was asked for. */
  listRequests(requests) {
    this.#onRequests?.(requests);
  }

  /** Sends what `message()` gives under a new id, and every answer to `handler`. */
  send(message, handler) {
    const id = ++this.#last;
    this.#asked.set(id, { message, handler, cancelled: false });
    if (this.closed) queueMicrotask(() => handler({ type: "error", id, error: this.closed }));
    else if (this.#ready) this.#worker.postMessage({ ...message(), id });
    else if (!this.#worker) this.#start();
    return id;
  }

  /** Asks for the end of a generation. */
  cancel(id) {
    const asked = this.#asked.get(id);
    if (asked) asked.cancelled = true;
    this.tell({ type: "cancel", id });
  }

  /** Sends a message that has no answer of its own. */
  tell(message) {
    if (this.#ready) this.#worker.postMessage(message);
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
    this.#asked.delete(id);
  }

  /** Whether an answer is still to come. */
  get busy() {
    return this.#asked.size > 0;
  }

  /** For good. What is not answered yet is answered with this error. */
  close(error) {
    if (this.closed) return;
    this.closed = error;
    this.#end();
    this.recovering = null;
    this.onRecovering?.(null);
    for (const [id, { handler }] of [...this.#asked]) handler({ type: "error", id, error });
  }

  #end() {
    this.#worker?.terminate();
    this.#worker = null;
    this.#ready = false;
  }

  #receive(message) {
    if (message.type === "ready") {
      this.#begin();
    } else if (message.type === "died") {
      this.#died(message.message);
    } else if (message.type === "requests") {
      this.listRequests(message.requests);
    } else if (message.type === "broken") {
      this.#broken(message.message);
    } else if (message.type === "recovering") {
      this.#recover(message.message, message.info);
    } else if (message.id === this.#reload) {
      this.#reloaded(message);
    } else {
      if (message.type === "pieces" || message.type === "result") this.#deaths = 0;
      this.#asked.get(message.id)?.handler(message);
    }
  }

  #died(reason) {
    const edited = this.#ready && this.#loadsEdits();
    this.#end();
    this.#deaths += 1;
    if (edited) this.#editsEnded(reason);
    else if (this.#deaths === MAX_DEATHS) this.#lost(`stopped ${MAX_DEATHS} times in a row (${reason})`);
    else if (this.busy) this.#start();
    else this.#recover(null); // until something is asked
  }

  /** The worker's files did not come, or not those of one version. */
  #broken(reason) {
    if (this.#deaths > 0) return this.#lost(`stopped running and could not be started again (${reason})`);
    const way = "Reload the page; if that does not help, this copy of gpt2web is damaged.";
    this.close(failure("LoadError", `The worker failed: ${reason}. ${way}`, "runtime-damaged"));
  }

  /** Whether a load with edits is under way, the first of its model: it would end the next worker as well. */
  #loadsEdits() {
    return [...this.#asked.values()].some(({ message }) => message().edits);
  }

  #editsEnded(reason) {
    const way = "Correct that, or load the model without edits, which brings the original back.";
    const what = `The edited gpt2web failed: Python ended by itself while it was loaded (${reason}).`;
    this.close(failure("EditError", `${what} ${way}`, "edit-failed"));
  }

  #lost(what) {
    const way = "Close other tabs, or take a smaller model, and load the model again.";
    this.close(failure("WorkerError", `Python ${what}. What was written is kept. ${way}`, "runtime-lost"));
  }

  /** Asks the worker all that is asked; one that comes after another loads the model before. */
  #begin() {
    if (!this.loading) {
      this.#recover(null);
      return this.#askAll();
    }
    this.#reload = ++this.#last;
    this.#worker.postMessage({ ...this.loading(), id: this.#reload });
  }

  #reloaded({ type, value, error }) {
    if (type === "error") this.close(received(error));
    if (type !== "result") return; // but how far it is
    this.#recover(null, value);
    this.#askAll();
  }

  #askAll() {
    this.#ready = true;
    for (const [id, { message, cancelled }] of this.#asked) {
      this.#worker.postMessage({ ...message(), id });
      if (cancelled) this.#worker.postMessage({ type: "cancel", id });
    }
  }

  #recover(sentence, info) {
    if (sentence === this.recovering && !info) return;
    this.recovering = sentence;
    this.onRecovering?.(sentence, info);
  }
}

/** What the worker tells of an error, as an Error; `detail` has the traceback there, `place` the line of an edited model. */
export function received(error) {
  if (!error || error instanceof Error || error instanceof DOMException || !error.name) return error;
  const { name, code, message, detail, place } = error;
  const made = name === "TypeError" ? invalid(message) : failure(name, message, code);
  if (detail) made.detail = detail;
  if (place) made.place = place;
  return made;
}
