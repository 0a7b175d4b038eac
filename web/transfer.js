// transfer.js: one request for one file, from the byte where the stored ones end.
//
// Only the page's own origin is asked, and a redirect to another is not followed. Errors are named
// "BrokenTransfer" where the same request may succeed later, "WrongFile" where what comes can't be
// the file, and "CheckpointError" where there is no use in asking again.

import { ChunkReader } from "./chunk_reader.js";
import { failure } from "./errors.js";

const CHUNK_BYTES = 1 << 18;

export const broken = (message) => failure("BrokenTransfer", message, "download-broken");
export const wrong = (message) => failure("WrongFile", message, "download-refused");

/**
 * Asks for the bytes of a file from `from` on.
 *
 * @param {URL} url
 * @param {number} from  bytes that are there already
 * @param {number} size  bytes of the whole file
 * @param {object} options  signal: an AbortSignal; stall: milliseconds without a byte that are too many
 * @returns {Promise<{from: number, chunks: AsyncIterable<Uint8Array>}>}  from is 0 where the server
 *   can't or won't go on from there: the file then comes from its beginning
 */
export async function request(url, from, size, { signal, stall }) {
  const watch = new StallWatch(signal, stall);
  try {
    const headers = from > 0 ? { Range: `bytes=${from}-` } : {};
    let response = await ask(url, headers, watch);
    if (from > 0 && !goesOn(response, from, size)) {
      from = 0;
      if (response.status !== 200) {
        drop(response);
        response = await ask(url, {}, watch);
      }
    }
    if (from === 0 && response.status !== 200) {
      drop(response);
      const got = `the server answered ${response.status} ${response.statusText}`.trim();
      throw broken(`${got} where 200 was wanted`);
    }
    if ((response.headers.get("content-type") ?? "").startsWith("text/html")) {
      drop(response);
      throw failure("CheckpointError", "the server answers with a web page instead", "checkpoint-missing");
    }
    const length = Number(response.headers.get("content-length") ?? size - from);
    if (length !== size - from && isPlain(response)) {
      drop(response);
      throw wrong(`a file of ${length.toLocaleString("en")} bytes`);
    }
    return { from, chunks: chunksOf(response, watch) };
  } catch (error) {
    watch.end();
    throw watch.explain(error);
  }
}

/** Whether a partial answer is exactly the rest of the file. */
function goesOn(response, from, size) {
  const range = response.headers.get("content-range")?.trim();
  return response.status === 206 && isPlain(response) && range === `bytes ${from}-${size - 1}/${size}`;
}

/** Of a compressed answer, lengths and ranges count the compressed bytes. */
function isPlain(response) {
  return (response.headers.get("content-encoding") ?? "identity") === "identity";
}

async function ask(url, headers, watch) {
  const { signal } = watch;
  // The bytes are kept in our own store: the browser's HTTP cache need not have them a second time,
  // nor give us again what a proxy has spoilt.
  const options = { cache: "no-store", credentials: "same-origin", mode: "same-origin", headers, signal };
  let response;
  try {
    response = await fetch(url, options);
  } catch (error) {
    if (signal.aborted) throw error;
    const plain = await fetch(url, { ...options, redirect: "manual" }).catch(() => null);
    drop(plain);
    if (plain?.type !== "opaqueredirect") throw error;
    const message = "the server redirects it to another origin, and nothing leaves this page's";
    throw failure("CheckpointError", message, "download-refused");
  }
  const { status, statusText } = response;
  if (status < 400 || status === 416) return response;
  drop(response);
  const message = `the server answered ${status} ${statusText}`.trim();
  const mayPass = status >= 500 || status === 408 || status === 425 || status === 429;
  if (mayPass) throw broken(message);
  throw failure("CheckpointError", message, status === 404 || status === 410 ? "checkpoint-missing" : "download-broken");
}

/** The bytes as they come, 256 KiB at most at a time, each chunk good until the next is asked for. */
async function* chunksOf(response, watch) {
  const reader = new ChunkReader(response.body, CHUNK_BYTES);
  try {
    for (;;) {
      watch.start();
      const chunk = await reader.read();
      watch.stop(); // what is done with the bytes takes its own time
      if (!chunk) return;
      for (let at = 0; at < chunk.length; at += CHUNK_BYTES) yield chunk.subarray(at, at + CHUNK_BYTES);
    }
  } catch (error) {
    throw watch.explain(error);
  } finally {
    watch.end();
    reader.close();
  }
}

function drop(response) {
  response?.body?.cancel().catch(() => {});
}

/** Aborts a request when its caller does, or when nothing has come for too long. */
class StallWatch {
  #own = new AbortController();
  #outer;
  #timer;
  #stall;

  constructor(outer, stall) {
    this.#outer = outer;
    this.#stall = stall;
    this.signal = this.#own.signal;
    outer.throwIfAborted();
    outer.addEventListener("abort", this.#abort);
    this.start();
  }

  #abort = () => this.#own.abort(this.#outer.reason);

  start() {
    this.stop();
    const message = `no byte came for ${this.#stall / 1000} seconds`;
    this.#timer = setTimeout(() => this.#own.abort(broken(message)), this.#stall);
  }

  stop() {
    clearTimeout(this.#timer);
  }

  end() {
    this.stop();
    this.#outer.removeEventListener("abort", this.#abort);
  }

  /** fetch's own errors say only that it failed. */
  explain(error) {
    if (this.signal.aborted) return this.signal.reason;
    if (["BrokenTransfer", "WrongFile", "CheckpointError"].includes(error.name)) return error;
    return broken(`the connection broke (${error.message})`);
  }
}
