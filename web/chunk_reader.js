// chunk_reader.js: reads a stream into one buffer, over and over, where the browser can.
//
// A new array for each chunk would be garbage that piles up to many times the size of what is kept: the
// collector counts on its own heap, not on what such arrays hold outside it.

const idle = []; // buffers that no reader has

export class ChunkReader {
  #reader;
  #buffer = null; // null where the browser hands out arrays of its own

  constructor(stream, bytes) {
    try {
      this.#reader = stream.getReader({ mode: "byob" });
      const found = idle.findIndex((buffer) => buffer.byteLength === bytes);
      this.#buffer = found < 0 ? new ArrayBuffer(bytes) : idle.splice(found, 1)[0];
    } catch {
      this.#reader = stream.getReader();
    }
  }

  /** The next chunk, good until the next read; null at the end. */
  async read() {
    if (!this.#buffer) return (await this.#reader.read()).value ?? null;
    const { done, value } = await this.#reader.read(new Uint8Array(this.#buffer));
    if (value) this.#buffer = value.buffer; // the same memory under a new name: the old one is detached
    return done ? null : value;
  }

  /** Ends the stream; harmless after its end. */
  close() {
    this.#reader.cancel().catch(() => {});
    if (this.#buffer?.byteLength) idle.push(this.#buffer); // unless a read under way has it
    this.#buffer = null;
  }
}
