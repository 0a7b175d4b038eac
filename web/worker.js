// worker.js: starts Python and passes messages between link.js and gpt2web/page.py.
// The messages themselves are listed at the top of link.js.

import * as downloads from "./downloads.js";
import { failure } from "./errors.js";
import { HeadStart } from "./head_start.js";
import { recall, remember } from "./remembered.js";
import { watchRequests } from "./requests.js";
import { fetchWheels, startRuntime, unpack } from "./runtime.js";
import { VERSION } from "./version.js";

// A worker made from this file's own address would not have the page's Content-Security-Policy.
if (location.protocol !== "blob:") throw new Error("worker.js is started by gpt2web.js only");
if (self.version !== VERSION) {
  throw new Error("the server got a new version of this page while it was loaded");
}

const here = new URL("./", import.meta.url);
const post = (message) => postMessage(withNull(message.toJs({ dict_converter: Object.fromEntries })));

watchRequests((requests) => postMessage({ type: "requests", requests }));
const adapter = findAdapter();
const headStart = new HeadStart(adapter);
let starting = start();
starting.catch(() => {}); // told to whoever asks, below

onmessage = async ({ data }) => {
  if (data.edits) headStart.drop(); // what is remembered is not of those files
  else if (data.type === "load") headStart.compile(`pipelines of ${data.model}, ${data.precision ?? "as stored"}`);
  let runtime;
  try {
    runtime = await (data.edits || data.type === "sources" ? files() : starting);
  } catch (error) {
    postMessage({ type: "error", id: data.id, error: described(error) });
    return;
  }
  try {
    const message = runtime.pyodide.toPy(data);
    await runtime.page.handle(message); // errors are posted
    message.destroy();
  } catch (error) {
    die(error); // Python itself has failed, or has no memory left
  }
};

postMessage({ type: "ready" });

function die(error) {
  postMessage({ type: "died", message: String(error?.message ?? error).trim().split("\n").at(-1) });
}

async function start() {
  const [{ pyodide, started }] = await Promise.all([startRuntime(), adapter]);
  pyodide._api.on_fatal = die;
  pyodide.registerJsModule("gpt2web_downloads", downloads); // for gpt2web/browser_folder.py
  const memory = { recall, remember, head_start: () => headStart.take() };
  const page = pyodide.pyimport("gpt2web.page").Page(here.href, post, started, memory);
  return { pyodide, page, hasFiles: started === "anew" };
}

/** Python with our files. Where they do not come it is no worse than before: they are fetched when asked for again. */
function files() {
  const before = starting;
  const wanted = before.then(withFiles);
  starting = wanted.catch(() => before);
  starting.catch(() => {}); // told to whoever asks
  return wanted;
}

/** With our files in Python's file system, where a snapshot has none. */
async function withFiles(runtime) {
  if (!runtime.hasFiles) unpack(runtime.pyodide, await fetchWheels());
  return { ...runtime, hasFiles: true };
}

/** Says at once, before a byte of the model is fetched, that there is nothing to run it on. */
async function findAdapter() {
  const found = await navigator.gpu?.requestAdapter({ powerPreference: "high-performance" });
  if (found) return found;
  if (navigator.gpu) throw noDevice("WebGPU finds no graphics adapter here.");
  if (isSecureContext) throw noDevice("This browser has no WebGPU.");
  throw noDevice("Browsers keep WebGPU from addresses other than https:// and http://localhost.");
}

/** Python's None arrives as undefined; the messages say null. */
function withNull(value) {
  if (value === undefined) return null;
  if (value !== null && typeof value === "object" && !ArrayBuffer.isView(value)) {
    for (const key of Object.keys(value)) value[key] = withNull(value[key]);
  }
  return value;
}

function noDevice(message) {
  return failure("DeviceError", message, "device-missing");
}

/** An error of the start, as page.py describes those of the model. */
function described({ name, code, message, stack }) {
  if (typeof code === "string") return { name, code, message, detail: stack };
  const told = `Python could not be started (${message}). Reload the page; if that does not help, copy gpt2web anew.`;
  return { name: "LoadError", code: "runtime-damaged", message: told, detail: stack };
}
