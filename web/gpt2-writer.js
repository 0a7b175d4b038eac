// gpt2-writer.js: <gpt2-writer>, a text field that a model of gpt2web.js goes on writing in.
//
//   <script type="module" src="gpt2web/gpt2-writer.js"></script>
//   <gpt2-writer prompt="Once upon a time" max-new-tokens="60" temperature="0.8" top-k="40"></gpt2-writer>
//
// Attributes, properties, events, parts and custom properties: docs/embedding.md. Nothing is loaded before
// somebody wants text, unless there is the attribute `autoload`.

import { load } from "./gpt2web.js";

const TEXTS = {
  label: "Your text",
  write: "Write",
  stop: "Stop",
  loading: "Loading the model.",
  writing: "Writing.",
  stopped: "Stopped.",
  stop_reason: { stop: "The end.", length: "Written.", context: "The text fills all that the model can read." },
};

// Attributes that are numbers, and the options of generate() that they are.
const NUMBERS = {
  "max-new-tokens": "maxNewTokens",
  temperature: "temperature",
  "top-k": "topK",
  "top-p": "topP",
  "min-p": "minP",
  "repetition-penalty": "repetitionPenalty",
  seed: "seed",
};
const MAX_NEW_TOKENS = 60; // where no attribute says otherwise

const STYLE = new CSSStyleSheet();
STYLE.replaceSync(`
  :host { display: block; font: inherit; }
  :host([hidden]) { display: none; }
  label, p { display: block; margin: 0 0 0.3em; overflow-wrap: anywhere; }
  textarea {
    box-sizing: border-box; width: 100%; min-height: var(--gpt2-writer-height, 9em); padding: 0.5em; resize: vertical;
    font: inherit; line-height: 1.5; color: inherit; background: var(--gpt2-writer-field, transparent);
    border: 1px solid var(--gpt2-writer-line, currentColor); border-radius: var(--gpt2-writer-radius, 0.3em);
  }
  button { font: inherit; padding: 0.4em 1em; margin: 0.3em 0.5em 0.3em 0; min-height: 44px; }
  progress { width: 100%; accent-color: var(--gpt2-writer-accent, auto); }
  [part="error"] { border-inline-start: 3px solid; padding-inline-start: 0.6em; }
  .unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
  [hidden] { display: none; }
`);

export class Gpt2Writer extends HTMLElement {
  static formAssociated = true;
  static observedAttributes = ["prompt", "model", "precision"];

  #internals = this.attachInternals();
  #lm = null;
  #owned = null; // the model, where it was loaded here
  #stop = null; // an AbortController while there is work
  #edited = false; // the text is no longer the attribute's
  #unsaid = ""; // written, not yet read out
  #field = element("textarea", { part: "field", id: "field", spellcheck: "true" });
  #write = element("button", { part: "button write", type: "button" }, slot("write"));
  #halt = element("button", { part: "button stop", type: "button", disabled: "" }, slot("stop"));
  #progress = element("progress", { part: "progress", "aria-label": TEXTS.loading, hidden: "" });
  #status = element("p", { part: "status", role: "status" });
  #error = element("p", { part: "error", role: "alert", hidden: "" });
  #spoken = element("p", { class: "unseen", role: "log" }); // sentence by sentence, for screen readers

  constructor() {
    super();
    const root = this.attachShadow({ mode: "open", delegatesFocus: true });
    root.adoptedStyleSheets = [STYLE];
    const label = element("label", { part: "label", for: "field" }, slot("label"));
    const rest = [this.#write, this.#halt, this.#progress, this.#status, this.#error, this.#spoken];
    root.append(label, this.#field, ...rest);
    this.#field.addEventListener("input", () => this.#changed());
    this.#field.addEventListener("change", () => this.dispatchEvent(new Event("change", { bubbles: true })));
    this.#write.addEventListener("click", () => this.write());
    this.#halt.addEventListener("click", () => this.stop());
    this.#field.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.write();
      if (event.key === "Escape") this.stop();
    });
  }

  /** The text in the field; what a form sends. */
  get value() {
    return this.#field.value;
  }

  set value(text) {
    this.#field.value = text;
    this.#changed();
  }

  /** The model, once it is loaded. One that is given is shared: it is not closed here. */
  get lm() {
    return this.#lm;
  }

  set lm(lm) {
    this.#close();
    this.#lm = lm;
  }

  get form() {
    return this.#internals.form;
  }

  /** Goes on from the text. Resolves to what was written; to null after an error, which is shown. */
  async write() {
    return this.#work(async (lm, signal) => {
      this.#say(TEXTS.writing);
      this.#spoken.replaceChildren();
      this.#unsaid = "";
      const before = this.value;
      const generation = lm.generate(before, { ...this.#options(), signal });
      let finishReason = null;
      for await (const piece of generation) {
        this.#add(piece.text);
        ({ finishReason } = piece);
        this.#tell("piece", piece);
      }
      const text = this.value.slice(before.length);
      this.#read(true);
      this.#say(TEXTS.stop_reason[finishReason] ?? TEXTS.stopped);
      this.dispatchEvent(new Event("change", { bubbles: true }));
      this.#tell("finish", { text, finishReason, seed: generation.seed, timing: generation.timing });
      return text;
    });
  }

