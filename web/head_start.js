// head_start.js: what the GPU can do before Python is up: give its device, and compile the pipelines that
// the last load of the same model needed. gpt2web/head_start.py takes both over.

import { recall } from "./remembered.js";

export class HeadStart {
  #begun; // promise of {adapter, device} and, after compile(), of more; of null where there is none

  /** adapter: promise of a GPUAdapter. */
  constructor(adapter) {
    this.#begun = adapter.then(openDevice).catch(() => null); // Python asks again, and says what is wrong
  }

  /** Begins to compile what is remembered under this name. */
  compile(name) {
    const remembered = recall(name);
    this.#begun = this.#begun.then(async (begun) => begun && compile(begun, name, await remembered));
  }

  /** Gives back what has been begun: nobody will take it. */
  drop() {
    this.take().then((begun) => begun?.device.destroy());
  }

  /** A promise of {adapter, device, name, text, pipelines}, once; then of null. */
  take() {
    const begun = this.#begun;
    this.#begun = Promise.resolve(null);
    return begun;
  }
}

/** With the limits that gpt2web/gpu.py asks for. */
async function openDevice(adapter) {
  const { maxBufferSize, maxStorageBufferBindingSize } = adapter.limits;
  const device = await adapter.requestDevice({ requiredLimits: { maxBufferSize, maxStorageBufferBindingSize } });
  return { adapter, device };
}

/** text: as head_start.py wrote it. pipelines: a promise for each, of null where it can't be had. */
function compile({ adapter, device }, name, text) {
  const pipelines = [];
  device.pushErrorScope("validation"); // Python compiles what is not ours itself
  try {
    const { sources, pipelines: listed } = JSON.parse(text || '{"pipelines": []}');
    const modules = {};
    for (const [kernel, constants] of listed) {
      modules[kernel] ??= device.createShaderModule({ label: kernel, code: sources[kernel] });
      const compute = { module: modules[kernel], entryPoint: "main", constants: Object.fromEntries(constants) };
      const pipeline = device.createComputePipelineAsync({ label: kernel, layout: "auto", compute });
      pipelines.push(pipeline.catch(() => null));
    }
  } catch (error) {
    console.debug("The list of pipelines is of no use:", error);
  }
  device.popErrorScope().catch(() => {}); // a lost device: Python will see
  return { adapter, device, name, text, pipelines };
}
