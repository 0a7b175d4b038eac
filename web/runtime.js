// runtime.js: Pyodide with our wheels, in a worker: from a memory snapshot, or by starting Python anew.

import { failure, fetchOwn } from "./errors.js";
import { loadPyodide } from "./pyodide/pyodide.mjs";
import { digest, dropSnapshot, findSnapshot, verified } from "./snapshot.js";

const here = new URL("./", import.meta.url);
const indexURL = new URL("pyodide/", here).href;

/**
 * Starts Python.
 *
 * @returns {Promise<{pyodide, started: "snapshot" | "anew"}>}
 */
export async function startRuntime() {
  const found = await findSnapshot();
  if (found) {
    try {
      const pyodide = await loadPyodide({ indexURL, _loadSnapshot: verified(found) });
      return { pyodide, started: "snapshot" };
    } catch (error) {
      console.debug("The snapshot is of no use:", error); // one that is damaged; another will be made
      await dropSnapshot();
    }
  }
  return { pyodide: await startAnew(), started: "anew" };
}

/** Python, started as from the beginning; `options` are loadPyodide's. */
export async function startAnew(options = {}) {
  const [pyodide, wheels] = await Promise.all([loadPyodide({ indexURL, ...options }), fetchWheels()]);
  unpack(pyodide, wheels);
  return pyodide;
}

/** Puts the files of wheels where Python finds them. */
export function unpack(pyodide, wheels) {
  const site = pyodide.pyimport("site");
  const folders = site.getsitepackages();
  const extractDir = folders.get(0);
  folders.destroy();
  site.destroy();
  for (const wheel of wheels) pyodide.unpackArchive(wheel, "wheel", { extractDir });
}

/** The wheels that Python is started with. */
export async function fetchWheels() {
  const list = await (await get("wheels.json")).json();
  return Promise.all(list.map(fetchWheel));
}

async function fetchWheel({ file, sha256 }) {
  const archive = await (await get(`wheels/${file}`)).arrayBuffer();
  const found = await digest(archive);
  if (found === sha256) return archive;
  const problem = `wheels/${file} has sha256 ${found}, but wheels.json says ${sha256}`;
  throw failure("LoadError", `${problem}: build or copy it again.`, "runtime-damaged");
}

/** A file of this folder. */
export function get(path) {
  return fetchOwn(new URL(path, here), path);
}
