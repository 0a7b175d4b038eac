// workshop.js: "Change the model": the running Python and WGSL in an editor, run beside the original, and reset. app.js
// imports it when the panel is opened for the first time: until then nothing of it is fetched or asked.

import { showBoth, write } from "./compare.js";
import { Editor } from "./editor.js";
import { Edits, sameEdits } from "./edits.js";
import { EXPERIMENTS, isApplied, toggled } from "./experiments.js";
import { loadEdited, stopLoading } from "./models.js";
import { readSettings } from "./settings.js";
import { $, losesFocus, say, whole } from "./show.js";
import { counted, text } from "./texts.js";
import { VERSION } from "./version.js";
import { writingBegins, writingEnds } from "./what_left.js";
import { PATIENCE } from "./writing.js";

const LENGTH = 60; // tokens that are written to compare, at most
const SHADERS = "gpt2web/shaders/";

// The files that matter most, in the order in which a text goes through them. The words: file-<name>, about-<name>.
const GUIDE = {
  tokenizer: "gpt2web/bpe.py",
  embed: `${SHADERS}embed.wgsl`,
  decoder: "gpt2web/decoder.py",
  norm: `${SHADERS}layernorm.wgsl`,
  attention: `${SHADERS}attention.wgsl`,
  "attention-prompt": `${SHADERS}attention_chunk.wgsl`,
  gelu: `${SHADERS}gelu.wgsl`,
  head: `${SHADERS}head.wgsl`,
  scores: `${SHADERS}scores.wgsl`,
  cuts: `${SHADERS}cuts.wgsl`,
  select: `${SHADERS}select.wgsl`,
  sampling: "gpt2web/sampling.py",
  loop: "gpt2web/generate.py",
};
const FIRST = GUIDE.select;

// What was changed stays in this tab, and is gone with it. They are whole files: those of another version do not fit.
const NAME = `gpt2web-edits ${new URL("./", import.meta.url).pathname} ${VERSION}`;
const KEPT = {
  get: () => sessionStorage.getItem(NAME),
  set: (texts) => sessionStorage.setItem(NAME, texts),
};

export class Workshop {
  #writer;
  #hold;
  #lm = null;
  #edits = new Edits(KEPT);
  #editor = null; // once the files are there
  #path = FIRST;
  #before = null; // the edits that Reset took back, until others are made
  #running = {}; // the edits that the loaded model has
  #original = null; // what the original wrote last, and #key: to what
  #key = "";
  #loading = false; // a model of its own choice
  #stop = null; // what stops the run under way
  #ended = null; // a promise: that it has ended
  #gaveUp = false; // it did not stop: its Python was ended

