// app.js: the writing page, on top of gpt2web.js. It shows text only through textContent.

import { paragraphUnder, showCard } from "./card.js";
import { load } from "./gpt2web.js";

const here = new URL("./", import.meta.url);
const $ = (id) => document.getElementById(id);

// The settings: element, option of generate, and the value (besides an empty field) that leaves it off.
const SETTINGS = [
  ["temperature", "temperature", null],
  ["max-new-tokens", "maxNewTokens", null],
  ["top-k", "topK", null],
  ["top-p", "topP", 1],
  ["min-p", "minP", 0],
  ["repetition-penalty", "repetitionPenalty", 1],
  ["seed", "seed", null],
];

const STAGES = {
  runtime: "Starting Python",
  download: "Downloading the model",
  check: "Testing the arithmetic",
  model: "Loading the model",
  prepare: "Preparing to write",
};

const FINISHES = {
  stop: "The model ended its story here.",
  length: "Stopped at the length that you set.",
  context: "Stopped because the model’s context is full: it can’t see further back than this.",
  cancelled: "Stopped by you.",
};

let lm = null; // the model, once loaded
let loading = null; // what gives up the load under way
let writing = null; // what stops the generation under way

// ---- Loading a model ----

async function start(name) {
  loading?.abort();
  writing?.abort();
  lm?.close();
  lm = null;
  const mine = (loading = new AbortController());
  setButtons();
  hideProblem();
  $("no-webgpu").hidden = true;
  $("software").hidden = true;
  $("loading").hidden = false;
  describeModel(name, mine.signal);
  say("The model is loading.");
  try {
    const loaded = await load(name, { onProgress: showProgress, signal: mine.signal });
    if (mine.signal.aborted) return loaded.close();
    lm = loaded;
    showRunning(lm.info);
    say("The model is ready.");
  } catch (error) {
    if (mine.signal.aborted) return;
    $("running-empty").textContent = "Nothing: the model could not be loaded.";
    if (error.name === "DeviceError") showNoDevice(error);
    else showProblem(error);
  }
  $("loading").hidden = true;
  setButtons();
}

function showProgress({ stage, done, total }) {
  const bar = $("loading-bar");
  if (total > 0) {
    bar.max = total;
    bar.value = done;
    $("loading-label").textContent = `${STAGES[stage]}: ${megabytes(done)} of ${megabytes(total)} MB`;
  } else {
    bar.removeAttribute("value"); // how far is not known
    $("loading-label").textContent = STAGES[stage];
  }
}

/** The model's card, its limits beside the picker, and its own sampling settings. */
async function describeModel(name, signal) {
  const folder = new URL(`models/${name}/`, here);
  const read = async (file) => {
    const response = await fetch(new URL(file, folder), { signal });
    return response.ok ? response.text() : "";
  };
  try {
    const [card, defaults] = await Promise.all([read("MODEL_CARD.md"), read("generation_config.json")]);
    $("model-limits").textContent = paragraphUnder(card, "What to expect");
    $("model-card").replaceChildren(...(card ? showCard(card) : ["This model has no card."]));
    const config = JSON.parse(defaults || "{}");
    setValue("temperature", config.do_sample === false ? 0 : (config.temperature ?? 1));
    setValue("top-k", config.top_k ?? "");
    setValue("top-p", config.top_p ?? 1);
    setValue("min-p", config.min_p ?? 0);
    setValue("repetition-penalty", config.repetition_penalty ?? 1);
  } catch {
    // Without them the page still works: load says what is missing.
  }
}

function showNoDevice(error) {
  $("no-webgpu-reason").textContent = error.message;
  $("no-webgpu").hidden = false;
  say(`The model cannot run in this browser. ${error.message}`);
}

