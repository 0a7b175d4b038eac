// remembered.js: short texts that an earlier visit left for the next ones, in this version of the folder and
// this build of the browser: what it found out about the GPU. gpt2web/selftest.py and causal_lm.py ask.

import { madeOf } from "./snapshot.js";

const NAME = `gpt2web remembered ${new URL("./", import.meta.url).pathname}`; // of the cache

/** The text left under this name, "" where there is none. */
export async function recall(name) {
  const found = await globalThis.caches?.match(await address(name), { cacheName: NAME });
  return found ? found.text() : "";
}

/** Leaves a text; those of other versions go. */
export async function remember(name, text) {
  if (!globalThis.caches) return;
  const cache = await caches.open(NAME);
  const mine = await address("");
  for (const { url } of await cache.keys()) if (!url.startsWith(mine)) await cache.delete(url);
  await cache.put(await address(name), new Response(text));
}

async function address(name) {
  return `${self.origin}/gpt2web-remembered?${await madeOf()}&name=${encodeURIComponent(name)}`;
}
