// stored.js: which models there are, and what of them this browser keeps. Exported by gpt2web.js.

import { loadLock, openStores } from "./store.js";

const here = new URL("./", import.meta.url);

/**
 * The models of this folder (models.json), and how much of each is stored in this browser.
 *
 * @returns {Promise<{name, title, license, precision, parameters, context, bytes, stored}[]>}  bytes: what
 *   a load needs in all; bytes - stored is what it will download
 */
export async function models() {
  const [listed, sizes] = await Promise.all([fetchJson("models.json"), storedSizes()]);
  const shards = await Promise.all(listed.map(({ name }) => shardsOf(name)));
  return listed.map((model, number) => ({ ...model, stored: storedOf(shards[number], sizes) }));
}

/**
 * Deletes what is stored of a model, half a download too. A file that another model has as well, all of
 * which is stored, stays.
 *
 * @param {string} name  a folder under models/
 * @throws {Error} with name BusyError while the model is being loaded, in this tab or another
 */
export async function removeModel(name) {
  const lock = loadLock(folderOf(name));
  await navigator.locks.request(lock, { ifAvailable: true }, async (granted) => {
    if (!granted) {
      const message = `${name} is being loaded, here or in another tab: end that, and delete it then.`;
      throw named("BusyError", message);
    }
    const [shards, all, stores] = await Promise.all([shardsOf(name), models(), openStores()]);
    const others = all.filter((model) => model.name !== name && model.stored === model.bytes);
    const needed = await Promise.all(others.map((model) => shardsOf(model.name)));
    const stay = new Set(needed.flat().map(({ sha256 }) => sha256));
    const gone = shards.filter(({ sha256 }) => !stay.has(sha256));
    await Promise.all(stores.flatMap((store) => gone.map(({ sha256 }) => store.remove(sha256))));
  });
}

/**
 * Asks the browser not to delete what is stored here when room runs short elsewhere.
 *
 * @returns {Promise<boolean>}  whether it will do so; it may ask the reader, or decide by itself
 */
export async function keepOffline() {
  return (await navigator.storage?.persist?.()) ?? false;
}

function folderOf(name) {
  return new URL(`models/${name}/`, here).href;
}

async function fetchJson(path) {
  const response = await fetch(new URL(path, here), { cache: "no-cache" });
  if (response.ok) return response.json();
  const message = `${path} could not be fetched: the server answered ${response.status}.`;
  throw named("LoadError", message);
}

/** A model's files, {file, bytes, sha256} each; none where it has no manifest that can be read. */
async function shardsOf(name) {
  try {
    const { files, weights } = await fetchJson(`models/${name}/manifest.json`);
    return [...files, ...weights];
  } catch {
    return []; // load says what is wrong with it
  }
}

/** SHA-256 -> {whole, part}, over all that this browser keeps. */
async function storedSizes() {
  const lists = await Promise.all((await openStores()).map((store) => store.list()));
  return new Map(lists.toReversed().flatMap((list) => [...list]));
}

function storedOf(shards, sizes) {
  const unique = new Map(shards.map((shard) => [shard.sha256, shard.bytes]));
  let stored = 0;
  for (const [sha256, bytes] of unique) {
    const { whole, part } = sizes.get(sha256) ?? { whole: 0, part: 0 };
    stored += Math.min(bytes, whole === bytes ? whole : part);
  }
  return stored;
}

function named(name, message) {
  return Object.assign(new Error(message), { name });
}
