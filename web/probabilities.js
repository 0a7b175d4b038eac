// probabilities.js: the text coloured by how likely the model found each token, and what it thought of saying instead:
// the reader chooses one of those, and the model goes on from there.

import { roving } from "./roving.js";
import { $ } from "./show.js";
import { scoreOf } from "./scored.js";
import { before, chosen, promptOf, textOf } from "./story.js";
import { text } from "./texts.js";
import { isWhole, percent, stepOf, visible } from "./tokens.js";

const ALTERNATIVES = 10;
const BUTTON = "[role=button]";
const STEPS = ["step-0", "step-1", "step-2", "step-3", "step-4"]; // in style.css, as is "break"

export class Probabilities {
  #story;
  #view;
  #writer;
  #goOn;
  #row;
  #asked = null; // what gives up the alternatives under way
  #parts = new Map(); // of pieces that don't say how likely they were, by scored.js
  #scoring = null; // what gives up the question for those
  #places = new WeakMap(); // of each button: {index, piece, at}: its piece, or of a part of that its place in the text

  /**
   * @param {StoryView} view
   * @param {(pieces: object[]) => void} goOn  has the model go on behind these
   */
  constructor(story, view, writer, goOn) {
    this.#story = story;
    this.#view = view;
    this.#writer = writer;
    this.#goOn = goOn;
    this.#row = roving($("story"), BUTTON, (span) => this.#open(span));
    story.addEventListener("change", ({ detail }) => {
      this.#close();
      const kept = new Set(story.pieces.slice(0, detail.from)); // behind a change other things are likely
      for (const piece of this.#parts.keys()) if (!kept.has(piece)) this.#parts.delete(piece);
      this.#colour(detail.from);
      this.#score();
    });
    $("colour").addEventListener("change", () => {
      writer.alternatives = this.on ? ALTERNATIVES : 0;
      this.#close();
      this.#colour(0);
      this.#score();
    });
    $("token").addEventListener("toggle", ({ newState }) => newState === "closed" && this.#asked?.abort());
    $("token").addEventListener("keydown", (event) => this.#key(event));
    $("token").addEventListener("focusout", ({ relatedTarget }) => {
      if (relatedTarget && !$("token").contains(relatedTarget)) this.#close(); // it would cover what has the focus
    });
    $("colour").checked = false; // a browser may have kept it over a reload
  }

  get on() {
    return $("colour").checked;
  }

  /** Another model finds other things likely. */
  reset() {
    this.#parts.clear();
    this.#colour(0);
    this.#score();
  }

  /** Asks the model about what has no colour yet, while it has nothing else to do. */
  async #score() {
    this.#scoring?.abort();
    const { lm } = this.#writer;
    if (!this.on || !lm || this.#story.writing) return;
    const mine = (this.#scoring = new AbortController());
    const { pieces } = this.#story;
    const skip = (piece) => this.#parts.has(piece);
    try {
      const found = await scoreOf(lm, pieces, { top: ALTERNATIVES, skip, signal: mine.signal });
      if (mine.signal.aborted || found.size === 0) return;
      for (const [piece, parts] of found) this.#parts.set(piece, parts);
      this.#colour(0, found);
    } catch (error) {
      if (error.name !== "AbortError" && error.name !== "ClosedError") console.debug(error, error.detail ?? "");
    }
  }

  /** Colours the pieces from an index on, or takes their colours away; of those that are in `among` where given. */
  #colour(from, among = null) {
    $("colour-legend").hidden = !this.on;
    $("story").classList.toggle("coloured", this.on);
    const { pieces } = this.#story;
    let at = textOf(pieces.slice(0, from)).length;
    for (let index = from; index < pieces.length; index++) {
      const span = this.#view.spans[index];
      const piece = pieces[index];
      if (!among || among.has(piece)) this.#dress(span, { index, piece, at });
      at += piece.text.length;
    }
    const buttons = [...$("story").querySelectorAll(BUTTON)];
    this.#row.make(buttons.find((button) => button === document.activeElement) ?? buttons.at(-1));
  }

  /** Makes a piece what is to be seen of it: plain text, a button, or a button for each of its parts. */
  #dress(span, { index, piece, at }) {
    const parts = this.on ? this.#parts.get(piece) : null;
    span.classList.remove(...STEPS, "break");
    for (const name of ["role", "tabindex", "title", "aria-haspopup"]) span.removeAttribute(name);
    if (span.childElementCount > 0) span.textContent = piece.text; // without the parts that were shown
    if (parts?.length === 1 && parts[0].at === at) {
      this.#mark(span, { index, piece: parts[0], at });
    } else if (parts) {
      span.replaceChildren(...parts.map((part) => this.#partOf(index, part)));
    } else if (this.on && piece.ids?.length > 0) {
      this.#mark(span, { index, piece, at: null });
    }
  }

  /** Of a piece that the model did not write, a token. */
  #partOf(index, part) {
    const span = document.createElement("span");
    span.textContent = part.text;
    this.#mark(span, { index, piece: part, at: part.at });
    return span;
  }

  #mark(span, place) {
    this.#places.set(span, place);
    span.setAttribute("role", "button");
    span.setAttribute("aria-haspopup", "dialog");
    span.tabIndex = -1;
    span.classList.toggle("break", /^[\n\r]+$/.test(place.piece.text)); // else there is nothing to click on
    const probability = probabilityOf(place.piece);
    if (probability === null) return;
    span.classList.add(STEPS[stepOf(probability)]);
    span.title = percent(probability);
  }

  /** The pieces before a place. */
  #before({ index, at }) {
    const { pieces } = this.#story;
    return at === null ? pieces.slice(0, index) : before(pieces, at);
  }

  // ---- The alternatives ----

  async #open(span) {
    if (this.#story.writing || this.#writer.busy || !getSelection().isCollapsed) return;
    const place = this.#places.get(span);
    const { piece } = place;
    const box = $("token");
    this.#asked?.abort();
    const mine = (this.#asked = new AbortController());
    const probability = probabilityOf(piece);
    const values = { token: visible(piece.text) };
    $("token-title").textContent =
      probability === null
        ? text("token-title", values)
        : text("token-title-share", { ...values, share: percent(probability) });
    $("token-parts").replaceChildren();
    $("token-state").textContent = text(this.#writer.lm ? "token-asking" : "look-no-model");
    box.showPopover({ source: span }); // the Tab key leads from the token into it, and from it to what follows
    placeAt(box, span);
    box.focus();
    if (!this.#writer.lm) return;
    try {
      const parts = await this.#alternatives(place, mine.signal);
      if (mine.signal.aborted) return;
      if (parts.length === 0) {
        $("token-state").textContent = text("token-first");
        return;
      }
      $("token-parts").replaceChildren(...parts.flatMap((part) => this.#part(place, part, parts.length)));
      const half = parts.some(({ others }) => others.some(({ whole }) => !whole));
      $("token-state").textContent = text(half ? "token-choose-half" : "token-choose");
      placeAt(box, span);
      $("token-parts").querySelector("button:enabled")?.focus();
    } catch (error) {
      if (error.name !== "AbortError") $("token-state").textContent = text("look-failed", { reason: error.message });
    }
  }

  /**
   * For each token at a place the likeliest there, none where nothing stands before it: {at, others: [{id, logprob, text, whole, taken}]}; text
   * and whole are of the piece that ends with it, taken is the token that stands there.
   */
  async #alternatives(place, signal) {
    const { lm } = this.#writer;
    const { piece } = place;
    if (place.at !== null && piece.logprobs === null) return [];
    const mine = piece.model === lm.info.model; // another's ids say nothing to this one
    const own = mine ? piece.ids : [];
    const top = (mine && piece.top) || (await this.#ask(place, mine ? own.slice(0, -1) : [], signal));
    const ids = [...new Set([...own, ...top.flat().map(([id]) => id)])];
    const bytes = await lm.tokenBytes(ids, { signal });
    const bytesOf = new Map(ids.map((id, number) => [id, bytes[number]]));
    return top.map((list, at) => {
      const before = own.slice(0, at).flatMap((id) => [...bytesOf.get(id)]);
      const others = list.map(([id, logprob]) => {
        const all = Uint8Array.from([...before, ...bytesOf.get(id)]);
        const words = new TextDecoder().decode(all);
        return { id, logprob, text: words, whole: isWhole(all), taken: id === own[at] };
      });
      return { at, others };
    });
  }

  /** What the model finds likeliest behind the pieces before an index, then behind each of more ids: as piece.top. */
  async #ask(place, more, signal) {
    const { lm } = this.#writer;
    const prompt = promptOf(this.#before(place), lm.info.model);
    const before = [...(await lm.tokenize(prompt.text, { asPrompt: true, signal })), ...prompt.ids];
    const found = [];
    for (let at = 0; at <= more.length; at++) {
      const ids = [...before, ...more.slice(0, at)].slice(-lm.info.context);
      const inspection = await lm.inspect(ids, { top: 0, signal });
      const { candidates } = await inspection.nextTokens({ top: ALTERNATIVES, signal });
      inspection.close();
      found.push(candidates.map(({ id, logprob }) => [id, logprob]));
    }
    return found;
  }

  /** The alternatives of one token: buttons, of several tokens each under a heading. */
  #part(place, { at, others }, count) {
    const list = document.createElement("ul");
    list.append(...others.map((other) => this.#choice(place, at, other)));
    if (count === 1) return [list];
    const heading = document.createElement("h4");
    heading.textContent = text("token-part", { number: at + 1, count });
    return [heading, list];
  }

  #choice(place, at, { id, logprob, text: words, whole, taken }) {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    const [name, share] = [document.createElement("span"), document.createElement("span")];
    name.dir = "auto";
    name.textContent = visible(words);
    share.textContent = percent(Math.exp(logprob));
    button.append(name, share);
    button.disabled = !whole;
    if (taken) button.setAttribute("aria-current", "true");
    button.addEventListener("click", () => {
      const pieces = this.#before(place);
      const { model } = this.#writer.lm.info;
      const ids = [...place.piece.ids.slice(0, at), id];
      const known = place.piece.logprobs;
      const logprobs = at === 0 ? [logprob] : known && [...known.slice(0, at), logprob];
      this.#close();
      $("story").scrollIntoView({ block: "nearest" });
      this.#goOn(chosen(pieces, pieces.length, { text: words, ids, model, logprobs }));
    });
    item.append(button);
    return item;
  }

  /** In the list the arrow keys go up and down. */
  #key(event) {
    if (event.key === "Escape") {
      event.stopPropagation(); // the browser closes the box; it is not to stop anything else
      return;
    }
    const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (!step) return;
    const all = [...$("token-parts").querySelectorAll("button:enabled")];
    all.at((all.indexOf(document.activeElement) + step) % all.length)?.focus();
    event.preventDefault();
  }

  #close() {
    if ($("token").matches(":popover-open")) $("token").hidePopover();
  }
}

/** How likely a piece was: of several tokens the least likely's; null where nobody asked. */
function probabilityOf({ logprobs }) {
  return logprobs?.length > 0 ? Math.exp(Math.min(...logprobs)) : null;
}

/** Puts a box below an element, or above it where there is more room. */
function placeAt(box, element) {
  const [{ left, top, bottom }] = element.getClientRects();
  const gap = 6; // pixels
  const [above, below] = [top - 2 * gap, innerHeight - bottom - 2 * gap];
  box.style.maxHeight = "none";
  const under = box.offsetHeight <= below || below >= above;
  box.style.maxHeight = `${Math.max(120, under ? below : above)}px`;
  const x = Math.max(gap, Math.min(left, document.documentElement.clientWidth - box.offsetWidth - gap));
  const y = under ? bottom + gap : Math.max(gap, top - gap - box.offsetHeight);
  box.style.left = `${x + scrollX}px`;
  box.style.top = `${y + scrollY}px`;
}
