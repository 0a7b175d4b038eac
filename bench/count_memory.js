// Stands before worker.js's own text: knows every WebAssembly memory and every GPU buffer from its
// making on. memoryUse() says what they hold.

{
  const memories = new Set();
  let interpreter = null; // exports of the WebAssembly module that has CPython's own functions
  const buffers = { made: 0, destroyed: 0, bytes: 0 }; // bytes: of those not destroyed yet

  for (const name of ["instantiate", "instantiateStreaming"]) {
    const plain = WebAssembly[name];
    WebAssembly[name] = async (...given) => {
      const made = await plain.apply(WebAssembly, given);
      note((made.instance ?? made).exports);
      return made;
    };
  }
  WebAssembly.Memory = new Proxy(WebAssembly.Memory, {
    construct(type, given) {
      const memory = Reflect.construct(type, given);
      memories.add(memory);
      return memory;
    },
  });
  const Memory = Object.getPrototypeOf(new WebAssembly.Memory({ initial: 0 })).constructor;

  function note(exports) {
    for (const value of Object.values(exports)) if (value instanceof Memory) memories.add(value);
    if (exports.PyGC_Collect && exports.mallinfo) interpreter = exports;
  }

  const { createBuffer } = GPUDevice.prototype;
  GPUDevice.prototype.createBuffer = function (described) {
    const buffer = createBuffer.call(this, described);
    buffers.made += 1;
    buffers.bytes += buffer.size;
    return buffer;
  };
  const { destroy } = GPUBuffer.prototype;
  const gone = new WeakSet();
  GPUBuffer.prototype.destroy = function () {
    if (!gone.has(this)) {
      gone.add(this);
      buffers.destroyed += 1;
      buffers.bytes -= this.size;
    }
    return destroy.call(this);
  };

  // A positive control: with `leak` over 0 each submit leaves behind so many bytes of everything, and
  // takes the longer the more submits have.
  self.leak = 0;
  const leaked = [];
  const { submit } = GPUQueue.prototype;
  GPUQueue.prototype.submit = function (...given) {
    if (self.leak > 0) {
      const usage = GPUBufferUsage.COPY_DST;
      leaked.push([new Array(self.leak / 8).fill(0.5), device.createBuffer({ size: self.leak, usage })]);
      interpreter.malloc(self.leak);
      const until = performance.now() + 0.05 * leaked.length; // milliseconds
      while (performance.now() < until);
    }
    return submit.apply(this, given);
  };
  let device = null;
  const { requestDevice } = GPUAdapter.prototype;
  GPUAdapter.prototype.requestDevice = async function (...given) {
    device = await requestDevice.apply(this, given);
    return device;
  };

  self.wasmBytes = () => [...memories].reduce((sum, { buffer }) => sum + buffer.byteLength, 0);

  /** What malloc has handed out: Pyodide's Python takes every object from there. */
  let info = 0; // where mallinfo writes its ten numbers
  function pythonBytes() {
    if (!interpreter) return 0;
    interpreter.PyGC_Collect();
    info ||= interpreter.malloc(40);
    interpreter.mallinfo(info);
    return new Uint32Array(interpreter.memory.buffer, info, 10)[7];
  }

  self.memoryUse = () => ({
    python: pythonBytes(),
    gpu_buffers: buffers.made - buffers.destroyed,
    gpu_bytes: buffers.bytes,
  });
}
