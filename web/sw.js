// sw.js: the service worker. The page works without its server from the second visit on, and no tab ever
// gets files of two versions.
//
// build.py writes VERSION here and version.json beside it: {version, files: {path: SHA-256}}, version being
// the SHA-256 of `files` as JSON. A new version is first brought here whole, every file checked, into a
// cache of its own; until then, and if the server has it only in part, the one before stays. Then it takes
// over: pages that are opened from now on get it, and those that are open keep theirs, with the workers
// that they start: which client has which version is written down, as a service worker may be ended and
// started again at any time. Caches that no tab uses are deleted.
//
// Weights and what else a model's manifest lists are not kept here: downloads.js does that. Nothing but
// files of this folder is ever asked for.

const VERSION = "";

const SCOPE = new URL(registration.scope);
const PREFIX = `gpt2web page ${SCOPE.pathname} `; // of a version's cache: two copies may share an origin
const CLIENTS = `gpt2web clients ${SCOPE.pathname}`; // the cache that has {version, since} of each client
const WEIGHTS = /\.(safetensors|part)$/;
const SETTLED = 10_000; // milliseconds after which a client that has begun is surely among clients.matchAll
const AT_ONCE = 4; // files

const versions = new Map(); // client id -> version: what CLIENTS has of those seen since the last start

addEventListener("install", (event) => event.waitUntil(install()));
addEventListener("activate", (event) => event.waitUntil(clients.claim().then(sweep)));
addEventListener("message", ({ source, data }) => remember(source.id, data.version)); // see offline.js
addEventListener("fetch", (event) => {
  const { method, mode, url } = event.request;
  const { origin, pathname, searchParams } = new URL(url);
  if (method !== "GET" || origin !== SCOPE.origin || !pathname.startsWith(SCOPE.pathname)) return;
  if (WEIGHTS.test(pathname)) return;
  const path = pathname.slice(SCOPE.pathname.length) || "index.html";
  if (mode === "navigate") event.respondWith(open(event, path));
  else event.respondWith(answer(event, path, searchParams.get("version")));
});

// Pages list what this worker asks for: what_left.js.
new PerformanceObserver(async (list) => {
  const requests = list.getEntries().map(({ name, transferSize, startTime }) => {
    return { address: name, how: "service worker", bytes: transferSize, began: performance.timeOrigin + startTime };
  });
  const pages = await clients.matchAll({ includeUncontrolled: true });
  for (const page of pages) page.postMessage({ requests });
}).observe({ type: "resource", buffered: true });

// ---- Bringing a version here ----

async function install() {
  await navigator.locks.request(PREFIX, async () => {
    const { text, files } = await fetchList();
    const cache = await caches.open(PREFIX + VERSION);
    const waiting = Object.entries(files);
    const slot = async () => {
      for (let next; (next = waiting.shift()); ) await bring(cache, ...next);
    };
    await Promise.all(Array.from({ length: AT_ONCE }, slot));
    await cache.put(addressOf("version.js"), script(`export const VERSION = "${VERSION}";\n`));
    const headers = { "Content-Type": "application/json" };
    await cache.put(addressOf("version.json"), new Response(text, { headers })); // last: it is whole
  });
  skipWaiting();
}

/** version.json, which must be that of this file: else the server has one of the two only. */
async function fetchList() {
  const response = await fetch(addressOf("version.json"), { cache: "no-cache" });
  const text = response.ok ? await response.text() : "{}";
  const { files } = JSON.parse(text);
  const found = await digest(new TextEncoder().encode(JSON.stringify(files ?? null)));
  if (found === VERSION) return { text, files };
  throw new Error(`version.json is of version ${found}, sw.js of ${VERSION}: one of them is yet to come.`);
}

