// saved.js: the page's state as the fragment of a link, and a story as a file; and both read again. What is read may
// come from anyone: it is taken whole, or refused with the reason. Nothing here knows of the page.
//
// A link ends in #gpt2web=1&model=stories&temperature=0.8 ... &end=1, with &text= where it is asked for. What follows
// the # stays in the browser: it is no part of a request.
//
// A file is JSON, {format: "gpt2web-story", version: 1, ...}: see fileOf.

const LINK_VERSION = "1";
const FILE_FORMAT = "gpt2web-story";
const FILE_VERSION = 1;
const LONGEST = 200_000; // characters of a text that a link may hold
const LARGEST = 50_000_000; // characters of a file

/** Why something can't be used: `reason` is the name of a text in index.html, `values` what it is filled in with. */
export class Unusable extends Error {
  constructor(reason, values = {}) {
    super(reason);
    this.reason = reason;
    this.values = values;
  }
}

// ---- Links ----

/**
 * @param {object} state  {model, settings: texts by field, text}; model and text may be null
 * @returns {string}  what follows the # of a link
 */
export function fragmentOf({ model, settings, text }) {
  const fields = [["gpt2web", LINK_VERSION], ...Object.entries(settings)];
  if (model !== null) fields.push(["model", model]);
  if (text !== null) fields.push(["text", text]);
  return new URLSearchParams([...fields, ["end", "1"]]).toString();
}

/**
 * The state in what follows the # of this page's address; null where nothing follows.
 *
 * @throws {Unusable}
 */
export function stateIn(fragment, fieldNames) {
  if (fragment === "") return null;
  const given = [...new URLSearchParams(fragment)];
  const fields = new Map(given);
  if (!fields.has("gpt2web")) throw new Unusable("link-other");
  if (fields.get("gpt2web") !== LINK_VERSION) throw new Unusable("link-version");
  if (given.at(-1)[0] !== "end") throw new Unusable("link-cut");
  const names = ["gpt2web", "end", "model", "text", ...fieldNames];
  const unknown = given.find(([name]) => !names.includes(name));
  if (unknown) throw new Unusable("link-unknown", { name: shortened(unknown[0]) });
  const twice = given.find(([name], index) => given.findIndex((other) => other[0] === name) < index);
  if (twice) throw new Unusable("link-twice", { name: twice[0] });
  const text = fields.get("text") ?? null;
  if (text !== null && text.length > LONGEST) throw new Unusable("link-long");
  const settings = given.filter(([name]) => fieldNames.includes(name));
  return { model: fields.get("model") ?? null, settings: Object.fromEntries(settings), text };
}

function shortened(name) {
  return name.length > 40 ? `${name.slice(0, 40)}…` : name;
}

// ---- Files ----

/**
 * All that is needed to write the text again, as an object for JSON.
 *
 * @param {object[]} pieces  of the story
 * @param {object} about  {settings, model, page, when}: model is {title, files: [{file, bytes, sha256}], ...info}
 */
export function fileOf(pieces, about) {
  const turns = [...new Set(pieces.map(({ turn }) => turn).filter(Boolean))];
  const steps = [...new Set(turns.map(({ step }) => step))];
  return {
    format: FILE_FORMAT,
    version: FILE_VERSION,
    ...about,
    text: pieces.map(({ text }) => text).join(""),
    pieces: pieces.map(({ turn, ...piece }) => ({ ...piece, turn: turn ? turns.indexOf(turn) : null })),
    turns: turns.map(({ step, ...turn }) => ({ ...turn, step: steps.indexOf(step) })),
    steps: steps.map(({ error, ...step }) => step),
  };
}

/**
 * The story in a file: {pieces, settings, model, when}.
 *
 * @throws {Unusable}
 */
export function storyIn(json) {
  if (json.length > LARGEST) throw new Unusable("file-large");
  let file;
  try {
    file = JSON.parse(json);
  } catch {
    throw new Unusable("file-not-json");
  }
  if (file?.format !== FILE_FORMAT) throw new Unusable("file-other");
  if (file.version !== FILE_VERSION) throw new Unusable("file-version", { version: String(file.version).slice(0, 20) });
  check(Array.isArray(file.steps) && file.steps.every(isStep), "steps");
  check(Array.isArray(file.turns) && file.turns.every((turn) => isTurn(turn, file.steps.length)), "turns");
  check(Array.isArray(file.pieces) && file.pieces.every((piece) => isPiece(piece, file.turns.length)), "pieces");
  check(file.text === file.pieces.map(({ text }) => text).join(""), "text");
  check(isObject(file.settings) && Object.values(file.settings).every(isText), "settings");
  check(file.model === null || (isObject(file.model) && isText(file.model.model)), "model");
  const steps = file.steps.map((step) => ({ ...step, error: null }));
  const turns = file.turns.map((turn) => ({ ...turn, step: steps[turn.step] }));
  const pieces = file.pieces.map(({ text, by, ids, model, logprobs, top, turn }) => {
    return { text, by, ids, model, logprobs, top, turn: turn === null ? null : turns[turn] };
  });
  return { pieces, settings: file.settings, model: file.model, when: isText(file.when) ? file.when : "" };
}

function check(holds, part) {
  if (!holds) throw new Unusable("file-damaged", { part });
}

function isPiece(piece, turns) {
  if (!isObject(piece)) return false;
  const { text, by, ids, model, logprobs, top, turn } = piece;
  const wrote = turn === null || (isIndex(turn, turns) && by === "model");
  const beside = (values) => values === null || (Array.isArray(values) && values.length === ids?.length);
  return (
    isText(text) && text !== "" && ["reader", "model"].includes(by) && wrote &&
    (ids === null ? model === null : isIds(ids) && isText(model)) && beside(logprobs) && beside(top)
  );
}

function isTurn(turn, steps) {
  if (!isObject(turn)) return false;
  const { prompt, seed, options, ids, finish, model, precision, adapter, edited = [], step } = turn;
  const prompts = isText(prompt) || (isIds(prompt) && prompt.length > 0);
  const names = Array.isArray(edited) && edited.every(isText);
  const texts = names && [model, precision, adapter].every(isText) && (finish === null || isText(finish));
  return prompts && isIndex(seed, 2 ** 32) && isObject(options) && isIds(ids) && texts && isIndex(step, steps);
}

function isStep(step) {
  return isObject(step) && isIndex(step.tokens, Infinity) && Number.isFinite(step.seconds);
}

function isIds(value) {
  return Array.isArray(value) && value.every((id) => isIndex(id, 2 ** 32));
}

function isIndex(value, end) {
  return Number.isInteger(value) && value >= 0 && value < end;
}

function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isText(value) {
  return typeof value === "string";
}
