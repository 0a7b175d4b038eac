// What a row of the batch knows between steps. Bound as a uniform everywhere but in select.wgsl,
// which alone writes it: a step needs nothing from the CPU.

struct Row {
  position: u32,  // cache slot of the token this step processes; it sees slots 0..=position
  last_id: u32,   // that token's id
  step: u32,      // index of the id this step generates, from 0
  done: u32,      // 0 while the row runs; a finished row's kernels return at once
}

struct State {
  rows: array<Row, 256>,  // gpu.MAX_ROWS
}
