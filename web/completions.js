// completions.js: OpenAI's text completions over a model of gpt2web.js.
//
//   import { load } from "./gpt2web.js";
//   import { Completions } from "./completions.js";
//   const client = { completions: new Completions(await load("stories")) };
//   const completion = await client.completions.create({ prompt: "Once upon a time", max_tokens: 40 });
//   console.log(completion.choices[0].text);
//
// Parameters, defaults and responses are those that OpenAI documents for POST /v1/completions. What this
// can't do is refused by name; what differs is in docs/embedding.md.

import { invalid, kind, known } from "./errors.js";

const DEFAULTS = {
  model: null, // the one that is loaded
  prompt: "",
  max_tokens: 16,
  temperature: 1,
  top_p: 1,
  n: 1,
  logprobs: null,
  echo: false,
  stop: null,
  seed: null,
  stream: false,
  stream_options: null,
};

const NAMES = Object.keys(DEFAULTS).join(", ");
const REPETITION = "repetitionPenalty of gpt2web.js, which divides logits, is what there is against repetition.";

// What OpenAI has and this has not: the values that ask for nothing, and what to do instead.
const REFUSED = {
  best_of: [[1], "Ask for n choices with logprobs, and take the one whose token_logprobs have the highest sum."],
  presence_penalty: [[0], REPETITION],
  frequency_penalty: [[0], REPETITION],
  logit_bias: [[], "In Python a sampler of your own can change every probability."],
  suffix: [[""], "GPT-2 only goes on: put what it is to know into the prompt, and end it with stop."],
  user: [[], "There is no server that could be told of a user: leave it out."],
};

const FINISH = { stop: "stop", length: "length", context: "length" }; // the context's end is a length, too

export class Completions {
  #lm;

  /** @param {import("./gpt2web.js").Model} lm */
  constructor(lm) {
    this.#lm = lm;
  }

  /**
   * Continues a prompt, or each of several: choice number p * n + i is the i-th of prompt p, and what that
   * prompt gives alone with seed + p * n + i. With `stream` resolves to an async iterator of chunks.
   *
   * @param {import("./completions.js").CompletionParameters} parameters
   * @param {{signal?: AbortSignal}} [options]  gives up, with the signal's reason
   * @throws {TypeError} with `param`, the parameter's name, for one that does not exist, can't be had here,
   *   or is of a wrong type; as gpt2web.js does for all else
   */
  async create(parameters, options = {}) {
    const { signal } = known(options, ["signal"], "completions.create");
    const lm = this.#lm;
    const asked = checked(parameters, lm.info.model);
    const prompts = isSeveral(asked.prompt) ? asked.prompt : [asked.prompt];
    signal?.throwIfAborted();
    const generation = lm.generate(
      prompts.flatMap((prompt) => Array(asked.n).fill(prompt)),
      {
        maxNewTokens: asked.max_tokens,
        temperature: asked.temperature,
        topP: asked.top_p,
        stop: asked.stop,
        seed: asked.seed,
        logprobs: asked.logprobs === null ? 0 : Math.max(1, asked.logprobs),
        signal,
      },
    );
    const chunks = chunksOf(lm, generation, prompts, asked, signal);
    return asked.stream ? chunks : joined(chunks);
  }
}

async function* chunksOf(lm, generation, prompts, asked, signal) {
  const { info } = lm;
  const head = {
    id: `cmpl-${crypto.randomUUID().replaceAll("-", "")}`,
    object: "text_completion",
    created: Math.floor(Date.now() / 1000), // seconds
    model: info.model,
    system_fingerprint: [info.backend, info.adapter, info.precision].join(" "), // what a seed's text hangs on
  };
  const usage = { prompt_tokens: 0, completion_tokens: 0, total_tokens: 0 };
  const withUsage = !asked.stream || asked.stream_options?.include_usage;
  const tokens = new Tokens(lm, signal);
  const choices = [];
  for (const prompt of prompts) {
    const isText = typeof prompt === "string";
    usage.prompt_tokens += isText
      ? (await lm.tokenize(prompt, { asPrompt: true, signal })).length
      : Math.max(1, prompt.length); // without any it begins with <|endoftext|>
    const text = isText ? prompt : await lm.detokenize(prompt, { signal });
    for (let i = 0; i < asked.n; i++) choices.push(new Choice(choices.length, text, asked, tokens));
  }
  for await (const piece of generation) {
    if (piece.finishReason === "cancelled") signal?.throwIfAborted();
    usage.completion_tokens += piece.ids.length;
    const choice = await choices[piece.row].part(piece);
    yield { ...head, choices: [choice], ...(withUsage ? { usage: null } : {}) };
  }
  usage.total_tokens = usage.prompt_tokens + usage.completion_tokens;
  if (withUsage) yield { ...head, choices: [], usage };
}

/** All chunks as one response. */
async function joined(chunks) {
  let whole = null;
  const choices = [];
  for await (const { choices: parts, ...rest } of chunks) {
    whole = rest;
    for (const part of parts) {
      const before = choices[part.index];
      choices[part.index] = before ? merged(before, part) : part;
    }
  }
  const { usage, ...head } = whole;
  return { ...head, choices, usage };
}

