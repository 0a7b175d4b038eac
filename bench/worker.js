// worker.js of the bench: runs measure.py on dist/'s Pyodide and wheels, as web/worker.js runs the
// page's Python, and can count the calls of WebGPU. Served beside dist/'s files as bench/worker.js.

import { loadPyodide } from "../pyodide/pyodide.mjs";

const here = new URL("../", import.meta.url);
const CLASSES = [GPUDevice, GPUQueue, GPUCommandEncoder, GPUComputePassEncoder, GPUBuffer, GPUComputePipeline];
const BYTES = { copyBufferToBuffer: 4, mapAsync: 2 }; // which argument is a number of bytes
const plain = new Map(); // a counted class -> its methods as they were
const calls = {};
let subject = null;
let measure = null;

self.boot = async (wheels, source) => {
  const pyodide = await loadPyodide({ indexURL: new URL("pyodide/", here).href });
  const extractDir = pyodide.pyimport("site").getsitepackages().get(0);
  for (const file of wheels) {
    const wheel = await (await fetch(new URL(`wheels/${file}`, here))).arrayBuffer();
    pyodide.unpackArchive(wheel, "wheel", { extractDir });
  }
  pyodide.FS.writeFile("measure.py", source);
  measure = pyodide.pyimport("measure");
  return pyodide.pyimport("sys").version.split(" ")[0];
};

/** Calls a method of measure.Subject; plain values go in, JSON comes out. */
self.call = async (method, values) => {
  if (method === "load") {
    const [model, precision] = values;
    subject = await measure.Subject.load(model, precision ?? undefined, undefined, here.href);
    return "null";
  }
  let result = await subject[method](...values);
  if (result?.toJs) result = result.toJs({ dict_converter: Object.fromEntries });
  return JSON.stringify(result ?? null);
};

self.counted = () => calls;

self.count = (on) => {
  for (const type of CLASSES) {
    if (on) {
      const methods = Object.getOwnPropertyDescriptors(type.prototype);
      plain.set(type, methods);
      for (const [name, { value }] of Object.entries(methods)) {
        if (typeof value === "function" && name !== "constructor") patch(type, name, value);
      }
    } else {
      Object.defineProperties(type.prototype, plain.get(type));
    }
  }
};

function patch(type, name, original) {
  type.prototype[name] = function (...given) {
    calls[name] = (calls[name] ?? 0) + 1;
    if (name in BYTES) calls[`${name} bytes`] = (calls[`${name} bytes`] ?? 0) + given[BYTES[name]];
    return original.apply(this, given);
  };
}
