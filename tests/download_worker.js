// What test_downloads.py runs in a worker beside a copy of dist/'s downloads.js: it begins a download
// and reads its weights, as gpt2web/browser_folder.py does, and hands out what it sees.

const parameters = new URL(import.meta.url).searchParams;
for (const lacking of parameters.getAll("without")) {
  if (lacking === "opfs") delete FileSystemFileHandle.prototype.createSyncAccessHandle;
  if (lacking === "caches") Object.defineProperty(self, "caches", { value: undefined });
  if (lacking === "room") StorageManager.prototype.estimate = async () => ({ quota: 1_000_000, usage: 0 });
}
const { openDownload } = await import("./downloads.js");

const seen = { told: [], read: 0, sha256: null, error: null, over: false };
let download = null;
let stream = null;
let hash = null;
self.seen = () => ({ ...seen, last: seen.told.at(-1) ?? null, told: seen.told.length });
self.told = () => seen.told;
self.pause = () => download.pause();
self.resume = () => download.resume();

/** Opens the model; reads all texts and weights, or as many bytes of them as `limit` says. */
self.begin = async (model, { limit = Infinity, piece = 50_000, ...options }) => {
  const url = new URL(`models/${model}/`, import.meta.url).href;
  const manifest = await (await fetch(`${url}manifest.json`)).json();
  const tell = (told) => seen.told.push(told);
  try {
    download = await openDownload(url, manifest, { pauses: [20, 40, 80], ...options, tell });
    for (const { file } of manifest.files) await download.read(file);
    stream = download.stream();
    hash = (await globalThis.hashwasm.createSHA256()).init();
    await self.readOn(limit, piece);
  } catch ({ name, message }) {
    seen.error = { name, message };
  }
};

/** Reads on, to the end or so many bytes. */
self.readOn = async (limit = Infinity, piece = 50_000) => {
  while (seen.read < Math.min(limit, stream.size)) {
    const bytes = await stream.read(Math.min(piece, stream.size - seen.read));
    hash.update(bytes);
    seen.read += bytes.length;
  }
  if (seen.read < stream.size) return;
  seen.sha256 = hash.digest();
  seen.over = true;
  download.close();
};

postMessage("ready");
