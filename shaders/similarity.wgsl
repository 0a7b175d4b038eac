// include: state.wgsl
// similarities[row] = max of cos(hidden[row], states[row % PROMPTS][t])        t = 0..position - 1
// How much each row's new token is like any before it; -1 where there is none, and 0 with a state
// of zeros. A thread takes every 256th token; a workgroup per row: dispatch (rows).

@group(0) @binding(0) var<uniform> state: State;
@group(0) @binding(1) var<storage, read> hidden: array<f32>;   // [rows][HIDDEN], after the final norm
@group(0) @binding(2) var<storage, read> states: array<f32>;   // [PROMPTS][LENGTH][HIDDEN], likewise
@group(0) @binding(3) var<storage, read_write> similarities: array<f32>;  // [rows]

override HIDDEN: u32 = 1u;
override PROMPTS: u32 = 1u;
override LENGTH: u32 = 1u;

var<workgroup> maxima: array<f32, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let row = workgroup.x;
  if state.rows[row].done != 0u {
    return;
  }
  let own = row * HIDDEN;
  var own_squares = 0.0;
  for (var i = 0u; i < HIDDEN; i++) {
    own_squares += hidden[own + i] * hidden[own + i];
  }
  var maximum = -1.0;
  for (var t = thread; t < state.rows[row].position; t += 256u) {
    let other = (row % PROMPTS * LENGTH + t) * HIDDEN;
    var product = 0.0;
    var squares = 0.0;
    for (var i = 0u; i < HIDDEN; i++) {
      let value = states[other + i];
      product += hidden[own + i] * value;
      squares += value * value;
    }
    let norms = sqrt(own_squares) * sqrt(squares);
    maximum = max(maximum, select(0.0, product / norms, norms > 0.0));
  }
  maxima[thread] = maximum;
  for (var half = 128u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if thread < half {
      maxima[thread] = max(maxima[thread], maxima[thread + half]);
    }
  }
  if thread == 0u {
    similarities[row] = maxima[0];
  }
}
