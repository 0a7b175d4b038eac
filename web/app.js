// app.js: the writing page, on top of gpt2web.js; models.js has its model panel. It shows text only through
// textContent.

import { openModels } from "./models.js";
import { keepPage } from "./offline.js";
import { $, megabytes, say, whole } from "./show.js";
import { addRequests, openWhatLeft, writingBegins, writingEnds } from "./what_left.js";

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

const FINISHES = {
  stop: "The model ended its story here.",
  length: "Stopped at the length that you set.",
  context: "Stopped because the model’s context is full: it can’t see further back than this.",
  cancelled: "Stopped by you.",
};

let lm = null; // the model, once loaded
let writing = null; // what stops the generation under way

// ---- The model, which models.js loads ----

const listener = {
  starting() {
    writing?.abort();
    lm = null;
    setButtons();
    hideProblem();
    $("no-webgpu").hidden = true;
    $("software").hidden = true;
    $("running").replaceChildren();
    $("running-empty").textContent = "Nothing yet: the model is still loading.";
    $("running-empty").hidden = false;
  },

  loaded(model) {
    lm = model;
    showRunning(lm.info);
    setButtons();
    keepPage(); // not before: it would keep the model waiting
  },

  defaults(config) {
    setValue("temperature", config.do_sample === false ? 0 : (config.temperature ?? 1));
    setValue("top-k", config.top_k ?? "");
    setValue("top-p", config.top_p ?? 1);
    setValue("min-p", config.min_p ?? 0);
    setValue("repetition-penalty", config.repetition_penalty ?? 1);
  },

  async failed(problem) {
    keepPage();
    $("running-empty").textContent = "Nothing: no model is loaded.";
    if (problem.error?.name === "DeviceError" && !(await hasAdapter())) showNoDevice(problem.error);
    else showProblem(problem);
  },

  requests: addRequests,

  problem(problem) {
    if (problem) showProblem(problem);
    else hideProblem();
  },
};

async function hasAdapter() {
  return Boolean(await navigator.gpu?.requestAdapter().catch(() => null));
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
    Python: info.started === "snapshot" ? "from a snapshot" : "started anew",
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
  writingBegins();
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
    writingEnds();
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
  const ids = error.code === "prompt-too-long" ? await lm.tokenize(prompt).catch(() => []) : [];
  const context = lm?.info.context;
  if (!lm || ids.length === 0) return showProblem({ error, message: error.message });
  const kept = Math.floor(context * 0.75); // the rest is for the continuation
  const message =
    `The prompt has ${whole(ids.length)} tokens, and the model’s context holds ${whole(context)}, ` +
    "the new text included. Shorten it, or go on from its end.";
  const run = async () => {
    const end = await lm.detokenize(ids.slice(-kept));
    $("prompt").value = end.replace(/^\uFFFD+/, ""); // half a character where it was cut
    write();
  };
  showProblem({ error, message, again: { label: `Use its last ${whole(kept)} tokens`, run } });
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

/** again: {label, run}, a way out, if there is one; calm: nothing went wrong. */
function showProblem({ error, message, again, calm = false }) {
  if (error) console.debug(error, error.detail ?? ""); // for developers: the traceback in Python
  $("problem-text").textContent = message;
  $("problem").classList.toggle("calm", calm);
  $("problem").hidden = false;
  const button = $("way-out");
  button.hidden = !again;
  button.textContent = again?.label ?? "";
  button.onclick = again?.run ?? null;
}

function hideProblem() {
  $("problem").hidden = true;
}

async function copy() {
  await navigator.clipboard.writeText($("told").textContent + $("written").textContent);
  $("copy").textContent = "Copied";
  say("Copied.");
  setTimeout(() => ($("copy").textContent = "Copy"), 2000);
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
$("copy").addEventListener("click", () => {
  const message = "The browser does not let this page copy: select the text and copy it yourself.";
  copy().catch((error) => showProblem({ error, message, calm: true }));
});
$("keep-seed").addEventListener("click", () => setValue("seed", $("figure-seed").textContent));
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

openWhatLeft();
openModels(listener);
