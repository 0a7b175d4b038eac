// story.js: the text as a document: pieces by the reader and by the model, what editing does to them, and the
// steps to undo. It knows nothing of the page: story_view.js shows it, writing.js has the model write in it.
//
// A piece is {text, by, ids, model, logprobs, top, turn}, never changed once it is made:
//   by        "reader" or "model"
//   ids       the tokens whose text it is; null where they are not known: typed text, half a token
//   model     the name of the model whose ids they are, null without ids: to another they mean other texts
//   logprobs  of those ids, and
//   top       the likeliest others, both as generate gives them; null where nobody asked
//   turn      what the model was asked when it wrote the piece (see writing.js), else null

const MOST_STEPS = 300; // that can be undone
const UNKNOWN = { ids: null, model: null, logprobs: null, top: null };

/** What the reader typed: a list of one piece, of none where the text is empty. */
export function typed(text) {
  return text === "" ? [] : [{ text, by: "reader", ...UNKNOWN, turn: null }];
}

export function textOf(pieces) {
  return pieces.map((piece) => piece.text).join("");
}

/** The pieces before a place in the text, `at` in UTF-16 units: one that it falls into is cut, and loses its ids. */
export function before(pieces, at) {
  const kept = [];
  for (const piece of pieces) {
    if (at <= 0) break;
    kept.push(at >= piece.text.length ? piece : part(piece, 0, at));
    at -= piece.text.length;
  }
  return kept;
}

/** The pieces behind a place in the text. */
export function behind(pieces, at) {
  const kept = [];
  for (const piece of pieces) {
    if (at < piece.text.length) kept.push(at <= 0 ? piece : part(piece, at));
    at -= piece.text.length;
  }
  return kept;
}

function part(piece, from, to) {
  return { ...piece, ...UNKNOWN, text: piece.text.slice(from, to) };
}

/**
 * The pieces after the reader has made the text another: what stands before and behind the change stays as it is,
 * what is new between is the reader's. Behind it, tokens up to the next white space lose their ids: with other
 * text before them they would be other tokens.
 */
export function edited(pieces, text) {
  const old = textOf(pieces);
  if (old === text) return pieces;
  const [start, end] = changed(old, text, boundaries(pieces));
  const rest = behind(pieces, old.length - end);
  const next = rest.findIndex((piece) => /^\s/.test(piece.text));
  const loose = next < 0 ? rest.length : next;
  return [
    ...before(pieces, start),
    ...typed(text.slice(start, text.length - end)),
    ...rest.map((piece, index) => (index < loose && piece.ids ? part(piece, 0) : piece)),
  ];
}

/**
 * Where two texts differ: units that are the same at the start, and at the end. Where it can be said in several
 * ways, as in "ran |back |home" and "ran| back| home", the one is taken that begins at one of the boundaries.
 */
function changed(old, text, boundaries) {
  const most = Math.min(old.length, text.length);
  let start = 0;
  while (start < most && old[start] === text[start]) start += 1;
  if (splitsCharacter(old, start) || splitsCharacter(text, start)) start -= 1;
  let end = 0;
  while (end < most - start && old.at(-1 - end) === text.at(-1 - end)) end += 1;
  if (splitsCharacter(old, old.length - end) || splitsCharacter(text, text.length - end)) end -= 1;
  for (let by = 0; by <= start; by++) {
    if (boundaries.has(start - by)) return [start - by, end + by];
    const longer = text.length > old.length ? text : old;
    if (longer[start - by - 1] !== longer[longer.length - end - by - 1]) break;
    if (start + end !== most) break; // not only put in or taken out
  }
  return [start, end];
}

/** The places in the text where a piece begins. */
function boundaries(pieces) {
  const places = new Set();
  let at = 0;
  for (const piece of pieces) {
    places.add(at);
    at += piece.text.length;
  }
  return places.add(at);
}

/** Whether a place lies between the two halves of a character beyond U+FFFF. */
function splitsCharacter(text, at) {
  const unit = text.charCodeAt(at);
  const last = text.charCodeAt(at - 1);
  return unit >= 0xdc00 && unit <= 0xdfff && last >= 0xd800 && last <= 0xdbff;
}