  /** Loads the model without writing. Resolves to it; to null after an error, which is shown. */
  async load() {
    return this.#work(async (lm) => lm);
  }

  /** Ends what is going on, a load too. */
  stop() {
    this.#stop?.abort();
  }

  connectedCallback() {
    if (this.hasAttribute("autoload")) this.load();
  }

  disconnectedCallback() {
    // It may only have been moved: then it is connected again by now.
    queueMicrotask(() => this.isConnected || this.#close());
  }

  attributeChangedCallback(name, _, value) {
    if (name === "prompt") {
      if (!this.#edited) this.#set(value ?? "");
    } else if (this.#owned) {
      this.#close();
    }
  }

  formResetCallback() {
    this.#edited = false;
    this.#set(this.getAttribute("prompt") ?? "");
  }

  formDisabledCallback(disabled) {
    if (disabled) this.stop();
    this.#enable(disabled);
  }

  formStateRestoreCallback(state) {
    this.value = state;
  }

  /** One piece of work at a time, with the model; errors are shown. */
  async #work(work) {
    if (this.#stop || this.matches(":disabled")) return null;
    if (this.#lm?.closed) this.#close(); // it ended by itself: another, then
    this.#stop = new AbortController();
    const { signal } = this.#stop;
    this.#error.hidden = true;
    this.#enable(false);
    try {
      return await work((this.#lm ??= await this.#loaded(signal)), signal);
    } catch (error) {
      if (signal.aborted) {
        this.#say(TEXTS.stopped);
      } else {
        this.#error.textContent = error.message;
        this.#error.hidden = false;
        this.#say("");
        this.#tell("error", error);
      }
      return null;
    } finally {
      this.#stop = null;
      this.#progress.hidden = true;
      this.#enable(this.matches(":disabled"));
    }
  }

  async #loaded(signal) {
    this.#say(TEXTS.loading);
    this.#progress.removeAttribute("value");
    this.#progress.hidden = false;
    const onProgress = (progress) => {
      if (progress.total > 0) this.#progress.value = progress.done / progress.total;
      else this.#progress.removeAttribute("value");
      this.#tell("progress", progress);
    };
    const precision = this.getAttribute("precision");
    this.#owned = await load(this.getAttribute("model") ?? undefined, { onProgress, signal, precision });
    this.#progress.hidden = true;
    this.#say("");
    const lm = this.#owned;
    lm.addEventListener("change", () => this.#say(lm.recovering ?? (this.#stop ? TEXTS.writing : "")));
    this.#tell("ready", lm.info);
    return lm;
  }

  #options() {
    const options = { maxNewTokens: MAX_NEW_TOKENS };
    for (const [attribute, option] of Object.entries(NUMBERS)) {
      if (this.getAttribute(attribute)) options[option] = Number(this.getAttribute(attribute));
    }
    if (this.getAttribute("stop-text")) options.stop = this.getAttribute("stop-text");
    return options;
  }

  #close() {
    this.stop();
    this.#owned?.close();
    this.#owned = this.#lm = null;
  }

  #add(text) {
    if (text === "") return;
    this.#field.value += text;
    this.#field.scrollTop = this.#field.scrollHeight;
    this.#changed();
    this.dispatchEvent(new Event("input", { bubbles: true }));
    this.#unsaid += text;
    this.#read(false);
  }

  /** Lets screen readers read out what has become whole sentences, or all. */
  #read(all) {
    const end = all ? this.#unsaid.length : Math.max(...[...".!?\n"].map((mark) => this.#unsaid.lastIndexOf(mark))) + 1;
    if (end > 0) this.#spoken.append(element("span", {}, this.#unsaid.slice(0, end)));
    this.#unsaid = this.#unsaid.slice(end);
  }

  #set(text) {
    this.#field.value = text;
    this.#internals.setFormValue(text);
  }

  #changed() {
    this.#edited = true;
    this.#internals.setFormValue(this.value);
  }

  #enable(disabled) {
    const works = this.#stop !== null;
    const focused = this.shadowRoot.activeElement;
    this.#field.disabled = disabled;
    this.#field.readOnly = works;
    this.#write.disabled = disabled || works;
    this.#halt.disabled = !works;
    if (focused === this.#write && works) this.#halt.focus(); // a disabled button would lose it
    if (focused === this.#halt && !works) this.#write.focus();
    this.#internals.ariaBusy = String(works);
    if (works) this.#internals.states.add("working");
    else this.#internals.states.delete("working");
  }

  #say(text) {
    this.#status.textContent = text;
  }

  #tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}

function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** Words that a page may replace with its own: `<span slot="write">Schreib weiter</span>`. */
function slot(name) {
  return element("slot", { name }, TEXTS[name]);
}

if (!customElements.get("gpt2-writer")) customElements.define("gpt2-writer", Gpt2Writer);
