// models.js: the model panel: which models there are, what loading one takes, the reader's own files,
// what is kept on this machine, and the load itself.

import { paragraphUnder, showCard } from "./card.js";
import { Download, keepOffline, load, models, removeModel } from "./gpt2web.js";
import { filesOf, wholeModel } from "./own_files.js";
import { LoadProgress } from "./progress.js";
import { $, losesFocus, say, size, whole } from "./show.js";
import { text } from "./texts.js";

const CARD_LIMITS = "What to expect"; // the heading in a model card above what the model can’t do
const OWN = "/own"; // the choice of the reader's own files: no model's name has a slash
const here = new URL("./", import.meta.url);

let listed = []; // what models() says
let own = null; // the reader's own model, as wholeModel gives it, and `choice`: OWN
let lm = null; // the model, once loaded
let current = null; // the choice that is loaded or being loaded
let last = null; // what was loaded last: {choice, files, precision}, of which an edited model is made
let loading = null; // what gives up the load under way
let endEdited = null; // ends the load of an edited model, as its own caller says
let tell = null; // app.js, which wants to hear of it

/**
 * Fills the panel and loads the model that index.html names, or the one that is `wanted` where it is kept here.
 *
 * @param {object} listener  starting(): the model before goes; loaded(lm, about), see describe; defaults(config): the model's own
 *   sampling settings; failed(problem): nothing is loaded, null where that is told elsewhere; problem(problem or null):
 *   about something else; requests(requests): what the worker has asked for; story(file): Promise of whether the file is
 *   a saved story, which is opened then.
 *   A problem is {message, error, again: {label, run}, calm}: a way out, and whether nothing went wrong
 */
export function openModels(listener, wanted = null) {
  tell = listener;
  $("model").addEventListener("change", () => choose($("model").value));
  $("load-model").addEventListener("click", () => start($("model").value));
  $("delete-model").addEventListener("click", () => deleteModel().catch(showError));
  $("keep-model").addEventListener("click", () => keepModels().catch(showError));
  for (const id of ["own-files", "own-folder"]) {
    $(id).addEventListener("change", () => {
      chooseOwn([...$(id).files]);
      $(id).value = ""; // so that the same files can be chosen again
    });
  }
  takeDrops();
  const first = $("model").value;
  if (wanted === null || wanted === first) {
    start(first);
    list().catch(() => {}); // the one that index.html names stays
    return;
  }
  list()
    .catch(() => {})
    .then(() => {
      const kept = listed.some(({ name, bytes, stored }) => name === wanted && stored >= bytes);
      start(kept ? wanted : first);
      if (!kept) offerModel(wanted);
    });
}

/** Says what loading a model would take, which a link has named, and offers it. */
export function offerModel(name) {
  if (name === current) return;
  const model = listed.find((one) => one.name === name);
  if (!model) return tell.problem({ message: text("link-no-model", { model: name.slice(0, 60) }) });
  const again = { label: text("load"), run: () => start(name) };
  const missing = size(model.bytes - model.stored);
  tell.problem({ message: text("link-model", { model: model.title ?? name, missing }), again, calm: true });
}

// ---- Loading ----

/** Loads the model anew that is loaded, whatever is chosen in the picker. */
export function loadAgain() {
  return start(current);
}

/**
 * Loads the model that is loaded, or was, with changed files of gpt2web; without any the original.
 *
 * @throws {Error} what is wrong with them, or the reason of stopLoading
 */
export async function loadEdited(edits) {
  const error = await start(current ?? last.choice, edits);
  if (error) throw error;
}

/** Gives up what loadEdited loads. */
export function stopLoading() {
  endEdited?.();
}

/** What a choice means now: the reader's own files and precision may be others later. */
function sourceOf(choice) {
  if (choice !== OWN) return { choice };
  const files = own.files.map(({ file }) => file);
  return { choice, name: own.name, files, precision: $("precision").value || undefined };
}