/** The pieces up to `index`, and instead of that one other tokens, of a model, which the reader has chosen. */
export function chosen(pieces, index, { text, ids, model, logprobs = null }) {
  return [...pieces.slice(0, index), { text, by: "reader", ids, model, logprobs, top: null, turn: null }];
}

/** The turn that wrote the end of the text, and the pieces before it; null where the reader wrote the end. */
export function lastTurn(pieces) {
  const turn = pieces.at(-1)?.turn ?? null;
  if (turn === null) return null;
  let from = pieces.length;
  while (from > 0 && pieces[from - 1].turn?.step === turn.step) from -= 1;
  return { turn: pieces[from].turn, pieces: pieces.slice(0, from) };
}

/**
 * What a model is to read to go on behind the pieces: {text, ids}, first the tokens of the text, to be made
 * anew, then those ids.
 */
export function promptOf(pieces, model) {
  const known = pieces.findLastIndex((piece) => piece.ids === null || piece.model !== model) + 1;
  return { text: textOf(pieces.slice(0, known)), ids: pieces.slice(known).flatMap(({ ids }) => ids) };
}

/**
 * The document, with the steps that can be undone. Sends "change", a CustomEvent whose detail is {from}: pieces
 * before that index are the same as at the last "change".
 */
export class Story extends EventTarget {
  #steps = [{ pieces: [], identity: null }];
  #now = 0;
  #writing = null; // the step that the model is writing

  /** The text's pieces, in order: to be read only. */
  get pieces() {
    return this.#steps[this.#now].pieces;
  }

  get text() {
    return textOf(this.pieces);
  }

  /** An object that stays the same while a text is written and edited, and is another for another text. */
  get identity() {
    return this.#steps[this.#now].identity;
  }

  get writing() {
    return this.#writing !== null;
  }

  get canUndo() {
    return this.#now > 0 && !this.#writing;
  }

  get canRedo() {
    return this.#now < this.#steps.length - 1 && !this.#writing;
  }

  /** Another text; `identity` where it is one that was there before. */
  begin(pieces, identity = {}) {
    this.#step(pieces, identity);
  }

  /** A change of the text. */
  change(pieces) {
    if (pieces !== this.pieces) this.#step(pieces, this.identity ?? {});
  }

  /**
   * Has the model write behind these pieces: all that it adds until `end()` is one step. A step that only took
   * away, to which nothing was added, is taken back.
   *
   * @param {object} [identity]  given where it is another text
   * @returns {{add: (piece) => void, end: () => void}}
   */
  write(pieces, identity = this.identity ?? {}) {
    const old = this.pieces;
    const step = this.#step([...pieces], identity, true);
    return {
      add: (piece) => {
        step.pieces.push(piece);
        this.#changed(step.pieces.length - 1);
      },
      end: () => {
        if (this.#writing !== step) return;
        this.#writing = null;
        const same = step.pieces.length <= old.length && step.pieces.every((piece, index) => piece === old[index]);
        if (same && this.#now > 0) {
          this.#steps.pop();
          this.#now -= 1;
        }
        this.#changed(step.pieces.length);
      },
    };
  }

  undo() {
    if (this.canUndo) this.#go(-1);
  }

  redo() {
    if (this.canRedo) this.#go(1);
  }

  #go(by) {
    const old = this.pieces;
    this.#now += by;
    this.#changed(sameUntil(old, this.pieces));
  }

  #step(pieces, identity, toWrite = false) {
    if (this.#writing) throw new Error("the model is writing: end that before the text is changed");
    const old = this.pieces;
    const step = { pieces, identity };
    this.#steps = [...this.#steps.slice(0, this.#now + 1), step].slice(-MOST_STEPS - 1);
    this.#now = this.#steps.length - 1;
    if (toWrite) this.#writing = step; // before anyone is told
    this.#changed(sameUntil(old, pieces));
    return step;
  }

  #changed(from) {
    this.dispatchEvent(new CustomEvent("change", { detail: { from } }));
  }
}

function sameUntil(some, others) {
  let index = 0;
  while (index < some.length && index < others.length && some[index] === others[index]) index += 1;
  return index;
}
