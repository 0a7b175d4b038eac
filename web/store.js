// store.js: where downloaded files are kept between visits, each under its SHA-256.
//
// A file that is still coming is a part, which survives a reload at whatever length it has; once its
// hash is right it is whole. Three stores have the same methods: files in the origin private file
// system (OPFS), entries of the Cache API where that is missing, and memory, for one load only.
//
//   list()              Map of SHA-256 -> {whole, part}: bytes of either, 0 where there is none
//   whole(sha256)       a Blob on disk, or null          part(sha256)    likewise; null if empty
//   append(sha256, n)   a Part that goes on after the n bytes stored (worker only)
//   finish(sha256)      the part, closed by now, is whole
//   remove(sha256)      both are gone
// A Part has `length`, append(bytes), clear(), blob() and close(). append throws a
// QuotaExceededError where room runs out, and has then taken none of the bytes.

const NAME = "gpt2web"; // of the folder and of the cache
const SHA256 = /^[0-9a-f]{64}$/;
const PIECE_BYTES = 1 << 20; // of an entry in the Cache API, or of a Blob
const OPEN_TRIES = 40; // the file of a tab that has just died is free after a moment
const OPEN_PAUSE = 50; // milliseconds

/** The stores that this browser has, best first; none in some private windows. */
export async function openStores() {
  const stores = [];
  for (const open of [FileStore.open, CacheStore.open]) {
    try {
      const store = await open();
      if (store) stores.push(store);
    } catch {
      // Browsers refuse storage in their own ways: what is left will do.
    }
  }
  return stores;
}

/** The lock that a load has, shared, for as long as it reads the folder at this address. */
export function loadLock(url) {
  return `gpt2web load ${url}`;
}

class FileStore {
  #folder;

  static async open() {
    if (!globalThis.FileSystemFileHandle?.prototype.move) return null;
    const inWorker = typeof WorkerGlobalScope === "function";
    if (inWorker && !FileSystemFileHandle.prototype.createSyncAccessHandle) return null;
    const root = await navigator.storage.getDirectory();
    return new FileStore(await root.getDirectoryHandle(NAME, { create: true }));
  }

  constructor(folder) {
    this.#folder = folder;
  }

  async list() {
    const found = new Map();
    for await (const [name, handle] of this.#folder.entries()) {
      const [sha256, suffix] = name.split(".");
      if (!SHA256.test(sha256)) continue;
      const sizes = found.get(sha256) ?? { whole: 0, part: 0 };
      const size = (await handle.getFile().catch(() => null))?.size ?? 0; // gone in the meantime
      sizes[suffix === "part" ? "part" : "whole"] = size;
      found.set(sha256, sizes);
    }
    return found;
  }

  whole(sha256) {
    return this.#file(sha256);
  }

  async part(sha256) {
    const file = await this.#file(`${sha256}.part`);
    return file?.size ? file : null;
  }

  async append(sha256, length) {
    const file = await this.#folder.getFileHandle(`${sha256}.part`, { create: true });
    for (let tries = 1; ; tries++) {
      try {
        return new FilePart(file, await file.createSyncAccessHandle(), length);
      } catch (error) {
        if (error.name !== "NoModificationAllowedError" || tries === OPEN_TRIES) throw error;
      }
      await new Promise((resolve) => setTimeout(resolve, OPEN_PAUSE));
    }
  }

  async finish(sha256) {
    await this.#remove(sha256);
    await (await this.#folder.getFileHandle(`${sha256}.part`)).move(sha256);
  }

  async remove(sha256) {
    await this.#remove(sha256);
    await this.#remove(`${sha256}.part`);
  }

  async #file(name) {
    try {
      return await (await this.#folder.getFileHandle(name)).getFile();
    } catch (error) {
      if (error.name === "NotFoundError") return null;
      throw error;
    }
  }

  async #remove(name) {
    await this.#folder.removeEntry(name).catch((error) => {
      if (error.name !== "NotFoundError") throw error;
    });
  }
}

/** Bytes are on disk, for the next visit, as soon as they have come. */
class FilePart {
  #file;
  #handle;

  constructor(file, handle, length) {
    this.#file = file;
    this.#handle = handle;
    this.length = length;
    handle.truncate(length);
  }

  append(bytes) {
    const written = this.#handle.write(bytes, { at: this.length });
    // Chromium, refused by its quota, neither throws nor writes: it returns 2**64 - 1.
    if (written !== bytes.length) throw new DOMException("the disk is full", "QuotaExceededError");
    this.length += written;
  }

  clear() {
    this.#handle.truncate(0);
    this.length = 0;
  }

  async blob() {
    return (await this.#file.getFile()).slice(0, this.length);
  }

  close() {
    this.#handle.close();
  }
}

/** Pieces under <origin>/gpt2web/<sha256>/<first byte>-<bytes>, and /whole once all are there. */
class CacheStore {
  #cache;
  #base = `${self.origin}/${NAME}/`;