/** edits: null where the page itself is to say what goes wrong. Returns the error, null where it was loaded. */
async function start(choice, edits = null) {
  tell.starting();
  loading?.abort();
  lm?.close(); // its worker ends, and with it what it holds on the GPU
  lm = null;
  current = choice;
  if (!edits || last?.choice !== choice) last = sourceOf(choice);
  const { name = choice, files, precision } = last;
  const mine = (loading = new AbortController());
  const download = new Download();
  const progress = new LoadProgress(download, () => {
    cancel(mine, choice);
    progress.end();
  });
  endEdited = edits && (() => {
    mine.abort();
    progress.end();
    loading = current = null;
    tell.failed(null);
    list().catch(showChoice);
  });
  choose(choice);
  const focused = document.activeElement; // the button that began it is gone now
  if (losesFocus(focused)) $($("models").contains(focused) ? "model" : "cancel-load").focus({ preventScroll: true });
  if (!edits) applyDefaults(choice, mine.signal); // else the reader's own settings stay
  const onProgress = (news) => {
    if (mine.signal.aborted) return;
    progress.show(news);
    if (news.stage === "prepare") list().catch(() => {}); // not later: once it writes, the page asks for nothing
  };
  const about = describe(choice);
  const options = { onProgress, onRequests: tell.requests, signal: mine.signal, download, edits, files, precision };
  let failure = null;
  try {
    const loaded = await load(name, options);
    if (mine.signal.aborted) {
      loaded.close();
      return mine.signal.reason;
    }
    lm = loaded;
    tell.loaded(lm, await about);
    if (!edits) say(text("model-ready"));
  } catch (error) {
    if (mine.signal.aborted) return mine.signal.reason;
    failure = error;
    current = null;
    const again = { label: text("load-again"), run: () => start(choice) };
    tell.failed(edits ? null : { error, message: error.message, again });
  }
  progress.end();
  loading = endEdited = null;
  if (lm) showChoice();
  else list().catch(showChoice);
  return failure;
}

function cancel(mine, choice) {
  mine.abort();
  loading = current = null;
  const again = { label: text("load-after-all"), run: () => start(choice) };
  const message = text(choice === OWN ? "load-cancelled" : "load-cancelled-kept");
  tell.failed({ message, again, calm: true });
  list().catch(showChoice);
}

// ---- The picker ----

/** Asks again which models there are and what of them is on this machine. */
async function list() {
  listed = await models();
  const options = listed.map(({ name, title }) => new Option(title ?? name, name));
  if (own) options.push(new Option(text("own-model", { name: own.name }), OWN));
  const chosen = $("model").value;
  $("model").replaceChildren(...options);
  $("model").value = chosen;
  if ($("model").value !== chosen) $("model").selectedIndex = 0; // it is not there any more
  showChoice();
}

/** Makes a model the one that the panel is about; another may be running. */
function choose(choice) {
  $("model").value = choice;
  showChoice();
  showWords(choice);
}

/** What is known of the model chosen in the picker, and what can be done with it. */
function showChoice() {
  const choice = $("model").value;
  const files = choice === OWN;
  const model = files ? own : listed.find(({ name }) => name === choice);
  const running = choice === current;
  $("model-facts").textContent = files ? ownFacts() : model ? facts(model) : "";
  $("model-kept").textContent = files ? ownText(running) : model ? keptText(model, running) : "";
  $("precision-choice").hidden = !files;
  $("load-model").hidden = running && !(files && lm);
  $("load-model").textContent = text(running ? "load-same" : "load");
  const kept = !files && model?.stored > 0;
  $("delete-model").hidden = $("keep-model").hidden = !kept || (running && !lm);
  $("keep-answer").textContent = "";
}

/** "5.9 million parameters, f16, 11.8 MB, context of 384 tokens, license MIT." */
function facts({ parameters, precision, bytes, context, license }) {
  const parts = [
    parameters && short(parameters),
    precision,
    bytes && size(bytes),
    context && text("facts-context", { tokens: whole(context) }),
    license && text("facts-license", { license }),
  ];
  return `${parts.filter(Boolean).join(", ")}.`;
}

function keptText({ bytes, stored }, running) {
  if (running && !lm) return ""; // the load says how far it is
  if (stored >= bytes) return text(running ? "kept-whole" : "kept-whole-to-load");
  const sizes = { part: size(stored), whole: size(bytes) };
  if (running) return stored > 0 ? text("kept-part", sizes) : text("kept-not");
  if (stored > 0) return text("kept-part-to-load", { ...sizes, missing: size(bytes - stored) });
  return text("kept-not-to-load", { whole: size(bytes) });
}

function ownFacts() {
  const names = own.files.map(({ file }) => file.name);
  const rest = names.length > 6 ? names.length - 5 : 0;
  const some = names.slice(0, names.length - rest).join(", ");
  const bytes = size(own.bytes);
  return rest ? text("own-facts-many", { names: some, rest, bytes }) : text("own-facts", { names: some, bytes });
}

function ownText(running) {
  return text(running ? "own-running" : "own-to-load");
}

function short(number) {
  if (number >= 1e9) return text("facts-billions", { count: (number / 1e9).toFixed(1) });
  return text("facts-millions", { count: number >= 1e7 ? Math.round(number / 1e6) : (number / 1e6).toFixed(1) });
}

