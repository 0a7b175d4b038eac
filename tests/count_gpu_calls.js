// Stands before worker.js in tests: counts the real WebGPU calls of the worker, and answers every
// message on the channel "count-gpu-calls" with the counts so far.
const counts = { bytesRead: 0 };

function count(type, method, also = () => {}) {
  counts[method] = 0;
  const original = type.prototype[method];
  type.prototype[method] = function (...given) {
    counts[method] += 1;
    also(...given);
    return original.apply(this, given);
  };
}

count(GPUDevice, "createBuffer");
count(GPUDevice, "createBindGroup");
count(GPUDevice, "createShaderModule");
count(GPUDevice, "createComputePipeline");
count(GPUDevice, "createComputePipelineAsync");
count(GPUDevice, "createCommandEncoder");
count(GPUCommandEncoder, "beginComputePass");
count(GPUCommandEncoder, "copyBufferToBuffer", (...given) => {
  counts.bytesRead += given[4] ?? given[2] ?? 0;
});
count(GPUComputePassEncoder, "dispatchWorkgroups");
count(GPUComputePassEncoder, "setBindGroup");
count(GPUQueue, "submit");
count(GPUQueue, "writeBuffer");
count(GPUBuffer, "mapAsync");
count(GPUBuffer, "destroy");

const channel = new BroadcastChannel("count-gpu-calls");
channel.onmessage = () => channel.postMessage(counts);
