// tools.js: what can be done with the text: begin, go on, try again, several ways on, undo, edit, copy; and what is
// said of how it went.

import { Narrator } from "./narrator.js";
import { readSettings, setValue } from "./settings.js";
import { $, losesFocus, say, whole } from "./show.js";
import { before, lastTurn, typed } from "./story.js";
import { StoryView } from "./story_view.js";
import { text } from "./texts.js";
import { Ways } from "./ways.js";
import { Writer, keptTokens } from "./writing.js";

export class Tools {
  #story;
  #listener;
  #ways;
  #step = null; // that the foot tells of: the one under way, or that which wrote the text's end
  #narrator = new Narrator(say);
  #held = false; // the model is needed elsewhere
  #from = document.body; // what had the focus when the writing under way was begun

  /** listener: problem(problem), see app.js; noProblem(). */
  constructor(story, listener) {
    this.#story = story;
    this.#listener = listener;
    this.writer = new Writer(story, {
      begins: (step) => this.#begins(step),
      wrote: (step, piece) => this.#wrote(step, piece),
      ends: (step) => this.#ends(step),
    });
    this.view = new StoryView(story, {
      changed: () => this.showButtons(),
      goOn: (at) => this.#write(before(story.pieces, at)),
    });
    this.#ways = new Ways(story, this.writer);
    story.addEventListener("change", () => {
      if (!story.writing) this.#showStep(lastTurn(story.pieces)?.turn.step ?? null);
    });
    this.#listen();
    this.showButtons();
  }

  /** Ends what is open for the text as it is: the field to edit it, ways on. */
  close() {
    this.view.close();
    this.#ways.close();
  }

  /** Has nothing written here while a changed model is tried out: it would end with the model that writes it. */
  hold(whether) {
    this.#held = whether;
    this.showButtons();
  }

  // ---- Writing ----

  begin() {
    this.close();
    this.#write(typed($("prompt").value), { identity: {} });
  }

