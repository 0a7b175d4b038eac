// snapshot_worker.js: a second, fresh interpreter, that makes the snapshot which the next visit starts from.
// gpt2web.js starts this worker when nothing else is to be done, and ends it when it has posted.

import { watchRequests } from "./requests.js";
import { get, startAnew } from "./runtime.js";
import { digest, findSnapshot, keepSnapshot } from "./snapshot.js";
import { VERSION } from "./version.js";

watchRequests((requests) => postMessage({ requests }));
make().then(
  (bytes) => postMessage({ bytes }),
  (error) => postMessage({ error: String(error) }),
);

/** Makes it, unless another tab is at it or has done it. Returns its size in bytes. */
function make() {
  return navigator.locks.request("gpt2web snapshot", { ifAvailable: true }, async (granted) => {
    if (!granted || (await findSnapshot()) || (await isMixed())) return 0;
    const pyodide = await startAnew({ _makeSnapshot: true });
    const preload = pyodide.pyimport("gpt2web.preload");
    preload.preload();
    preload.destroy();
    const image = pyodide.makeMemorySnapshot();
    await keepSnapshot(image);
    return image.length;
  });
}

/** Whether the server has got a new version since the page came: the wheels could be of that. */
async function isMixed() {
  const [list, wheels] = await Promise.all(["version.json", "wheels.json"].map(get));
  const { version, files } = await list.json();
  return version !== VERSION || files["wheels.json"] !== (await digest(await wheels.arrayBuffer()));
}
