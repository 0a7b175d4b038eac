// A chunk of prompt tokens: up to 16 blocks of 16 tokens. A block holds tokens of one row only, so
// rows of different length share a chunk; a row's last block may be short.

struct Block {
  row: u32,
  position: u32,  // cache slot of the block's first token
  count: u32,     // tokens in it, up to 16; what lies beyond is padding
  unused: u32,
}

struct Chunk {
  blocks: array<Block, 16>,
}
