// inspection.js: looking into a model at one token of a text, for gpt2web.js. gpt2web/inspection.py does it.

import { abortable } from "./abort.js";
import { failure, invalid, kind, known } from "./errors.js";

const SETTINGS = {
  temperature: "temperature",
  topK: "top_k",
  topP: "top_p",
  minP: "min_p",
  repetitionPenalty: "repetition_penalty",
  top: "top",
};

let last = 0; // the number of an inspection: it says which one the worker is asked about

/**
 * What Model.inspect does.
 *
 * @returns {Promise<Inspection>}
 */
export function inspect(link, tokenIds, options) {
  const { signal, ...rest } = known(options, ["position", "top", "signal"], "inspect");
  if (!Array.isArray(tokenIds) && !ArrayBuffer.isView(tokenIds)) {
    throw invalid(`The token ids must be an array of numbers, not ${kind(tokenIds)}.`);
  }
  signal?.throwIfAborted();
  const inspection = ++last;
  const message = { type: "inspect", inspection, tokenIds: [...tokenIds], options: given(rest) };
  const close = () => link.tell({ type: "closeInspection", inspection });
  signal?.addEventListener("abort", close);
  const made = link.request(() => message).then((value) => value && new Inspection(link, inspection, value));
  const over = () => {
    signal?.removeEventListener("abort", close);
    if (signal?.aborted) close(); // also where the worker was not there to be told
  };
  made.then(over, over);
  return abortable(made, signal);
}

/** What the model computed at one token. Made by Model.inspect. */
class Inspection {
  /** The text up to the token, which is the last of it, at `position`. */
  tokenIds;
  position;
  /**
   * How much of each token up to its own every head of every layer took: a Float32Array, row-major, of the
   * shape [layers, heads, position + 1]; each row sums to 1.
   */
  attention;
  shape;
  /**
   * For the embedding and each layer's output, the most probable ids, [{id, text, logprob}], if the final
   * norm and the head came right behind it; the last is what the model says.
   */
  lens;

  #link;
  #number;
  #closed = false;

  constructor(link, number, { tokenIds, position, attention, shape, lens }) {
    Object.assign(this, { tokenIds, position, attention, shape, lens });
    this.#link = link;
    this.#number = number;
  }

  /**
   * What sampling with these settings makes of the next token: the candidates, most probable first, each
   * {id, text, logit, logprob, afterTemperature, afterCuts, kept}, and how many ids of all are kept.
   * logit and logprob are the model's own; afterTemperature and afterCuts are probabilities.
   *
   * @param {object} [settings]  temperature, topK, topP, minP, repetitionPenalty as for generate; top: how
   *   many candidates (20); signal
   * @returns {Promise<import("./gpt2web.js").NextTokens>}
   */
  async nextTokens(settings = {}) {
    const { signal, ...rest } = known(settings, [...Object.keys(SETTINGS), "signal"], "nextTokens");
    if (this.#closed) throw failure("ClosedError", "This inspection was closed. Make another.", "closed");
    const named = Object.fromEntries(Object.entries(given(rest)).map(([key, value]) => [SETTINGS[key], value]));
    const message = { type: "nextTokens", inspection: this.#number, options: named };
    return abortable(this.#link.request(() => message), signal);
  }

  /** Frees what the worker holds of it on the GPU. What has come here stays. */
  close() {
    this.#closed = true;
    this.#link.tell({ type: "closeInspection", inspection: this.#number });
  }
}

/** The options that have a value: the others are left to the model. */
function given(options) {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined && value !== null));
}
