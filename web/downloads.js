// downloads.js: brings a model's files here, keeps them, and hands out their verified bytes.
//
// Runs in the worker, for gpt2web/browser_folder.py. Files come four at a time, in order, into a
// store (store.js) that outlives a reload; each is hashed as it comes. What is handed out is read from
// the store and hashed once more, a whole file before its first byte is given, so a file that was
// damaged on disk is noticed whenever that happened: it is then fetched anew. Weights go to the GPU
// from here as JavaScript's bytes, through one buffer of a file's size.

import "./hash-wasm/sha256.umd.min.js"; // makes globalThis.hashwasm
import { ChunkReader } from "./chunk_reader.js";
import { failure } from "./errors.js";
import { MemoryStore, loadLock, openStores } from "./store.js";
import { broken, request, wrong } from "./transfer.js";

const AT_ONCE = 4; // files
const AHEAD = 4; // files that are in memory, where they can't be kept, before the GPU takes them
const SLICE_BYTES = 1 << 20; // read from the store at a time
const TELL_EVERY = 100; // milliseconds between two progress messages

const DEFAULTS = {
  stall: 30_000, // milliseconds without a byte after which a transfer counts as broken
  pauses: [500, 1000, 2000, 4000, 8000], // milliseconds before the next try; reset by progress
  paused: false,
  tell: () => {}, // takes {done, total, stored, notice}
};

/**
 * Opens a model's folder: looks what of it is stored. Files are fetched when they are asked for.
 *
 * @param {string} url  the folder's address, on this page's origin, ending in a slash
 * @param {{files, weights}} manifest  lists of {file, bytes, sha256}, already checked
 * @param {object} options  see DEFAULTS
 */
export async function openDownload(url, manifest, options = {}) {
  const download = new Download(url, manifest, { ...DEFAULTS, ...options });
  await download.look();
  return download;
}

/** One load's files: where they are and how far. */
class Download {
  #url;
  #name; // what messages call the folder
  #options;
  #weights;
  #files; // name -> {file, bytes, sha256}
  #unique; // SHA-256 -> the same
  #total;
  #have = new Map(); // SHA-256 -> bytes that are here
  #stored = 0; // bytes that were here when it was opened
  #notice = null;
  #store = null; // where files are kept between visits; null where there is nowhere
  #keeps = false; // whether new bytes go there
  #memory = new MemoryStore();
  #keeping = new Map(); // SHA-256 -> the promise that it is whole
  #transferring = new Set(); // SHA-256s
  #closing = new AbortController();
  #transfers = new AbortController(); // those under way, until the next pause
  #resumed = null; // {promise, resolve} while paused
  #taken = 0; // weights that the reader is through with
  #readerMoved = Promise.withResolvers();
  #channel = new BroadcastChannel("gpt2web downloads");
  #untold = new Set(); // SHA-256s whose progress the other tabs have not been told
  #timer = null;

  constructor(url, { files, weights }, options) {
    this.#url = new URL(url);
    this.#name = decodeURIComponent(this.#url.pathname.split("/").at(-2));
    this.#options = options;
    this.#weights = weights;
    this.#files = new Map(files.map((file) => [file.file, file]));
    this.#unique = new Map([...files, ...weights].map((file) => [file.sha256, file]));
    this.#total = sum([...this.#unique.values()].map(({ bytes }) => bytes));
    this.#channel.onmessage = ({ data }) => this.#hear(data);
    if (options.paused) this.pause();
  }

