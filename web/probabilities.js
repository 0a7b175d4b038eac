// probabilities.js: the text coloured by how likely the model found each token, and what it thought of saying instead:
// the reader chooses one of those, and the model goes on from there.

import { roving } from "./roving.js";
import { $ } from "./show.js";
import { chosen, promptOf } from "./story.js";
import { text } from "./texts.js";
import { isWhole, percent, stepOf, visible } from "./tokens.js";

const ALTERNATIVES = 10;
const STEPS = ["step-0", "step-1", "step-2", "step-3", "step-4"]; // in style.css, as is "break"

export class Probabilities {
  #story;
  #view;
  #writer;
  #goOn;
  #row;
  #asked = null; // what gives up the alternatives under way

  /**
   * @param {StoryView} view
   * @param {(pieces: object[]) => void} goOn  has the model go on behind these
   */
  constructor(story, view, writer, goOn) {
    this.#story = story;
    this.#view = view;
    this.#writer = writer;
    this.#goOn = goOn;
    this.#row = roving($("story"), "[role=button]", (span) => this.#open(span));
    story.addEventListener("change", ({ detail }) => {
      this.#close();
      this.#colour(detail.from);
    });
    $("colour").addEventListener("change", () => {
      writer.alternatives = this.on ? ALTERNATIVES : 0;
      this.#close();
      this.#colour(0);
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

  /** Colours the pieces from an index on, or takes their colours away. */
  #colour(from) {
    $("colour-legend").hidden = !this.on;
    $("story").classList.toggle("coloured", this.on);
    const { pieces } = this.#story;
    for (let index = from; index < pieces.length; index++) {
      const span = this.#view.spans[index];
      span.classList.remove(...STEPS, "break");
      const known = this.on && pieces[index].ids?.length > 0;
      if (!known) {
        for (const name of ["role", "tabindex", "title", "aria-haspopup"]) span.removeAttribute(name);
        continue;
      }
      span.setAttribute("role", "button");
      span.setAttribute("aria-haspopup", "dialog");
      span.tabIndex = -1;
      span.classList.toggle("break", /^[\n\r]+$/.test(pieces[index].text)); // else there is nothing to click on
      const probability = probabilityOf(pieces[index]);
      if (probability === null) continue;
      span.classList.add(STEPS[stepOf(probability)]);
      span.title = percent(probability);
    }
    const last = this.#view.spans.findLast((span) => span.getAttribute("role") === "button");
    this.#row.make(last);
  }

  // ---- The alternatives ----

  async #open(span) {
    if (this.#story.writing || this.#writer.busy || !getSelection().isCollapsed) return;
    const index = this.#view.spans.indexOf(span);
    const piece = this.#story.pieces[index];
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
      const parts = await this.#alternatives(index, mine.signal);
      if (mine.signal.aborted) return;
      $("token-parts").replaceChildren(...parts.flatMap((part) => this.#part(index, part, parts.length)));
      const half = parts.some(({ others }) => others.some(({ whole }) => !whole));
      $("token-state").textContent = text(half ? "token-choose-half" : "token-choose");
      placeAt(box, span);
      $("token-parts").querySelector("button:enabled")?.focus();
    } catch (error) {
      if (error.name !== "AbortError") $("token-state").textContent = text("look-failed", { reason: error.message });
    }
  }

  /**
   * For each token of a piece the likeliest in its place: {at, others: [{id, logprob, text, whole, taken}]}; text
   * and whole are of the piece that ends with it, taken is the token that stands there.
   */
  async #alternatives(index, signal) {
    const { lm } = this.#writer;
    const piece = this.#story.pieces[index];
    const mine = piece.model === lm.info.model; // another's ids say nothing to this one
    const own = mine ? piece.ids : [];
    const top = (mine && piece.top) || (await this.#ask(index, mine ? own.slice(0, -1) : [], signal));
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
  async #ask(index, more, signal) {
    const { lm } = this.#writer;
    const prompt = promptOf(this.#story.pieces.slice(0, index), lm.info.model);
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
  #part(index, { at, others }, count) {
    const list = document.createElement("ul");
    list.append(...others.map((other) => this.#choice(index, at, other)));
    if (count === 1) return [list];
    const heading = document.createElement("h4");
    heading.textContent = text("token-part", { number: at + 1, count });
    return [heading, list];
  }

  #choice(index, at, { id, logprob, text: words, whole, taken }) {
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
      const { pieces } = this.#story;
      const { model } = this.#writer.lm.info;
      const ids = [...pieces[index].ids.slice(0, at), id];
      const known = pieces[index].logprobs;
      const logprobs = at === 0 ? [logprob] : known && [...known.slice(0, at), logprob];
      this.#close();
      $("story").scrollIntoView({ block: "nearest" });
      this.#goOn(chosen(pieces, index, { text: words, ids, model, logprobs }));
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