/** Puts a file into the cache: from another version's, where it is the same, else from the server. */
async function bring(cache, path, sha256) {
  const address = addressOf(path);
  if (await cache.match(address)) return; // an earlier try has brought it, and checked it
  for (const find of [fromOtherVersions, fetchPlainly, fetchAnew]) {
    const response = await find(path, address, sha256);
    if (!response?.ok || (await digest(await response.clone().arrayBuffer())) !== sha256) continue;
    // A response with its address is what browsers keep compiled code with; one that was redirected
    // would be refused for a navigation.
    await cache.put(address, response.redirected ? await plain(response) : response);
    return;
  }
  throw new Error(`${path} is not that of version ${VERSION}: the server has this version only in part.`);
}

async function fromOtherVersions(path, address, sha256) {
  for (const name of await caches.keys()) {
    if (!name.startsWith(PREFIX) || name === PREFIX + VERSION) continue;
    const list = await caches.match(addressOf("version.json"), { cacheName: name });
    if (list && (await list.json()).files[path] === sha256) return caches.match(address, { cacheName: name });
  }
}

function fetchPlainly(path, address) {
  return fetch(path === "index.html" ? SCOPE : address); // some hosts redirect from index.html
}

function fetchAnew(path, address) {
  return fetch(path === "index.html" ? SCOPE : address, { cache: "reload" });
}

async function plain(response) {
  const headers = { "Content-Type": response.headers.get("Content-Type") };
  return new Response(await response.arrayBuffer(), { headers });
}

function script(text) {
  return new Response(text, { headers: { "Content-Type": "text/javascript" } });
}

// ---- Answering ----

/** A page that is opened: it gets this version, and so does all that it asks for later. */
async function open(event, path) {
  await remember(event.resultingClientId, VERSION);
  event.waitUntil(sweep());
  return (await cached(VERSION, path)) ?? fetch(event.request);
}

/** A file for a page or worker, of the version that it began with. */
async function answer(event, path, asked) {
  if (asked && (await cached(asked, path))) await remember(event.clientId, asked); // a worker begins
  const version = event.clientId ? await versionOf(event.clientId) : VERSION; // the browser's own: icons
  if (version === undefined) return fetch(event.request); // it began without a service worker
  const found = await cached(version, path);
  if (found) return found;
  // Its cache was deleted, which only the reader does: better nothing than another version's file.
  if (!(await caches.has(PREFIX + version))) return Response.error();
  return fetch(event.request);
}

function cached(version, path) {
  return caches.match(addressOf(path), { cacheName: PREFIX + version });
}

// ---- Which client has which version ----

async function remember(id, version) {
  if (!id || versions.get(id) === version) return;
  versions.set(id, version);
  const entry = JSON.stringify({ version, since: Date.now() });
  await (await caches.open(CLIENTS)).put(keyOf(id), new Response(entry));
}

async function versionOf(id) {
  if (!versions.has(id)) {
    const entry = await caches.match(keyOf(id), { cacheName: CLIENTS });
    if (entry) versions.set(id, (await entry.json()).version);
  }
  return versions.get(id);
}

/** Forgets clients that are gone, and deletes the caches that none uses. */
async function sweep() {
  await navigator.locks.request(PREFIX, { ifAvailable: true }, async (granted) => {
    if (!granted || registration.installing || registration.waiting) return; // a version is on its way
    const all = await clients.matchAll({ includeUncontrolled: true, type: "all" });
    const alive = new Set(all.map(({ id }) => keyOf(id)));
    const entries = await caches.open(CLIENTS);
    const used = new Set([VERSION]);
    for (const { url } of await entries.keys()) {
      const { version, since } = await (await entries.match(url)).json();
      if (alive.has(url) || Date.now() - since < SETTLED) used.add(version);
      else await entries.delete(url);
    }
    for (const name of await caches.keys()) {
      if (name.startsWith(PREFIX) && !used.has(name.slice(PREFIX.length))) await caches.delete(name);
    }
  });
}

// ---- Small things ----

function addressOf(path) {
  return new URL(path, SCOPE).href;
}

function keyOf(id) {
  return addressOf(`client/${id}`);
}

async function digest(bytes) {
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