  /** writer: of the page, which has the model; hold(whether): told when it is needed here alone. */
  constructor(writer, hold) {
    this.#writer = writer;
    this.#hold = hold;
    this.#listen();
    this.#edits.addEventListener("change", () => {
      this.#before = null;
      this.#showState();
    });
    this.#showState();
    this.lm = writer.lm;
  }

  /** The page's model, null while there is none. */
  set lm(lm) {
    this.#lm = lm;
    if (lm && !this.#loading) this.#original = null; // another model, or in another precision
    if (lm && lm.info.edited.length === 0) this.#running = {};
    this.#openOrSay();
    this.#showState();
  }

  // ---- The files ----

  /** What goes wrong stands in place of the editor: opening the panel again is another try. */
  async #openOrSay() {
    const lm = this.#lm;
    if (!lm || this.#editor) return;
    try {
      await this.#open(lm);
    } catch (error) {
      console.debug(error, error.detail ?? "");
      if (lm !== this.#lm) return;
      $("workshop-empty").textContent = text("workshop-no-files", { reason: error.message });
      say($("workshop-empty").textContent);
    }
  }

  async #open(lm) {
    const originals = await lm.sources();
    if (this.#editor) return;
    this.#edits.begin(originals);
    this.#editor = new Editor($("workshop-editor"), {
      label: (path) => text("workshop-editor", { path }),
      changed: (path, text) => this.#edits.set(path, text),
      run: () => this.#run(),
    });
    this.#fillChooser();
    $("workshop-empty").hidden = true;
    $("workshop-tools").hidden = false;
    const changed = Object.keys(this.#edits.all);
    this.#show(changed.includes(FIRST) || changed.length === 0 ? FIRST : changed[0]);
    if (changed.length > 0) this.#say(text("workshop-kept"));
    this.#showState();
  }

  #fillChooser() {
    const known = Object.entries(GUIDE).map(([name, path]) => new Option(text(`file-${name}`), path));
    const rest = (ending) =>
      this.#edits.paths
        .filter((path) => path.endsWith(ending) && !Object.values(GUIDE).includes(path))
        .map((path) => new Option(path.replace(SHADERS, "").replace("gpt2web/", ""), path));
    const groups = { "files-guide": known, "files-python": rest(".py"), "files-wgsl": rest(".wgsl") };
    for (const [name, options] of Object.entries(groups)) {
      const group = document.createElement("optgroup");
      group.label = text(name);
      group.append(...options);
      $("workshop-file").append(group);
    }
    for (const option of $("workshop-file").options) option.dataset.label = option.textContent;
  }

  /** Shows a file, and of it a line that is wrong, or what was changed. */
  #show(path, wrong = null) {
    this.#path = path;
    $("workshop-file").value = path;
    this.#editor.show(path, this.#edits.text(path), this.#edits.original(path));
    this.#editor.mark(wrong);
    if (wrong === null) this.#editor.showFirst(this.#edits.original(path));
    const name = Object.keys(GUIDE).find((one) => GUIDE[one] === path);
    $("about-file").textContent = name ? text(`about-${name}`) : "";
    $("workshop-path").textContent = path;
    this.#showState();
  }

  /** What is changed, and what can be done. */
  #showState() {
    const edits = this.#edits.all;
    const paths = Object.keys(edits);
    const busy = this.#stop !== null;
    for (const option of $("workshop-file").options) {
      const { label } = option.dataset;
      const shown = option.value in edits ? text("file-changed", { name: label }) : label;
      if (option.textContent !== shown) option.textContent = shown;
    }
    const lines = this.#editor ? this.#edits.count(this.#path) : 0;
    $("workshop-lines").textContent = lines > 0 ? counted("lines", lines, whole(lines)) : text("lines-none");
    $("workshop-changed").textContent = paths.length > 0 ? text("files-changed", { files: paths.join(", ") }) : "";
    for (const [index, experiment] of EXPERIMENTS.entries()) {
      const button = $("experiments").querySelectorAll("button")[index];
      const applied = this.#editor !== null && isApplied(experiment, (path) => this.#edits.text(path));
      button.setAttribute("aria-pressed", applied);
    }
    const edited = this.#lm !== null && this.#lm.info.edited.length > 0;
    const focused = document.activeElement;
    $("workshop-run").disabled = busy || paths.length === 0;
    $("workshop-stop").disabled = !busy;
    $("workshop-reset").disabled = !busy && paths.length === 0 && !edited && this.#lm !== null;
    $("workshop-reset-file").disabled = lines === 0;
    $("workshop-back").hidden = this.#before === null;
    $("changed").hidden = !edited;
    const mine = $("workshop").contains(focused) || $("changed").contains(focused);
    if (mine && losesFocus(focused)) {
      const next = ["workshop-stop", "workshop-run", "workshop-file"].find((id) => !$(id).disabled);
      $(next).focus({ preventScroll: true });
    }
    if (edited) $("changed-files").textContent = this.#lm.info.edited.join(", ");
  }

  #toggle(experiment) {
    const texts = toggled(experiment, (path) => this.#edits.text(path));
    if (!texts) return this.#say(text("experiment-in-the-way"));
    const [first] = Object.keys(texts);
    for (const [path, text] of Object.entries(texts)) this.#edits.set(path, text);
    this.#show(texts[this.#path] === undefined ? first : this.#path);
    const applied = isApplied(experiment, (path) => this.#edits.text(path));
    const values = { files: Object.keys(texts).join(", ") };
    this.#say(text(applied ? "experiment-in" : "experiment-out", values));
  }

  // ---- Running ----

  async #run() {
    const edits = this.#edits.all;
    if (this.#stop || Object.keys(edits).length === 0) return;
    if (this.#writer.busy) return this.#say(text("busy"));
    const settings = readSettings();
    if (!settings) return;
    const maxNewTokens = Math.min(settings.options.maxNewTokens ?? LENGTH, LENGTH);
    const seed = settings.options.seed ?? crypto.getRandomValues(new Uint32Array(1))[0];
    const prompt = $("prompt").value || text("workshop-prompt");
    const asked = { prompt, options: { ...settings.options, maxNewTokens, seed } };
    // Where no seed is set, the one that the original was given will do.
    const key = JSON.stringify([prompt, { ...settings.options, maxNewTokens }, $("model").value]);
    if (this.#original && this.#key === key) asked.options.seed = this.#original.seed;
    else this.#original = null;
    this.#key = key;
    await this.#during(async (signal) => {
      showBoth(this.#original, null);
      if (!this.#original) {
        this.#say(text("workshop-original"));
        await this.#have({}, signal);
        const written = await this.#write(asked, signal, (so_far) => showBoth(so_far, null));
        this.#original = { ...written, seed: asked.options.seed };
      }
      this.#say(text("workshop-loading"));
      await this.#have(edits, signal);
      this.#say(text("workshop-writing"));
      const changed = await this.#write(asked, signal, (so_far) => showBoth(this.#original, so_far));
      showBoth(this.#original, changed);
      this.#say("");
      say($("both-says").textContent);
    });
  }

  /** Runs `work`, which may be stopped and may fail. */
  #during(work) {
    this.#ended = this.#try(work);
    return this.#ended;
  }

  async #try(work) {
    this.#stop = new AbortController();
    const { signal } = this.#stop;
    this.#gaveUp = false;
    this.#hold(true);
    this.#noProblem();
    this.#showState();
    try {
      await work(signal);
    } catch (error) {
      if (this.#gaveUp) this.#say(text("workshop-ended"));
      else if (error.name === "ClosedError" && !signal.aborted) this.#say(text("workshop-closed"));
      else if (signal.aborted || error.name === "AbortError") this.#say(text("workshop-stopped"));
      else this.#failed(error);
    }
    this.#stop = null;
    this.#hold(false);
    this.#showState();
  }

  /** Loads the model with these edits, unless it has them. */
  async #have(edits, signal) {
    if (this.#lm && !this.#lm.closed && sameEdits(this.#running, edits)) return;
    signal.addEventListener("abort", stopLoading);
    this.#loading = true;
    try {
      await loadEdited(edits);
      this.#running = edits;
    } finally {
      this.#loading = false;
      signal.removeEventListener("abort", stopLoading);
    }
    signal.throwIfAborted();
  }

  /** Has the model write; a changed one that does not stop when it is asked to is ended. */
  async #write(asked, signal, show) {
    const lm = this.#lm;
    let timer = 0;
    const giveUp = () => {
      this.#gaveUp = true;
      lm.close();
    };
    const end = () => (timer = setTimeout(giveUp, PATIENCE));
    if (lm.info.edited.length > 0) signal.addEventListener("abort", end);
    writingBegins();
    try {
      const written = await write(lm, asked, signal, show);
      signal.throwIfAborted();
      return written;
    } finally {
      writingEnds();
      clearTimeout(timer);
      signal.removeEventListener("abort", end);
    }
  }

  /** All files as they were, and the original model. */
  async #reset() {
    if (this.#stop) {
      this.#stop.abort();
      this.#lm?.close(); // without patience
      await this.#ended;
    }
    const before = this.#edits.all;
    for (const path of Object.keys(before)) this.#edits.set(path, this.#edits.original(path));
    if (Object.keys(before).length > 0) this.#before = before;
    this.#noProblem();
    this.#show(this.#path);
    const done = () => this.#say(text(this.#before ? "workshop-reset-back" : "workshop-reset-done"));
    if (this.#lm && !this.#lm.closed && this.#lm.info.edited.length === 0) return done();
    await this.#during(async (signal) => {
      this.#say(text("workshop-resetting"));
      await this.#have({}, signal);
      done();
    });
  }

  /** The changes that Reset took back. */
  #bringBack() {
    const before = this.#before;
    for (const [path, text] of Object.entries(before)) this.#edits.set(path, text);
    this.#show(this.#path in before ? this.#path : Object.keys(before)[0]);
    this.#say(text("workshop-kept"));
  }

  // ---- What is said ----

  #say(words) {
    $("workshop-state").textContent = words;
    say(words);
  }

  #noProblem() {
    $("workshop-problem").hidden = true;
    $("workshop-traceback").open = false;
    this.#editor?.mark(null);
  }

  #failed(error) {
    console.debug(error, error.detail ?? "");
    this.#say("");
    const { place = null, detail = "" } = error;
    $("workshop-problem-text").textContent = error.message;
    $("workshop-detail").textContent = detail;
    $("workshop-traceback").hidden = detail === "";
    const known = place !== null && this.#edits.paths.includes(place.file);
    $("workshop-line").hidden = !known;
    $("workshop-line").onclick = () => {
      this.#show(place.file, place.line);
      this.#editor.focus();
    };
    if (known) this.#show(place.file, place.line);
    $("workshop-problem").hidden = false;
  }

  #listen() {
    const on = (id, act) => $(id).addEventListener("click", act);
    on("workshop-run", () => this.#run());
    on("workshop-stop", () => this.#stop?.abort());
    on("workshop-reset", () => this.#reset());
    on("changed-reset", () => this.#reset());
    on("workshop-back", () => this.#bringBack());
    on("workshop-reset-file", () => {
      this.#edits.set(this.#path, this.#edits.original(this.#path));
      this.#show(this.#path);
      this.#editor.focus();
    });
    $("workshop").addEventListener("toggle", () => $("workshop").open && this.#openOrSay());
    $("workshop-file").addEventListener("change", () => this.#show($("workshop-file").value));
    $("experiments").querySelectorAll("button").forEach((button, index) => {
      button.addEventListener("click", () => this.#editor && this.#toggle(EXPERIMENTS[index]));
    });
  }
}
