// writing.js: has the model write in the story: one go, which may slide along a text longer than the model's
// context, or several ways on at once. What is shown of it is app.js's.
//
// What the model was asked is kept with the pieces that it wrote, so that it can be asked again:
//   a turn, one call of generate: {prompt, seed, options, model, precision, adapter, ids, finish, step}; prompt is a
//     text or a list of ids, ids are those that came out; of an edited model also `edited`, the names of the files
//   a step, one go of one turn or, where it slid, several: {seed, tokens, firstToken, seconds, finish, stops}

import { promptOf } from "./story.js";
import { writingBegins, writingEnds } from "./what_left.js";

/** Milliseconds that an edited model may take to stop when it is asked to. */
export const PATIENCE = 2000;
const KEPT = 0.75; // of the context: how much of a text is read where it is longer than that

/** How many of a text's last tokens are read where the context can't hold it all. */
export function keptTokens(context) {
  return Math.floor(context * KEPT);
}

export class Writer {
  /** The model, null while there is none. */
  lm = null;

  /** How many of the likeliest tokens are asked for with each that is written. */
  alternatives = 0;

  #story;
  #listener;
  #stop = null; // what stops the writing under way

  /** listener: begins(step), wrote(step, piece), ends(step); an error is in step.error. */
  constructor(story, listener) {
    this.#story = story;
    this.#listener = listener;
  }

  get busy() {
    return this.#stop !== null;
  }

  stop() {
    this.#stop?.abort();
    const [mine, { lm }] = [this.#stop, this];
    if (!mine || lm.info.edited.length === 0) return;
    setTimeout(() => {
      if (this.#stop === mine && this.lm === lm) lm.close(); // it may be in a loop without an end
    }, PATIENCE);
  }

  /**
   * Writes behind the pieces, as one step to undo.
   *
   * @param {object[]} pieces
   * @param {{options: object, slide: boolean}} settings  as readSettings gives them
   * @param {object} [identity]  of another text: where the context can't hold it, that is an error unless it may
   *   slide; of one that is there already its end is read
   */
  async write(pieces, { options, slide }, identity) {
    const { lm } = this; // another may be loaded meanwhile: this one says that it is closed, then
    const go = this.#story.write(pieces, identity);
    const step = newStep(options);
    await this.#during(step, async (signal) => {
      let { seed, maxNewTokens } = options;
      for (;;) {
        const prompt = await promptFor(lm, this.#story.pieces, slide || !identity);
        const turn = turnOf(lm, step, prompt, options);
        const asked = { ...options, seed, maxNewTokens, logprobs: this.alternatives, signal };
        for await (const piece of piecesOf(turn, lm.generate(prompt, asked), step)) {
          if (piece.text !== "") go.add(written(piece, turn));
          this.#listener.wrote(step, piece);
        }
        // One that had no room at all would slide for ever.
        if (step.finish !== "context" || !slide || turn.ids.length === 0) return;
        if (maxNewTokens !== undefined) maxNewTokens -= turn.ids.length;
        if (maxNewTokens === 0) return;
        seed = (turn.seed + 1) % 2 ** 32;
      }
    });
    go.end();
    this.#listener.ends(step);
  }

  /**
   * Writes several ways on behind the pieces, none of which is in the story yet.
   *
   * @param {(row: number, pieces: object[], finish: string | null) => void} show  told of each row as it grows
   */
  async branch(pieces, { options }, rows, show) {
    const { lm } = this;
    const step = newStep(options);
    await this.#during(step, async (signal) => {
      const prompt = await promptFor(lm, pieces, true);
      const ways = Array.from({ length: rows }, () => ({ step: newStep(options), pieces: [] }));
      const turns = ways.map((way) => turnOf(lm, way.step, prompt, options));
      const asked = { ...options, logprobs: this.alternatives, signal };
      const generation = lm.generate(Array(rows).fill(prompt), asked);
      for await (const piece of generation) {
        const [way, turn] = [ways[piece.row], turns[piece.row]];
        const seed = (generation.seed + piece.row) % 2 ** 32; // what it would be alone
        turn.seed = way.step.seed = seed;
        take(turn, way.step, piece);
        Object.assign(way.step, { ...generation.timing, tokens: turn.ids.length });
        if (piece.text !== "") way.pieces.push(written(piece, turn));
        show(piece.row, way.pieces, piece.finishReason);
        Object.assign(step, generation.timing, { seed: generation.seed });
        this.#listener.wrote(step, piece);
      }
    });
    this.#listener.ends(step);
  }

  /**
   * Asks for a turn once more.
   *
   * @returns {Promise<number[] | null>}  the ids that came out; null where it was stopped or failed
   */
  async repeat(turn) {
    const { lm } = this;
    const step = newStep(turn.options);
    const ids = [];
    await this.#during(step, async (signal) => {
      const asked = { ...turn.options, seed: turn.seed, maxNewTokens: turn.ids.length || 1, signal };
      for await (const piece of lm.generate(turn.prompt, asked)) {
        ids.push(...piece.ids);
        step.finish = piece.finishReason;
      }
    });
    this.#listener.ends(step);
    return step.error || step.finish === "cancelled" ? null : ids;
  }

  /** Runs `write`; an error of it is in `step.error`. */
  async #during(step, write) {
    this.#stop = new AbortController();
    this.#listener.begins(step);
    writingBegins();
    try {
      await write(this.#stop.signal);
    } catch (error) {
      step.error = error;
    }
    this.#stop = null;
    writingEnds();
  }
}

/** What the model reads to go on behind the pieces; with `cut` only its end, where it leaves no room. */
async function promptFor(lm, pieces, cut) {
  const { model, context } = lm.info;
  const { text, ids } = promptOf(pieces, model);
  if (ids.length === 0 && !cut) return text;
  const all = [...(await lm.tokenize(text, { asPrompt: true })), ...ids];
  if (cut && all.length >= context) return all.slice(-keptTokens(context));
  return ids.length === 0 ? text : all;
}

function turnOf(lm, step, prompt, options) {
  const { model, precision, adapter, edited } = lm.info;
  const turn = { prompt, seed: null, options, model, precision, adapter, ids: [], finish: null, step };
  return edited.length > 0 ? { ...turn, edited } : turn;
}

/** The pieces of a generation; what comes with them goes into the turn and its step. */
async function* piecesOf(turn, generation, step) {
  const before = { tokens: step.tokens, seconds: step.seconds };
  for await (const piece of generation) {
    turn.seed = generation.seed;
    step.seed ??= generation.seed;
    take(turn, step, piece);
    const { tokens, firstToken, seconds } = generation.timing;
    step.tokens = before.tokens + tokens;
    step.seconds = before.seconds + seconds;
    step.firstToken ??= firstToken;
    yield piece;
  }
}

/**
 * As a piece of the story. A text that ends it may have cut its last token: its ids are not the text's, then. What an
 * edited model found likely is not what the model of that name does: it is asked for anew, of the one that is loaded.
 */
function written({ text, ids, logprobs, top, finishReason }, turn) {
  const whole = finishReason !== "stop" && ids.length > 0 && !turn.edited;
  const known = whole ? { ids, model: turn.model, logprobs, top } : { ids: null, model: null, logprobs: null, top: null };
  return { text, by: "model", ...known, turn };
}

function take(turn, step, { ids, finishReason }) {
  turn.ids.push(...ids);
  turn.finish = step.finish = finishReason;
}

function newStep({ stop }) {
  const stops = stop !== undefined; // texts were set that end it
  return { seed: null, tokens: 0, firstToken: null, seconds: 0, finish: null, stops, error: null };
}