  goOn() {
    this.goOnBehind(this.#story.pieces);
  }

  goOnBehind(pieces) {
    this.close();
    this.#write(pieces);
  }

  /** The end that the model wrote last, with another seed. */
  retry() {
    const last = lastTurn(this.#story.pieces);
    if (last) this.#write(last.pieces, { newSeed: true });
  }

  async #write(pieces, { identity, newSeed = false } = {}) {
    if (this.#held) return this.#listener.problem({ message: text("busy"), calm: true });
    if (!this.writer.lm || this.writer.busy) return;
    const settings = readSettings();
    if (!settings) return;
    if (newSeed) delete settings.options.seed;
    this.#from = document.activeElement; // before the text changes: it may be one of its tokens
    await this.writer.write(pieces, settings, identity);
  }

  /** Several ways on, with other seeds. */
  branch() {
    if (this.#held || !this.writer.lm || this.writer.busy) return;
    const settings = readSettings();
    if (!settings) return;
    this.#from = document.activeElement;
    this.close();
    this.#ways.write(settings);
  }

  /** A way to have the last turn written again and compared: {label, run}; null where no turn ends the text. */
  repeatLast() {
    const turn = lastTurn(this.#story.pieces)?.turn;
    if (!turn || turn.edited) return null; // nobody has what was changed
    const run = async () => {
      const { lm } = this.writer;
      if (this.#held || !lm || this.writer.busy) return this.#listener.problem({ message: text("not-ready"), calm: true });
      if (lm.info.edited.length > 0) {
        return this.#listener.problem({ message: text("repeat-edited"), calm: true });
      }
      if (lm.info.model !== turn.model) {
        return this.#listener.problem({ message: text("repeat-model", { model: turn.model }), calm: true });
      }
      this.#from = document.activeElement;
      const ids = await this.writer.repeat(turn);
      if (ids === null) return;
      const same = turn.ids.findIndex((id, index) => id !== ids[index]);
      const values = { here: `${lm.info.model} ${lm.info.precision}, ${lm.info.adapter}` };
      const message =
        same < 0
          ? text("repeated-same", { count: whole(turn.ids.length) })
          : text("repeated-other", { ...values, there: `${turn.model} ${turn.precision}, ${turn.adapter}`, number: whole(same + 1) });
      this.#listener.problem({ message, calm: true });
    };
    return { label: text("repeat"), run };
  }

  #begins(step) {
    this.#listener.noProblem();
    document.body.classList.toggle("writing", this.#story.writing);
    this.#showStep(step);
    if (this.#story.writing) $("story").scrollIntoView({ block: "nearest" });
    this.#narrator.begins(text("writing"));
  }

  #wrote(step, piece) {
    this.#showFigures(step);
    if (!this.#ways.open) this.#narrator.wrote(piece.text); // three at once can't be listened to
  }

  #ends(step) {
    document.body.classList.remove("writing");
    this.#showStep(step);
    const { error } = step;
    if (!error) this.#narrator.ends(this.#ways.open && step.tokens > 0 ? text("ways-written") : finishOf(step));
    else if (error.name !== "ClosedError" || this.writer.lm?.closed) this.#failed(error); // else: another model
    if (!error && step.finish === "cancelled" && step.tokens === 0) this.#ways.close();
  }

  /** An error of the model. For a prompt that the context can't hold, also a way to go on. */
  async #failed(error) {
    const { lm } = this.writer;
    const ids = error.code === "prompt-too-long" ? await lm?.tokenize($("prompt").value).catch(() => null) : null;
    if (!ids) return this.#listener.problem({ error, message: error.message });
    const kept = keptTokens(lm.info.context); // the rest is for the continuation
    const message = text("prompt-too-long", { count: whole(ids.length), context: whole(lm.info.context) });
    const run = async () => {
      const end = await lm.detokenize(ids.slice(-kept));
      $("prompt").value = end.replace(/^\uFFFD+/, ""); // half a character where it was cut
      this.begin();
    };
    this.#listener.problem({ error, message, again: { label: text("use-end", { kept: whole(kept) }), run } });
  }

  // ---- What is said of it ----

  #showStep(step) {
    this.#step = step;
    if (step) this.#showFigures(step);
    $("finish").textContent = step ? finishOf(step) : "";
    $("finish").hidden = $("finish").textContent === "";
    $("figures").hidden = !step;
    $("keep-seed").hidden = (step?.seed ?? null) === null;
    this.showButtons();
  }

  #showFigures({ seed, tokens, firstToken, seconds }) {
    $("figure-tokens").textContent = whole(tokens);
    $("figure-first").textContent = firstToken === null ? "–" : `${firstToken.toFixed(2)} s`;
    const after = seconds - firstToken;
    $("figure-speed").textContent = tokens > 1 && after > 0 ? ((tokens - 1) / after).toFixed(1) : "–";
    $("figure-seed").textContent = seed ?? "–";
  }

  showButtons() {
    const [story, writer] = [this.#story, this.writer];
    const ready = writer.lm !== null && !writer.busy && !this.#held;
    $("generate").disabled = !ready;
    $("stop").disabled = !writer.busy;
    $("go-on").disabled = $("branch").disabled = !ready;
    $("retry").disabled = !ready || !lastTurn(story.pieces);
    $("undo").disabled = !story.canUndo;
    $("redo").disabled = !story.canRedo;
    const empty = story.pieces.length === 0;
    for (const id of ["go-on", "branch", "retry", "edit", "copy"]) $(id).hidden = empty;
    $("share").hidden = empty || writer.busy || this.view.editing;
    $("story-foot").hidden = writer.busy || this.view.editing || (empty && !story.canUndo && !story.canRedo);
    $("writing-foot").hidden = !writer.busy;
    this.#keepFocus();
  }

  /**
   * The keyboard's focus would be lost with a button that is disabled or hidden, or with a token of a text that is
   * written anew: its counterpart gets it, and at the end what had it before.
   */
  #keepFocus() {
    const { activeElement } = document;
    const focused = activeElement === document.body ? this.#from : activeElement;
    if (!losesFocus(focused)) return;
    if (this.writer.busy) {
      if (focused === activeElement) this.#from = focused;
      ($("composer").contains(focused) ? $("stop") : $("stop-here")).focus({ preventScroll: true });
      return;
    }
    const way = $("ways-list").querySelector("button:enabled"); // to be chosen next
    const back = [way, this.#from, focused === $("stop") ? $("generate") : $("go-on"), $("prompt")];
    back.find((element) => element && element !== document.body && !losesFocus(element)).focus({ preventScroll: true });
    this.#from = document.body;
  }

  // ---- The buttons and keys ----

  #listen() {
    const on = (id, act) => $(id).addEventListener("click", act);
    $("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.begin();
    });
    on("stop", () => this.writer.stop());
    on("stop-here", () => this.writer.stop());
    on("go-on", () => this.goOn());
    on("retry", () => this.retry());
    on("branch", () => this.branch());
    on("undo", () => this.#undo("undo"));
    on("redo", () => this.#undo("redo"));
    on("edit", () => this.view.edit());
    on("keep-seed", () => setValue("seed", $("figure-seed").textContent));
    on("copy", () => {
      this.#copy().catch((error) => this.#listener.problem({ error, message: text("copy-refused"), calm: true }));
    });
    document.addEventListener("keydown", (event) => this.#key(event));
  }

  #undo(which) {
    const focused = document.activeElement; // on a button that may be of no more use, or on a token
    this.#story[which]();
    say(text(which === "undo" ? "undone" : "redone"));
    if (!losesFocus(focused)) return;
    const other = which === "undo" ? "redo" : "undo";
    $($(which).disabled ? other : which).focus({ preventScroll: true });
  }

  async #copy() {
    await navigator.clipboard.writeText(this.#story.text);
    $("copy").textContent = text("copied");
    say(text("copied"));
    setTimeout(() => ($("copy").textContent = text("copy")), 2000);
  }

  #key(event) {
    const control = event.ctrlKey || event.metaKey;
    const inField = event.target instanceof Element && event.target.closest("textarea, input, select");
    const key = event.key.toLowerCase();
    if (control && key === "enter") {
      event.preventDefault();
      if ($("editing").contains(event.target)) this.view.goOn();
      else if ($("text").contains(event.target) && this.#story.pieces.length > 0) this.goOn();
      else this.begin();
    } else if (key === "escape") {
      this.writer.stop();
    } else if (control && !inField && (key === "z" || key === "y")) {
      event.preventDefault();
      this.#undo(key === "y" || event.shiftKey ? "redo" : "undo");
    }
  }
}

/** How a step ended, in words. */
function finishOf({ finish, error, stops }) {
  if (error) return text("finish-broken");
  if (finish === "stop" && stops) return text("finish-stop-or-text");
  return finish ? text(`finish-${finish}`) : "";
}