  static async open() {
    return globalThis.caches ? new CacheStore(await caches.open(NAME)) : null;
  }

  constructor(cache) {
    this.#cache = cache;
  }

  async list() {
    const found = new Map();
    const finished = new Set();
    for (const { url } of await this.#cache.keys()) {
      const [sha256, piece] = url.slice(this.#base.length).split("/");
      if (piece === "whole") finished.add(sha256);
      const sizes = found.get(sha256) ?? { whole: 0, part: 0 };
      sizes.part += Number(piece.split("-")[1] ?? 0);
      found.set(sha256, sizes);
    }
    for (const sha256 of finished) found.set(sha256, { whole: found.get(sha256).part, part: 0 });
    return found;
  }

  async whole(sha256) {
    const finished = await this.#cache.match(`${this.#base}${sha256}/whole`);
    return finished ? this.#pieces(sha256) : null;
  }

  async part(sha256) {
    return (await this.whole(sha256)) ? null : this.#pieces(sha256);
  }

  async append(sha256, length) {
    const put = (begin, blob) =>
      this.#cache.put(`${this.#base}${sha256}/${begin}-${blob.size}`, new Response(blob));
    return new PiecePart(put, () => this.remove(sha256), await this.#pieces(sha256), length);
  }

  finish(sha256) {
    return this.#cache.put(`${this.#base}${sha256}/whole`, new Response());
  }

  async remove(sha256) {
    const keys = await this.#keys(sha256);
    await Promise.all(keys.map((key) => this.#cache.delete(key)));
  }

  async #keys(sha256) {
    const keys = await this.#cache.keys();
    return keys.map(({ url }) => url).filter((url) => url.startsWith(`${this.#base}${sha256}/`));
  }

  /** The stored pieces that follow each other from the first byte on, as one Blob; null if none. */
  async #pieces(sha256) {
    const begins = new Map(); // first byte -> key
    for (const key of await this.#keys(sha256)) begins.set(Number.parseInt(key.split("/").at(-1)), key);
    const blobs = [];
    let length = 0;
    while (begins.has(length)) {
      const response = await this.#cache.match(begins.get(length));
      const blob = await response?.blob();
      if (!blob?.size) break;
      blobs.push(blob);
      length += blob.size;
    }
    return length ? new Blob(blobs) : null;
  }
}

/** For one load: Blobs, which the browser keeps outside this thread's heap. */
export class MemoryStore {
  #blobs = new Map(); // SHA-256 -> what has come so far
  #finished = new Set();

  async whole(sha256) {
    return this.#finished.has(sha256) ? this.#blobs.get(sha256) : null;
  }

  async part(sha256) {
    return this.#finished.has(sha256) ? null : (this.#blobs.get(sha256) ?? null);
  }

  /** Goes on after `blob`, which may lie in another store. */
  async adopt(sha256, blob) {
    this.#blobs.set(sha256, blob);
    return this.append(sha256, blob.size);
  }

  async append(sha256, length) {
    const put = (_, blob) => this.#blobs.set(sha256, new Blob([this.#blobs.get(sha256) ?? "", blob]));
    const clear = () => this.#blobs.delete(sha256);
    return new PiecePart(put, clear, this.#blobs.get(sha256) ?? null, length);
  }

  async finish(sha256) {
    this.#finished.add(sha256);
  }

  async remove(sha256) {
    this.#finished.delete(sha256);
    this.#blobs.delete(sha256);
  }
}

/** Collects what comes to pieces of about 1 MiB. */
class PiecePart {
  #put; // (first byte, Blob): keeps a piece
  #clear;
  #kept; // Blob of what put has kept
  #piece = new Uint8Array(PIECE_BYTES);
  #filled = 0; // bytes of the piece

  constructor(put, clear, kept, length) {
    this.#put = put;
    this.#clear = clear;
    this.#kept = kept ?? new Blob();
    this.length = length;
  }

  /** Takes at most 1 MiB. */
  async append(bytes) {
    if (this.#filled + bytes.length > PIECE_BYTES) await this.#flush();
    this.#piece.set(bytes, this.#filled);
    this.#filled += bytes.length;
    this.length += bytes.length;
  }

  async clear() {
    this.#kept = new Blob();
    this.length = this.#filled = 0;
    await this.#clear();
  }

  async blob() {
    return new Blob([this.#kept, this.#piece.subarray(0, this.#filled)]);
  }

  async close() {
    await this.#flush();
  }

  async #flush() {
    if (this.#filled === 0) return;
    const blob = new Blob([this.#piece.subarray(0, this.#filled)]);
    await this.#put(this.#kept.size, blob);
    this.#kept = new Blob([this.#kept, blob]);
    this.#filled = 0;
  }
}