  async look() {
    [this.#store = null] = await openStores();
    this.#keeps = this.#store !== null;
    const listed = this.#store ? await this.#store.list() : new Map();
    for (const { sha256, bytes } of this.#unique.values()) {
      const { whole, part } = listed.get(sha256) ?? { whole: 0, part: 0 };
      if (whole === bytes) this.#keeping.set(sha256, Promise.resolve());
      this.#have.set(sha256, Math.min(bytes, whole === bytes ? whole : part));
    }
    this.#stored = sum([...this.#have.values()]);
    const free = await freeBytes();
    if (!this.#keeps) this.#notice = `This browser keeps nothing for this page. ${FROM_MEMORY}`;
    else if (free < this.#total - this.#stored) this.#giveUpKeeping(free);
    this.#tell();
  }

  /** The bytes of one of the manifest's small files. */
  async read(file) {
    const shard = this.#files.get(file);
    return this.#verified(shard, new Uint8Array(shard.bytes));
  }

  /** All weights as one stream; from now on they come, and before them the small files not yet here. */
  stream() {
    const lock = { mode: "shared", signal: this.#closing.signal }; // removeModel asks for it
    const closed = new Promise((resolve) => this.#closing.signal.addEventListener("abort", resolve));
    navigator.locks.request(loadLock(this.#url.href), lock, () => closed).catch(() => {});
    const coming = [...this.#files.values(), ...this.#weights];
    let next = 0;
    const slot = async () => {
      while (next < coming.length) {
        const number = next++;
        await this.#mayCome(number - this.#files.size);
        await this.#keep(coming[number]);
      }
    };
    for (let slots = 0; slots < AT_ONCE; slots++) slot().catch(() => {}); // the reader gets the error
    const take = (number, into) => this.#take(number, into);
    return new JoinedStream(this.#weights, take, () => this.close());
  }

  pause() {
    if (this.#resumed) return;
    this.#resumed = Promise.withResolvers();
    this.#transfers.abort(failure("Paused", "the download is paused"));
    this.#transfers = new AbortController();
  }

  resume() {
    this.#resumed?.resolve();
    this.#resumed = null;
  }

  /** Ends all transfers; what has come stays for the next time. */
  close() {
    const over = failure("AbortError", `The download of ${this.#name} was ended.`);
    this.#closing.abort(over);
    this.#transfers.abort(over);
    this.resume();
    this.#channel.close();
    clearTimeout(this.#timer);
  }

  /** Waits until there is room in memory, where that is where weights go. */
  async #mayCome(number) {
    while (!this.#keeps && number >= this.#taken + AHEAD) await this.#readerMoved.promise;
  }

  /** A shard of the weights, verified, for the reader, who is then through with those before it. */
  async #take(number, into) {
    const before = this.#weights[number - 1];
    if (before) {
      if (await this.#memory.whole(before.sha256)) this.#keeping.delete(before.sha256);
      await this.#memory.remove(before.sha256);
    }
    this.#taken = number;
    this.#readerMoved.resolve();
    this.#readerMoved = Promise.withResolvers();
    return this.#verified(this.#weights[number], into);
  }

  /** All of a file's bytes, in `into`, with the right hash. */
  async #verified(shard, into) {
    for (let tries = 1; ; tries++) {
      this.#closing.signal.throwIfAborted(); // also with the error of a file that comes later
      await this.#keep(shard);
      const got = await this.#readBack(shard, into);
      if (got === shard.sha256) return into;
      if (tries === 2) {
        const where = `${this.#name}/${shard.file}`;
        throw failure(
          "CheckpointError",
          `${where} could not be read back from this browser's storage: wanted SHA-256 ` +
            `${shard.sha256}, got ${got}. Delete the model here and load it again.`,
          "storage-damaged",
        );
      }
      await this.#memory.remove(shard.sha256);
      await this.#store?.remove(shard.sha256).catch(() => {}); // a tab that transfers it has it open
      this.#keeping.delete(shard.sha256);
      this.#note(shard, 0);
    }
  }

  /** Fills `into` from where the file lies; the hash of that, or why there is none. */
  async #readBack(shard, into) {
    const hash = await takeHash();
    try {
      const blob = (await this.#memory.whole(shard.sha256)) ?? (await this.#store?.whole(shard.sha256));
      if (blob?.size !== shard.bytes) return `a file of ${blob?.size ?? 0} bytes`;
      let filled = 0;
      for await (const slice of slicesOf(blob)) {
        hash.update(slice);
        into.set(slice, filled);
        filled += slice.length;
      }
      return hash.digest();
    } catch (error) {
      return `an error (${error.message})`; // it was removed meanwhile, or the disk is failing
    } finally {
      idleHashes.push(hash);
    }
  }

  /** Brings a file here, or waits for the tab that is at it. */
  #keep(shard) {
    if (!this.#keeping.has(shard.sha256)) {
      const keeping = this.#bring(shard);
      keeping.catch((error) => this.#fail(error));
      this.#keeping.set(shard.sha256, keeping);
    }
    return this.#keeping.get(shard.sha256);
  }

  /** One file that can't be had ends all transfers: the model is of no use without it. */
  #fail(error) {
    if (!this.#closing.signal.aborted) this.#closing.abort(error);
    this.#transfers.abort(error);
  }

  async #bring(shard) {
    const { signal } = this.#closing;
    for (;;) {
      signal.throwIfAborted();
      await this.#resumed?.promise;
      const lock = `gpt2web ${shard.sha256}`;
      if (await navigator.locks.request(lock, { signal }, () => this.#transfer(shard))) return;
    }
  }

  /** Transfers a file to its end. Returns false when it was paused, and another tab may go on. */
  async #transfer(shard) {
    const { sha256, bytes } = shard;
    this.#closing.signal.throwIfAborted();
    if ((await this.#store?.whole(sha256))?.size === bytes) {
      this.#note(shard, bytes); // another tab has brought it
      return true;
    }
    const hash = await takeHash();
    this.#transferring.add(sha256);
    const coming = { shard, hash, part: null, inMemory: false };
    try {
      await this.#openPart(coming);
      const paused = !(await this.#receiveAll(coming));
      if (paused) return false;
      await this.#finish(coming);
      return true;
    } finally {
      this.#transferring.delete(sha256);
      idleHashes.push(hash);
      await coming.part?.close()?.catch?.(() => {}); // no room for the last bytes: the next time, then
    }
  }

  /** Goes on where the stored bytes end, which are hashed first. */
  async #openPart(coming) {
    const { shard, hash } = coming;
    const { sha256, bytes } = shard;
    let stored = (await this.#memory.part(sha256)) ?? (await this.#store?.part(sha256)) ?? new Blob();
    hash.init();
    try {
      if (stored.size > bytes) stored = new Blob();
      for await (const slice of slicesOf(stored)) hash.update(slice);
    } catch {
      hash.init(); // it can't be read: from the beginning, then
      stored = new Blob();
    }
    try {
      if (this.#keeps) coming.part = await this.#store.append(sha256, stored.size);
    } catch (error) {
      if (error.name !== "QuotaExceededError") throw error;
      this.#giveUpKeeping();
    }
    coming.inMemory = coming.part === null;
    coming.part ??= await this.#memory.adopt(sha256, stored);
    this.#note(shard, coming.part.length);
  }

  /** Requests until all bytes are here and their hash is right. Returns false when paused. */
  async #receiveAll(coming) {
    const { shard, hash } = coming;
    let instead = null; // what came, not the file
    let most = coming.part.length; // bytes, so far: what counts as progress
    let tries = 0; // without progress
    for (;;) {
      if (this.#resumed) return false;
      let got;
      try {
        if (coming.part.length < shard.bytes) await this.#receive(coming);
        got = `SHA-256 ${hash.digest()}`;
        if (got === `SHA-256 ${shard.sha256}`) return true;
      } catch (error) {
        this.#closing.signal.throwIfAborted(); // with what ended it all, perhaps another file's error
        if (error.name === "Paused") return false;
        if (error.name === "CheckpointError") throw this.#refusal(shard, error);
        if (error.name === "BrokenTransfer") {
          if (coming.part.length > most) tries = 0;
          most = Math.max(most, coming.part.length);
          if (tries === this.#options.pauses.length) throw this.#brokenFor(coming, error, tries + 1);
          await sleep(this.#options.pauses[tries++], this.#transfers.signal);
          continue;
        }
        if (error.name !== "WrongFile") throw error;
        got = error.message;
      }
      await this.#restart(coming);
      if (instead) throw this.#wrongFile(shard, got);
      instead = got;
      most = 0;
    }
  }

  /** One request, to the end of the file. */
  async #receive(coming) {
    const { shard, hash } = coming;
    const url = new URL(encodeURIComponent(shard.file), this.#url);
    const options = { signal: this.#transfers.signal, stall: this.#options.stall };
    const { from, chunks } = await request(url, coming.part.length, shard.bytes, options);
    if (from !== coming.part.length) await this.#restart(coming);
    for await (const chunk of chunks) {
      if (coming.part.length + chunk.length > shard.bytes) {
        throw wrong(`more than ${whole(shard.bytes)} bytes`);
      }
      await this.#append(coming, chunk);
      hash.update(chunk);
      this.#note(shard, coming.part.length);
    }
    if (coming.part.length < shard.bytes) throw broken("the server ended it early");
  }

  async #append(coming, chunk) {
    try {
      await coming.part.append(chunk);
    } catch (error) {
      if (error.name !== "QuotaExceededError" || coming.inMemory) throw error;
      await this.#moveToMemory(coming);
      await coming.part.append(chunk);
    }
  }

  async #restart({ shard, hash, part }) {
    await part.clear();
    hash.init();
    this.#note(shard, 0);
  }

  async #finish(coming) {
    const { sha256, bytes } = coming.shard;
    if (!coming.inMemory) {
      try {
        await coming.part.close();
        await this.#store.finish(sha256);
      } catch (error) {
        if (error.name !== "QuotaExceededError") throw error;
        await this.#moveToMemory(coming);
      }
    }
    if (coming.inMemory) {
      await coming.part.close();
      await this.#memory.finish(sha256);
    }
    coming.part = null;
    this.#note(coming.shard, bytes);
  }

  /** Room has run out: what is here of a file stays where it is, and its rest goes to memory. */
  async #moveToMemory(coming) {
    try {
      await coming.part.close();
    } catch {
      // its last piece had no room: it is in blob() all the same
    }
    coming.part = await this.#memory.adopt(coming.shard.sha256, await coming.part.blob());
    coming.inMemory = true;
    this.#giveUpKeeping();
  }

  /** From now on files go to memory. free: bytes; 0 where a write has been refused, whatever the
   *  browser's estimate, which Chromium rounds up to a fixed one. */
  #giveUpKeeping(free = 0) {
    if (!this.#keeps) return;
    this.#keeps = false;
    const needed = this.#total - this.#done();
    this.#notice =
      `There is no room here to keep ${this.#name}: ${megabytes(needed)} MB more are needed, ` +
      `${megabytes(free)} MB are free for this page. ${FROM_MEMORY}`;
    this.#tell();
  }

  // ---- What has come ----

  #note({ sha256 }, bytes) {
    this.#have.set(sha256, bytes);
    this.#untold.add(sha256);
    this.#timer ??= setTimeout(() => this.#tell(), TELL_EVERY);
    if (this.#done() === this.#total) this.#tell();
  }

  #done() {
    return sum([...this.#have.values()]);
  }

  #tell() {
    clearTimeout(this.#timer);
    this.#timer = null;
    if (this.#closing.signal.aborted) return;
    const told = [...this.#untold].filter((sha256) => this.#transferring.has(sha256));
    if (told.length) this.#channel.postMessage(told.map((sha256) => [sha256, this.#have.get(sha256)]));
    this.#untold.clear();
    const progress = { done: this.#done(), total: this.#total, stored: this.#stored, notice: this.#notice };
    this.#options.tell(progress);
  }

  /** Another tab tells how far its transfers are: this one waits for them. */
  #hear(told) {
    for (const [sha256, bytes] of told) {
      const shard = this.#unique.get(sha256);
      if (shard && !this.#transferring.has(sha256) && bytes < shard.bytes) this.#note(shard, bytes);
    }
  }

  // ---- What went wrong ----

  #refusal({ file }, { message, code }) {
    return failure("CheckpointError", `${this.#name}/${file}: ${message}. ${AGAIN}`, code);
  }

  #brokenFor({ shard, part }, { message }, tries) {
    const came = `${whole(part.length)} of ${whole(shard.bytes)} bytes are here`;
    const what = `${message}; ${came} after ${tries} tries. They stay, and the download goes on from there`;
    const way = "Look whether the network and the server are there, and load the model again.";
    const told = `${this.#name}/${shard.file} could not be fetched: ${what}. ${way}`;
    return failure("CheckpointError", told, "download-broken");
  }

  #wrongFile({ file, sha256 }, got) {
    const what = `wanted SHA-256 ${sha256}, got ${got}, twice; nothing of it is kept`;
    const message = `is not the file that manifest.json lists: ${what}. ${AGAIN}`;
    return failure("CheckpointError", `${this.#name}/${file} ${message}`, "download-refused");
  }
}

const AGAIN = "Whoever serves the model must put the whole folder there again, as it was written.";
const FROM_MEMORY = "It is loaded all the same, and will be fetched again the next time.";

/** Files one after another as one stream; a file's bytes lie in one buffer, used again for the next. */
class JoinedStream {
  #shards;
  #take; // (number, buffer): fills the buffer with that shard
  #close;
  #buffer;
  #joint = new Uint8Array(0); // for what two shards hold together
  #rest = new Uint8Array(0); // of the shard in the buffer, not yet handed out
  #next = 0;

  constructor(shards, take, close) {
    this.#shards = shards;
    this.#take = take;
    this.#close = close;
    this.size = sum(shards.map(({ bytes }) => bytes));
    this.#buffer = new Uint8Array(Math.max(...shards.map(({ bytes }) => bytes)));
  }

  /** Exactly `count` bytes, good until the next read. */
  async read(count) {
    if (this.#rest.length === 0 && count > 0) await this.#advance();
    if (this.#rest.length >= count) return this.#cut(count);
    if (this.#joint.length < count) this.#joint = new Uint8Array(count);
    const result = this.#joint.subarray(0, count);
    for (let filled = 0; filled < count; ) {
      if (this.#rest.length === 0) await this.#advance();
      const piece = this.#cut(Math.min(count - filled, this.#rest.length));
      result.set(piece, filled);
      filled += piece.length;
    }
    return result;
  }

  close() {
    this.#close();
    this.#buffer = this.#joint = this.#rest = new Uint8Array(0);
    this.#next = this.#shards.length;
  }

  #cut(count) {
    const piece = this.#rest.subarray(0, count);
    this.#rest = this.#rest.subarray(count);
    return piece;
  }

  async #advance() {
    if (this.#next === this.#shards.length) {
      const message = `The weights end after ${whole(this.size)} bytes, and more were wanted.`;
      throw failure("CheckpointError", `${message} Convert the model again.`, "checkpoint-damaged");
    }
    const number = this.#next++;
    this.#rest = await this.#take(number, this.#buffer.subarray(0, this.#shards[number].bytes));
  }
}

const idleHashes = []; // each has 128 KiB of WebAssembly memory: used again, not made anew

async function takeHash() {
  const hash = idleHashes.pop() ?? (await globalThis.hashwasm.createSHA256());
  return hash.init();
}

/** The bytes of a stored file, 1 MiB at most at a time, each slice good until the next is asked for. */
async function* slicesOf(blob) {
  const reader = new ChunkReader(blob.stream(), SLICE_BYTES);
  try {
    for (let slice; (slice = await reader.read()); ) yield slice;
  } finally {
    reader.close();
  }
}

/** Bytes that may still be stored here. */
async function freeBytes() {
  const { quota, usage } = (await navigator.storage?.estimate?.()) ?? {};
  return quota === undefined ? Infinity : Math.max(0, quota - usage);
}

/** Waits so long, or until the signal is aborted. */
function sleep(milliseconds, signal) {
  return new Promise((resolve) => {
    const wake = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", wake);
      resolve();
    };
    const timer = setTimeout(wake, milliseconds);
    signal.addEventListener("abort", wake);
    if (signal.aborted) wake();
  });
}

function sum(numbers) {
  return numbers.reduce((total, number) => total + number, 0);
}

function whole(number) {
  return number.toLocaleString("en");
}

function megabytes(bytes) {
  return (bytes / 1e6).toFixed(1);
}