/** The panel that says what is running. */
function showRunning(info) {
  const rows = {
    Model: info.model,
    Adapter: info.adapter,
    Kind: info.software ? "software, no graphics card" : "graphics card",
    Backend: info.backend,
    Precision: `weights in ${info.precision}, arithmetic in f32`,
    Parameters: whole(info.parameters),
    Context: `${whole(info.context)} tokens`,
    "GPU memory": `${megabytes(info.gpuBytes)} MB`,
    "Self-test": info.selfTest,
    Kernels: info.kernels.join(", "),
  };
  $("running").replaceChildren(
    ...Object.entries(rows).map(([name, value]) => {
      const row = document.createElement("div");
      row.append(document.createElement("dt"), document.createElement("dd"));
      row.firstChild.textContent = name;
      row.lastChild.textContent = value;
      return row;
    }),
  );
  $("running-empty").hidden = true;
  $("max-new-tokens").max = info.context;
  $("software-adapter").textContent = info.adapter;
  $("software").hidden = !info.software;
}

// ---- Writing ----

async function write() {
  if (!lm || writing) return;
  const options = readSettings();
  if (!options) return;
  const prompt = $("prompt").value;
  const mine = (writing = new AbortController());
  hideProblem();
  setButtons();
  showText(prompt, "");
  $("story").scrollIntoView({ block: "nearest" });
  $("story-foot").hidden = true;
  document.body.classList.add("writing");
  say("Writing.");
  let text = "";
  let spoken = 0;
  let last = null;
  try {
    const generation = lm.generate(prompt, { ...options, signal: mine.signal });
    for await (const piece of generation) {
      text += piece.text;
      last = piece;
      showText(prompt, text);
      showFigures(generation);
      spoken = saySentences(text, spoken);
    }
    say(`${text.slice(spoken).trim()} ${FINISHES[last.finishReason]}`);
  } catch (error) {
    if (!text) {
      $("story").hidden = true;
      $("story-empty").hidden = false;
    }
    if (error.name !== "ClosedError") await showPromptProblem(error, prompt); // else: another model
  } finally {
    writing = null;
    document.body.classList.remove("writing");
    $("finish").textContent = last?.finishReason ? FINISHES[last.finishReason] : "Broken off by an error.";
    $("story-foot").hidden = last === null;
    setButtons();
  }
}

function showText(prompt, text) {
  const page = document.documentElement;
  const wasInView = $("story").getBoundingClientRect().bottom < page.clientHeight;
  $("told").textContent = prompt;
  $("written").textContent = text;
  $("story").hidden = false;
  $("story-empty").hidden = true;
  // Follow the text while its end is in view, not when the reader has scrolled away from it.
  const below = $("story").getBoundingClientRect().bottom + 24 - page.clientHeight; // in CSS pixels
  if (wasInView && below > 0) page.scrollBy({ top: below, behavior: "instant" });
}

function showFigures({ seed, timing }) {
  const { tokens, firstToken, seconds } = timing;
  $("figure-tokens").textContent = whole(tokens);
  $("figure-first").textContent = firstToken === null ? "–" : `${firstToken.toFixed(2)} s`;
  const after = seconds - firstToken;
  $("figure-speed").textContent = tokens > 1 && after > 0 ? ((tokens - 1) / after).toFixed(1) : "–";
  $("figure-seed").textContent = seed ?? "–";
}

