// cache[row][0 | 1][slot] = cache[source][0 | 1][slot] for slots first..end of each row: a row of a
// search takes over what another has seen. In place: no row is both a source and a target.
// A thread takes a channel of k or v, in every 16th slot: dispatch (HIDDEN / 64, 2 * 16, rows).

struct Move {
  source: u32,  // row to copy from; the row itself: nothing is copied
  first: u32,   // cache slot
  end: u32,     // cache slot, not copied
  unused: u32,
}

struct Moves {
  rows: array<Move, 256>,  // gpu.MAX_ROWS
}

@group(0) @binding(0) var<uniform> moves: Moves;
@group(0) @binding(1) var<storage, read_write> cache: array<f32>;  // [rows][2][CACHE_LENGTH][HIDDEN]

override HIDDEN: u32 = 1u;
override CACHE_LENGTH: u32 = 1u;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let row = id.z;
  let wanted = moves.rows[row];
  if wanted.source == row || id.x >= HIDDEN {
    return;
  }
  let part = id.y / 16u;  // 0: k, 1: v
  let target_part = (row * 2u + part) * CACHE_LENGTH;
  let source_part = (wanted.source * 2u + part) * CACHE_LENGTH;
  for (var slot = wanted.first + id.y % 16u; slot < wanted.end; slot += 16u) {
    cache[(target_part + slot) * HIDDEN + id.x] = cache[(source_part + slot) * HIDDEN + id.x];
  }
}
