// stored.js: which models there are, and what of them this browser keeps. Exported by gpt2web.js.

import { abortable } from "./abort.js";
import { failure, fetchOwn, known } from "./errors.js";
import { loadLock, openStores } from "./store.js";

const here = new URL("./", import.meta.url);
const LOCK_WAIT = 1000; // milliseconds: a worker that was just ended has the lock a moment longer

/**
 * The models of this folder (models.json), and how much of each is stored in this browser.
 *
 * @param {{signal?: AbortSignal}} [options]
 * @returns {Promise<{name, title, license, precision, parameters, context, bytes, stored}[]>}  bytes: what
 *   a load needs in all; bytes - stored is what it will download
 */
export async function models(options = {}) {
  const { signal } = known(options, ["signal"], "models");
  return abortable(listModels(), signal);
}

async function listModels() {
  const [listed, sizes] = await Promise.all([fetchJson("models.json"), storedSizes()]);
  const files = await Promise.all(listed.map(({ name }) => filesOf(name).catch(() => []))); // load says why
  return listed.map((model, number) => ({ ...model, stored: storedOf(files[number], sizes) }));
}

/**
 * Deletes what is stored of a model, half a download too. A file that another model has as well, all of
 * which is stored, stays.
 *
 * @param {string} name  a folder under models/
 * @param {{signal?: AbortSignal}} [options]  gives up as long as nothing is deleted
 * @throws {Error} with name BusyError while the model is being loaded, in this tab or another; LoadError
 *   where there is no such model
 */
export async function removeModel(name, options = {}) {
  const { signal } = known(options, ["signal"], "removeModel");
  const timeout = AbortSignal.timeout(LOCK_WAIT);
  const free = { signal: AbortSignal.any([timeout, ...(signal ? [signal] : [])]) };
  try {
    await navigator.locks.request(loadLock(folderOf(name)), free, () => removeFiles(name, signal));
  } catch (error) {
    if (error !== timeout.reason) throw error;
    const message = `${name} is being loaded, here or in another tab: end that, and delete it then.`;
    throw failure("BusyError", message, "busy");
  }
}

async function removeFiles(name, signal) {
  const [files, all, stores] = await Promise.all([filesOf(name), listModels(), openStores()]);
  const others = all.filter((model) => model.name !== name && model.stored === model.bytes);
  const needed = await Promise.all(others.map((model) => filesOf(model.name)));
  const stay = new Set(needed.flat().map(({ sha256 }) => sha256));
  const gone = files.filter(({ sha256 }) => !stay.has(sha256));
  signal?.throwIfAborted();
  await Promise.all(stores.flatMap((store) => gone.map(({ sha256 }) => store.remove(sha256))));
}

/**
 * Asks the browser not to delete what is stored here when room runs short elsewhere.
 *
 * @param {{signal?: AbortSignal}} [options]  gives up waiting for the answer
 * @returns {Promise<boolean>}  whether it will do so; it may ask the reader, or decide by itself
 */
export async function keepOffline(options = {}) {
  const { signal } = known(options, ["signal"], "keepOffline");
  return abortable(navigator.storage?.persist?.() ?? Promise.resolve(false), signal);
}

function folderOf(name) {
  return new URL(`models/${name}/`, here).href;
}

async function fetchJson(path, missing) {
  return (await fetchOwn(new URL(path, here), path, { missing, cache: "no-cache" })).json();
}

/** A model's files, {file, bytes, sha256} each. */
async function filesOf(name) {
  const { files, weights } = await fetchJson(`models/${name}/manifest.json`, "checkpoint-missing");
  return [...files, ...weights];
}

/** SHA-256 -> {whole, part}, over all that this browser keeps. */
async function storedSizes() {
  const lists = await Promise.all((await openStores()).map((store) => store.list()));
  return new Map(lists.toReversed().flatMap((list) => [...list]));
}

function storedOf(files, sizes) {
  const unique = new Map(files.map((file) => [file.sha256, file.bytes]));
  let stored = 0;
  for (const [sha256, bytes] of unique) {
    const { whole, part } = sizes.get(sha256) ?? { whole: 0, part: 0 };
    stored += Math.min(bytes, whole === bytes ? whole : part);
  }
  return stored;
}