function merged(a, b) {
  const logprobs = a.logprobs && {};
  for (const name in logprobs && b.logprobs) logprobs[name] = [...a.logprobs[name], ...b.logprobs[name]];
  return { text: a.text + b.text, index: a.index, logprobs, finish_reason: b.finish_reason };
}

/** One choice as it grows. */
class Choice {
  #index;
  #asked;
  #tokens;
  #begin; // the prompt, where it is to be echoed, until it was
  #offset; // of the next token, from the prompt's beginning, in JavaScript's characters
  #decoder = new TextDecoder("utf-8", { ignoreBOM: true });

  constructor(index, prompt, asked, tokens) {
    this.#index = index;
    this.#asked = asked;
    this.#tokens = tokens;
    this.#begin = asked.echo ? prompt : "";
    this.#offset = prompt.length;
  }

  /** What a piece adds to it. */
  async part(piece) {
    const text = this.#begin + piece.text;
    this.#begin = "";
    const logprobs = this.#asked.logprobs === null ? null : await this.#logprobs(piece);
    return { text, index: this.#index, logprobs, finish_reason: FINISH[piece.finishReason] ?? null };
  }

  async #logprobs({ ids, logprobs, top }) {
    await this.#tokens.fetch([...ids, ...top.flat().map(([id]) => id)]);
    const told = { tokens: [], token_logprobs: logprobs, top_logprobs: [], text_offset: [] };
    for (const [number, id] of ids.entries()) {
      const token = this.#tokens.text(id);
      const most = top[number].slice(0, this.#asked.logprobs).map(([id, logprob]) => [this.#tokens.text(id), logprob]);
      told.tokens.push(token);
      told.top_logprobs.push(Object.fromEntries([...most, [token, logprobs[number]]])); // the chosen one always
      told.text_offset.push(this.#offset);
      this.#offset += this.#decoder.decode(this.#tokens.bytes(id), { stream: true }).length;
    }
    return told;
  }
}

/** Tokens as OpenAI writes them: their text, or `bytes:\xe6\x9d` for a part of a character. */
class Tokens {
  #lm;
  #signal;
  #known = new Map(); // id -> its bytes

  constructor(lm, signal) {
    this.#lm = lm;
    this.#signal = signal;
  }

  async fetch(ids) {
    const unknown = [...new Set(ids)].filter((id) => !this.#known.has(id));
    if (unknown.length === 0) return;
    const bytes = await this.#lm.tokenBytes(unknown, { signal: this.#signal });
    for (const [number, id] of unknown.entries()) this.#known.set(id, bytes[number]);
  }

  bytes(id) {
    return this.#known.get(id);
  }

  text(id) {
    const bytes = this.bytes(id);
    try {
      return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    } catch {
      return "bytes:" + Array.from(bytes, (byte) => `\\x${byte.toString(16).padStart(2, "0")}`).join("");
    }
  }
}

/** The parameters with their defaults; what generate() checks is left to it. */
function checked(parameters, model) {
  if (typeof parameters !== "object" || parameters === null) {
    throw invalid(`completions.create wants an object of parameters, not ${kind(parameters)}.`);
  }
  const asked = { ...DEFAULTS };
  for (const [name, value] of Object.entries(parameters)) {
    if (value === undefined || value === null) continue; // the default
    if (Object.hasOwn(DEFAULTS, name)) asked[name] = value;
    else if (Object.hasOwn(REFUSED, name)) refuseUnlessNeutral(name, value);
    else throw unfit(name, `completions.create has no parameter "${name}". Its own are ${NAMES}.`);
  }
  if (![null, model].includes(asked.model)) {
    const way = "load that one, or leave it out.";
    throw unfit("model", `The model that is loaded is "${model}", not "${asked.model}": ${way}`);
  }
  for (const name of ["max_tokens", "n"]) {
    if (Number.isInteger(asked[name]) && asked[name] >= 1) continue;
    throw unfit(name, `${name} must be a whole number of at least 1, not ${asked[name]}.`);
  }
  for (const name of ["echo", "stream"]) {
    if (typeof asked[name] !== "boolean") throw unfit(name, `${name} must be true or false, not ${kind(asked[name])}.`);
  }
  if (asked.echo && asked.logprobs !== null) {
    const way = "score() of the Python API has those of a text.";
    throw unfit("echo", `echo together with logprobs is not to be had here: nothing computes the prompt's. ${way}`);
  }
  if (asked.stream_options && !asked.stream) throw unfit("stream_options", "stream_options are for stream: true.");
  const unknown = Object.keys(asked.stream_options ?? {}).find((name) => name !== "include_usage");
  if (unknown) throw unfit("stream_options", `stream_options has include_usage, and no "${unknown}".`);
  return asked;
}

function refuseUnlessNeutral(name, value) {
  const [neutral, way] = REFUSED[name];
  const isEmpty = typeof value === "object" && Object.keys(value).length === 0;
  if (!isEmpty && !neutral.includes(value)) throw unfit(name, `completions.create does not support ${name}. ${way}`);
}

function unfit(param, message) {
  return Object.assign(invalid(message), { param });
}

function isSeveral(prompt) {
  return Array.isArray(prompt) && !(prompt.length > 0 && prompt.every(Number.isInteger));
}
