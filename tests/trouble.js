// Stands before worker.js in tests: bad luck to order. PLAN, which a test writes into this text, and every
// message on the channel "trouble" change what is to happen; each message is answered with what has.
//
//   lose: {method: [numbers]}   the device is lost at these calls of a WebGPU method, counted from now on
//   loseNow: true               the device is lost
//   room: bytes                 what all buffers may take; createBuffer fails beyond, as browsers do
//   wrong: [text, other]        replaced in every shader
//   end: true                   the worker ends
//   throw: true                 it throws
const PLAN = {};
const plan = { lose: {}, room: Infinity, wrong: null };
const seen = { lost: 0, refused: 0 };
const counts = {}; // calls of each method
const sizes = new Map(); // buffer -> bytes
const scopes = []; // error scopes: the errors put into each
let taken = 0; // bytes of the newest device's buffers
let newest = null; // device

function wrap(type, method, change) {
  const original = type.prototype[method];
  type.prototype[method] = function (...given) {
    const number = counts[method] ?? 0;
    counts[method] = number + 1;
    if (plan.lose[method]?.includes(number) && newest) lose();
    return change ? change.call(this, original, ...given) : original.apply(this, given);
  };
}

function lose() {
  seen.lost += 1;
  newest.destroy();
}

wrap(GPUAdapter, "requestDevice", async function (original, ...given) {
  newest = await original.apply(this, given);
  sizes.clear(); // with the device before, all is freed
  taken = 0;
  return newest;
});
wrap(GPUDevice, "createBuffer", function (original, descriptor) {
  if (taken + descriptor.size > plan.room) {
    seen.refused += 1;
    scopes.at(-1)?.push(new GPUOutOfMemoryError("no room, says the test"));
    return original.call(this, { ...descriptor, usage: 0x7fffffff }); // one that can't be used
  }
  const buffer = original.call(this, descriptor);
  sizes.set(buffer, descriptor.size);
  taken += descriptor.size;
  return buffer;
});
wrap(GPUDevice, "pushErrorScope", function (original, filter) {
  scopes.push([]);
  original.call(this, "validation"); // of a refused buffer: not for the page
  original.call(this, filter);
});
wrap(GPUDevice, "popErrorScope", async function (original) {
  const put = scopes.pop();
  const [real, other] = [original.call(this), original.call(this)];
  await other;
  return put[0] ?? real;
});
wrap(GPUDevice, "createShaderModule", function (original, descriptor) {
  const code = plan.wrong ? descriptor.code.replaceAll(...plan.wrong) : descriptor.code;
  return original.call(this, { ...descriptor, code });
});
wrap(GPUBuffer, "destroy", function (original) {
  taken -= sizes.get(this) ?? 0;
  sizes.delete(this);
  return original.call(this);
});
wrap(GPUBuffer, "mapAsync");
wrap(GPUQueue, "submit");

function order({ loseNow, end, throw: throws, ...rest }) {
  Object.assign(plan, rest);
  if (rest.lose) for (const method of Object.keys(counts)) delete counts[method];
  if (loseNow && newest) lose();
  if (throws) setTimeout(() => { throw new Error("thrown by the test"); });
  if (end) setTimeout(close);
}
order(PLAN);
const channel = new BroadcastChannel("trouble");
channel.onmessage = ({ data }) => {
  order(data);
  channel.postMessage(seen);
};
