// remembered.js: short texts that an earlier visit left for the next ones, in this version of the folder and
// this build of the browser: what it found out about the GPU. gpt2web/selftest.py and causal_lm.py ask.
//
// They are for a week: of a new graphics driver no page is told. Where nothing can be kept, in a private
// window for instance, nothing is remembered, and every visit is like the first.

import { madeOf } from "./snapshot.js";

const NAME = `gpt2web remembered ${new URL("./", import.meta.url).pathname}`; // of the cache
const LEFT = "X-Left"; // a header: when, in milliseconds since 1970
const WEEK = 7 * 24 * 3600 * 1000;

/** The text left under this name, "" where there is none. */
export async function recall(name) {
  try {
    const found = await caches.match(await address(name), { cacheName: NAME });
    return found && Date.now() - found.headers.get(LEFT) < WEEK ? await found.text() : "";
  } catch (error) {
    console.debug("Nothing can be remembered:", error);
    return "";
  }
}

/** Leaves a text; those of other versions go. */
export async function remember(name, text) {
  try {
    const cache = await caches.open(NAME);
    const mine = await address("");
    for (const { url } of await cache.keys()) if (!url.startsWith(mine)) await cache.delete(url);
    await cache.put(await address(name), new Response(text, { headers: { [LEFT]: Date.now() } }));
  } catch (error) {
    console.debug("Nothing can be remembered:", error);
  }
}

async function address(name) {
  return `${self.origin}/gpt2web-remembered?${await madeOf()}&name=${encodeURIComponent(name)}`;
}