/** Gives the screen reader whole sentences, so that it doesn't start anew with every token. */
function saySentences(text, spoken) {
  const sentences = text.slice(spoken).match(/^[^]*[.!?]["”’']?\s/);
  if (!sentences) return spoken;
  const end = spoken + sentences[0].length;
  say(text.slice(spoken, end).trim());
  return end;
}

/** An error of generate. For a prompt that the context can't hold, also a way to go on. */
async function showPromptProblem(error, prompt) {
  showProblem(error);
  if (error.name !== "ValueError") return;
  const ids = await lm.tokenize(prompt).catch(() => []);
  const context = lm.info.context;
  if (ids.length + 1 < context) return;
  const kept = Math.floor(context * 0.75); // the rest is for the continuation
  $("problem-text").textContent =
    `The prompt has ${whole(ids.length)} tokens, and the model’s context holds ${whole(context)}, ` +
    "the new text included. Shorten it, or go on from its end.";
  const button = $("use-end");
  button.textContent = `Use its last ${whole(kept)} tokens`;
  button.hidden = false;
  button.onclick = async () => {
    const end = await lm.detokenize(ids.slice(-kept));
    $("prompt").value = end.replace(/^\uFFFD+/, ""); // half a character where it was cut
    write();
  };
}

// ---- Settings ----

/** The options of generate, or null when a field is not valid (and the browser has said so). */
function readSettings() {
  const options = {};
  for (const [id, option, off] of SETTINGS) {
    const input = $(id);
    if (!input.checkValidity()) {
      input.closest("details").open = true;
      input.reportValidity();
      return null;
    }
    const value = input.valueAsNumber; // NaN when empty
    if (!Number.isNaN(value) && value !== off) options[option] = value;
  }
  return options;
}

function setValue(id, value) {
  $(id).value = value;
  showValue(id);
}

/** What a slider stands at, in words where it switches something off. */
function showValue(id) {
  const output = document.querySelector(`output[for="${id}"]`);
  if (!output) return;
  const [, , off] = SETTINGS.find(([name]) => name === id);
  const value = $(id).valueAsNumber;
  output.textContent = value === off ? "off" : value.toFixed(2);
}

// ---- Small things ----

function setButtons() {
  const focused = document.activeElement;
  $("generate").disabled = !lm || writing !== null;
  $("stop").disabled = writing === null;
  // A button that is disabled loses the keyboard's focus: hand it to the other one.
  if (focused === $("generate") && writing) $("stop").focus();
  if (focused === $("stop") && !writing) $("generate").focus();
}

function showProblem(error) {
  console.debug(error, error.detail ?? ""); // for developers: the traceback in Python
  $("problem-text").textContent = error.message;
  $("problem").hidden = false;
}

function hideProblem() {
  $("problem").hidden = true;
  $("use-end").hidden = true;
}

/** Tells the screen reader. */
function say(text) {
  $("status").textContent = text;
}

function whole(number) {
  return number.toLocaleString("en");
}

function megabytes(bytes) {
  return (bytes / 1e6).toFixed(1);
}

async function copy() {
  await navigator.clipboard.writeText($("told").textContent + $("written").textContent);
  $("copy").textContent = "Copied";
  say("Copied.");
  setTimeout(() => ($("copy").textContent = "Copy"), 2000);
}

/** Fills the picker; its first model, which index.html names, is being loaded meanwhile. */
async function listModels() {
  const models = await (await fetch(new URL("models.json", here))).json();
  const chosen = $("model").value;
  const options = models.map(({ name, title }) => new Option(title, name, false, name === chosen));
  $("model").replaceChildren(...options);
}

// ---- The page itself ----

$("not-started").remove();
if (/Mac|iPhone|iPad/.test(navigator.platform)) $("keys").querySelector("kbd").textContent = "⌘";
if (matchMedia("(max-width: 60rem)").matches) {
  for (const panel of document.querySelectorAll(".panel")) panel.open = false;
}

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  write();
});
$("stop").addEventListener("click", () => writing?.abort());
$("copy").addEventListener("click", () => copy().catch(showProblem));
$("keep-seed").addEventListener("click", () => setValue("seed", $("figure-seed").textContent));
$("model").addEventListener("change", () => start($("model").value));
for (const [id] of SETTINGS) {
  showValue(id);
  $(id).addEventListener("input", () => showValue(id));
}
for (const button of document.querySelectorAll(".example")) {
  button.addEventListener("click", () => {
    $("prompt").value = button.textContent;
    $("prompt").focus();
  });
}
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    write();
  } else if (event.key === "Escape") {
    writing?.abort();
  }
});

start($("model").value);
listModels().catch(() => {}); // the one that index.html names stays