async function deleteModel() {
  const name = $("model").value;
  const { title, stored } = listed.find((model) => model.name === name);
  if (!confirm(text("delete-model-question", { model: title ?? name, bytes: size(stored) }))) return;
  await removeModel(name);
  await list();
  say(text("model-deleted"));
  $("model").focus(); // the button that had the focus is gone
}

async function keepModels() {
  const answer = text((await keepOffline()) ? "keep-promised" : "keep-not-promised");
  $("keep-answer").textContent = answer;
  say(answer);
}

// ---- The reader's own files ----

/** Makes what was dropped or picked the choice, or says why it is no model. */
function chooseOwn(files) {
  if (files.length === 0) return;
  let model;
  try {
    model = wholeModel(files);
  } catch (error) {
    showError(error);
    return;
  }
  own = model;
  if (current === OWN) current = null; // what runs is not these files
  tell.problem(null);
  const option = [...$("model").options].find(({ value }) => value === OWN) ?? new Option("", OWN);
  option.textContent = text("own-model", { name: own.name });
  $("model").append(option);
  $("models").open = true;
  choose(OWN);
  say(text("own-chosen", { name: own.name, facts: ownFacts() }));
  $("load-model").focus({ preventScroll: true });
  $("models").scrollIntoView({ block: "nearest" });
}

/** A story that was saved is opened; anything else is to be a model. */
async function takeFiles(files) {
  const saved = files.length === 1 && /\.json$/i.test(files[0].name) && (await tell.story(files[0]));
  if (!saved) chooseOwn(files);
}

/** A drop of files anywhere is a model, or a saved story; anything else may be dropped into a text field, and nowhere else. */
function takeDrops() {
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  const forText = (event) => event.target instanceof Element && event.target.closest("textarea, input:not([type=file])");
  const mark = (on) => document.body.classList.toggle("dropping", on);
  for (const type of ["dragenter", "dragover"]) {
    document.addEventListener(type, (event) => {
      mark(hasFiles(event));
      if (!hasFiles(event) && forText(event)) return;
      event.preventDefault(); // else the browser would leave the page for what is dropped
      event.dataTransfer.dropEffect = hasFiles(event) ? "copy" : "none";
    });
  }
  document.addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) mark(false); // it has left the window
  });
  document.addEventListener("pointermove", () => mark(false)); // silent while a drag lasts, however it ends
  document.addEventListener("drop", (event) => {
    mark(false);
    if (!hasFiles(event)) {
      if (!forText(event)) event.preventDefault();
      return;
    }
    event.preventDefault();
    filesOf(event.dataTransfer).then(takeFiles).catch(showError);
  });
}

// ---- What the model says of itself ----

/** The chosen model's card, and its limits beside the picker. */
async function showWords(choice) {
  const card = await reader(choice)("MODEL_CARD.md").catch(() => "");
  if ($("model").value !== choice) return; // another was chosen meanwhile
  $("model-limits").textContent = paragraphUnder(card, CARD_LIMITS);
  $("model-card").replaceChildren(...(card ? showCard(card) : [text("no-card")]));
}

/** The sampling settings of the model that is being loaded. */
async function applyDefaults(choice, signal) {
  try {
    const defaults = JSON.parse((await reader(choice)("generation_config.json")) || "{}");
    if (!signal.aborted) tell.defaults(defaults);
  } catch {
    // Without them the page still works: load says what is missing.
  }
}

/** What a file of a text says of the model: {title, shared, files}; shared is its name in links, null for own files. */
async function describe(choice) {
  const manifest = await reader(choice)("manifest.json").then(JSON.parse).catch(() => ({}));
  const { title = null, files = [], weights = [] } = manifest;
  if (choice !== OWN) return { title, shared: choice, files: [...files, ...weights] };
  const unhashed = own.files.map(({ name, file }) => ({ file: name, bytes: file.size }));
  return { title: own.name, shared: null, files: weights.length > 0 ? [...files, ...weights] : unhashed };
}

function reader(choice) {
  return choice === OWN ? readOwn(own) : readServed(choice);
}

function readServed(name) {
  const folder = new URL(`models/${name}/`, here);
  return async (file) => {
    const response = await fetch(new URL(file, folder));
    return response.ok ? response.text() : "";
  };
}

function readOwn({ files }) {
  return async (wanted) => {
    const found = files.find(({ name }) => name === wanted);
    return found && found.file.size < 1e6 ? found.file.text() : "";
  };
}

function showError(error) {
  tell.problem({ error, message: error.message });
}
