// snapshot.js: the started interpreter, kept in this browser as an image of its memory.
//
// It holds Python with every module of ours and all shaders (gpt2web/preload.py), nothing of a model and
// nothing that a reader wrote: snapshot_worker.js makes it of an interpreter that has done nothing else.
// Its name says what it was made of, the version of this folder and the browser's build: another one is
// not found, and deleted when the next is made. Its hash is checked before it is used.

import { VERSION } from "./version.js";

const NAME = `gpt2web snapshot ${new URL("./", import.meta.url).pathname}`; // of the cache
const HASH = "X-SHA-256"; // a header

/** The snapshot as it lies here, a Response; undefined where there is none, or nothing can be kept. */
export async function findSnapshot() {
  try {
    return await globalThis.caches?.match(await address(), { cacheName: NAME });
  } catch (error) {
    console.debug("No snapshot can be kept:", error);
  }
}

/** Its bytes; an error where they are damaged. */
export async function verified(response) {
  const bytes = new Uint8Array(await response.arrayBuffer());
  const found = await digest(bytes);
  if (found === response.headers.get(HASH)) return bytes;
  throw new Error(`it has SHA-256 ${found}, not ${response.headers.get(HASH)}`);
}

/** Keeps a snapshot in place of any before it. */
export async function keepSnapshot(bytes) {
  const headers = { [HASH]: await digest(bytes) };
  await caches.delete(NAME);
  const cache = await caches.open(NAME);
  await cache.put(await address(), new Response(bytes, { headers }));
}

export async function dropSnapshot() {
  await caches.delete(NAME);
}

async function address() {
  return `${self.origin}/gpt2web-snapshot?${await madeOf()}`;
}

/** What a thing of this version, in this browser, was made of: as the query of an address. */
export async function madeOf() {
  const { fullVersionList = [] } =
    (await navigator.userAgentData?.getHighEntropyValues(["fullVersionList"])) ?? {};
  const builds = fullVersionList.map(({ brand, version }) => `${brand} ${version}`).sort();
  return new URLSearchParams({ version: VERSION, browser: navigator.userAgent, builds });
}

/** SHA-256 in hexadecimal. */
export async function digest(bytes) {
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
