// looking.js: which token of the text is looked at, and what the model computed there, for the views that want to know:
// attention.js, next_token.js, lens.js. While none of them is open the model is asked nothing.

import { roving } from "./roving.js";
import { $, whole } from "./show.js";
import { promptOf } from "./story.js";
import { text } from "./texts.js";
import { labelOf, tokensOf } from "./tokens.js";
import { keptTokens } from "./writing.js";

const LENS = 5; // ids of each layer

/**
 * Sends "change" when there is something else to see: `tokens`, those that the model reads, as tokensOf gives
 * them; `index`, that of the one looked at; `inspection`, what was computed there, null while there is none.
 */
export class Looking extends EventTarget {
  tokens = [];
  index = -1;
  inspection = null;

  #story;
  #lm = null;
  #views = new Map(); // of the open views: whether it is the lens, which costs more
  #read = null; // what the tokens are of: {lm, pieces, length: how many there were, ids, left: out}
  #asked = null; // what gives up the question under way
  #strip;
  #hadFocus = false; // whether the keyboard's focus was on a token of a text that is being read anew

  constructor(story) {
    super();
    this.#story = story;
    this.#strip = roving($("look-tokens"), "[role=option]", (thing) => this.look(Number(thing.dataset.index)));
    story.addEventListener("change", () => this.#changed());
  }

  get lm() {
    return this.#lm;
  }

  set lm(lm) {
    this.#lm = lm;
    this.#forget();
    this.#update();
  }

  /** A view's <details>: while it is open the model is asked. withLens: whether it shows what layers say. */
  watch(details, { withLens = false } = {}) {
    details.addEventListener("toggle", () => {
      if (details.open) this.#views.set(details, withLens);
      else this.#views.delete(details);
      $("look").hidden = this.#views.size === 0;
      this.#update();
    });
  }

  /** Looks at another token. */
  look(index) {
    if (this.#story.writing || index === this.index) return;
    this.index = index;
    this.#show();
    this.#update();
  }

  /** Says why a question could not be answered, unless it was given up. */
  failed(error) {
    if (error.name === "AbortError" || error.name === "ClosedError") return;
    console.debug(error, error.detail ?? "");
    $("look-state").textContent = text("look-failed", { reason: error.message });
  }

  #changed() {
    if (this.#views.size === 0) return;
    if (this.#story.writing) {
      this.#asked?.abort();
      $("look-state").textContent = text("look-writing");
    } else {
      this.#update();
    }
  }

  /** Asks for what the open views need and is not there. */
  async #update() {
    this.#asked?.abort();
    const mine = (this.#asked = new AbortController());
    if (this.#views.size === 0) return this.#forget();
    if (this.#story.writing) return;
    if (!this.#lm || this.#story.pieces.length === 0) {
      this.#forget();
      $("look-state").textContent = text(this.#lm ? "look-no-text" : "look-no-model");
      return;
    }
    try {
      await this.#readText(mine.signal);
      const withLens = [...this.#views.values()].includes(true);
      const known = this.inspection;
      if (known?.position === this.index && (known.lens.length > 0 || !withLens)) return;
      $("look-state").textContent = text("looking");
      const options = { position: this.index, top: withLens ? LENS : 0, signal: mine.signal };
      const inspection = await this.#lm.inspect(this.#read.ids, options);
      this.inspection?.close();
      this.inspection = inspection;
      this.#tell();
    } catch (error) {
      this.failed(error);
    }
  }

  /** The tokens of the text, as the model reads it. */
  async #readText(signal) {
    const lm = this.#lm;
    const { pieces } = this.#story;
    if (this.#read?.lm === lm && this.#read.pieces === pieces && this.#read.length === pieces.length) return;
    const prompt = promptOf(pieces, lm.info.model);
    const all = [...(await lm.tokenize(prompt.text, { asPrompt: true, signal })), ...prompt.ids];
    const { context } = lm.info;
    const ids = all.length > context ? all.slice(-keptTokens(context)) : all;
    const tokens = tokensOf(ids, await lm.tokenBytes(ids, { signal }));
    this.#forget();
    this.#read = { lm, pieces, length: pieces.length, ids, left: all.length - ids.length };
    this.tokens = tokens;
    this.index = tokens.length - 1;
    this.#fill();
  }

  #forget() {
    this.inspection?.close();
    if (!this.inspection && this.tokens.length === 0) return;
    this.#read = null;
    this.tokens = [];
    this.index = -1;
    this.inspection = null;
    this.#fill();
    this.#tell();
  }

  #tell() {
    this.dispatchEvent(new Event("change"));
    if (!this.inspection) return;
    const values = { number: whole(this.index + 1), count: whole(this.tokens.length) };
    const token = labelOf(this.tokens[this.index]);
    const { left } = this.#read;
    const says = [text("look-at", { ...values, token })];
    if (left > 0) says.push(text("look-left", { count: whole(left) }));
    $("look-state").textContent = says.join(" ");
  }

  /** Writes the tokens down. */
  #fill() {
    this.#hadFocus ||= $("look-tokens").contains(document.activeElement);
    $("look-tokens").replaceChildren(
      ...this.tokens.map((token, index) => {
        const made = document.createElement("span");
        made.setAttribute("role", "option");
        made.dataset.index = index;
        made.tabIndex = -1;
        made.dir = "auto";
        made.textContent = labelOf(token);
        return made;
      }),
    );
    $("look-tokens").dir = getComputedStyle($("story")).direction; // its first token may be no word of it
    $("look-tokens").hidden = this.tokens.length === 0;
    this.#show();
    if (!this.#hadFocus || this.tokens.length === 0) return;
    this.#hadFocus = false;
    if (document.activeElement === document.body) $("look-tokens").children[this.index].focus({ preventScroll: true });
  }

  /** Marks the token that is looked at. */
  #show() {
    const strip = $("look-tokens");
    for (const marked of strip.querySelectorAll("[aria-selected=true]")) marked.setAttribute("aria-selected", false);
    const token = strip.children[this.index];
    if (!token) return;
    token.setAttribute("aria-selected", true);
    this.#strip.make(token);
    const { offsetTop, offsetHeight } = token;
    if (offsetTop < strip.scrollTop || offsetTop + offsetHeight > strip.scrollTop + strip.clientHeight) {
      strip.scrollTop = offsetTop - strip.clientHeight / 2;
    }
  }
}
