// How a row is sampled, and the pieces that scores.wgsl, alternatives.wgsl and select.wgsl share.

struct Sampling {
  temperature: f32,         // 0: greedy
  top_k: u32,               // 0: off
  top_p: f32,               // 1: off
  min_p: f32,               // 0: off
  repetition_penalty: f32,  // 1: off
  seed: u32,
  call: u32,                // the random numbers' key is (seed, call), their counter the step
  limit: u32,               // ids to generate
}

struct Samplings {
  rows: array<Sampling, 256>,  // gpu.MAX_ROWS
}

override VOCABULARY: u32 = 1u;
override VOCABULARY_WORDS: u32 = (VOCABULARY + 31u) / 32u;
override BLOCKS: u32 = (VOCABULARY + 1023u) / 1024u;

// What scores.wgsl leaves of a block of 1,024 ids.
struct Summary {
  logit_maximum: f32,
  logit_sum: f32,      // of exp(logit - logit_maximum)
  score_maximum: f32,
  score_id: u32,       // the lowest id that has score_maximum
}
