// app.js: the writing page, on top of gpt2web.js: the model, what is running, problems, keys. tools.js has what can be
// done with the text, models.js the model panel. Text is shown only through textContent.

import { openAttention } from "./attention.js";
import { Context } from "./context.js";
import { openHistory } from "./history.js";
import { openLens } from "./lens.js";
import { Looking } from "./looking.js";
import { loadAgain, offerModel, openModels } from "./models.js";
import { openNextToken } from "./next_token.js";
import { keepPage } from "./offline.js";
import { Probabilities } from "./probabilities.js";
import { Unusable } from "./saved.js";
import { applyTexts, openSettings, setDefaults, settingsAsTexts } from "./settings.js";
import { openShare, readLink, reasonOf, storyOf } from "./share.js";
import { $, megabytes, say, whole } from "./show.js";
import { Story, lastTurn, typed } from "./story.js";
import { text } from "./texts.js";
import { Tools } from "./tools.js";
import { VERSION } from "./version.js";
import { WeightsMap } from "./weights_map.js";
import { addRequests, openWhatLeft } from "./what_left.js";

const story = new Story();
const tools = new Tools(story, { problem: showWritingProblem, noProblem: hideProblem });
const { writer } = tools;
const context = new Context(story, writer);
const looking = new Looking(story);
const weights = new WeightsMap();
let kept = null; // what a file says of the model: its title and its files with their hashes
let workshop = null; // once it was opened
let linked = null; // the settings of the link that this page was opened with, until the model's own have come

// ---- The model, which models.js loads ----

const listener = {
  starting() {
    writer.stop();
    setModel(null);
    hideProblem();
    $("no-webgpu").hidden = true;
    $("software").hidden = true;
    $("running").replaceChildren();
    $("running-empty").textContent = text("running-loading");
    $("running-empty").hidden = false;
  },

  loaded(lm, about) {
    kept = about;
    setModel(lm);
    showRunning(lm.info);
    showNotice(lm.info);
    lm.addEventListener("change", () => {
      if (lm === writer.lm && !lm.closed) showRecovery(lm);
    });
    keepPage(); // not before: it would keep the model waiting
  },

  defaults(config) {
    setDefaults(config);
    if (linked) applyTexts(linked);
    linked = null;
  },

  async failed(problem) {
    keepPage();
    $("running-empty").textContent = text("running-nothing");
    if (!problem) return;
    if (problem.error?.name === "DeviceError" && !(await hasAdapter())) showNoDevice(problem.error);
    else showProblem(problem);
  },

  requests: addRequests,

  async story(file) {
    const found = await storyOf(file);
    if (found) open(found);
    return found !== null;
  },

  problem(problem) {
    if (problem) showProblem(problem);
    else hideProblem();
  },
};

function setModel(lm) {
  writer.lm = lm;
  tools.showButtons();
  context.reset();
  looking.lm = weights.lm = lm;
  probabilities.reset();
  if (workshop) workshop.lm = lm;
}

async function hasAdapter() {
  return Boolean(await navigator.gpu?.requestAdapter().catch(() => null));
}

function showNoDevice(error) {
  $("no-webgpu-reason").textContent = error.message;
  $("no-webgpu").hidden = false;
  say(text("no-device", { reason: error.message }));
}

/** The graphics card or the worker was lost: what is being done about it, and then that it works again. */
function showRecovery({ recovering, info }) {
  if (recovering) return showProblem({ message: recovering, calm: true });
  showRunning(info);
  hideProblem();
  showNotice(info);
  say(text("works-again"));
}

/** Something is not as it was asked for: a smaller precision was taken. */
function showNotice({ notice }) {
  if (notice) showProblem({ message: notice, calm: true });
}

/** The panel that says what is running. */
function showRunning(info) {
  const rows = {
    model: info.model,
    adapter: info.adapter,
    kind: text(info.software ? "running-software" : "running-card"),
    backend: info.backend,
    precision: text("running-weights", { precision: info.precision }),
    ...(info.notice ? { notice: info.notice } : {}),
    parameters: whole(info.parameters),
    context: text("running-tokens", { count: whole(info.context) }),
    memory: text("running-bytes", { megabytes: megabytes(info.gpuBytes) }),
    "self-test": info.selfTest,
    ...(info.edited.length > 0 ? { edited: info.edited.join(", ") } : {}),
    python: text(info.started === "snapshot" ? "running-snapshot" : "running-anew"),
    kernels: info.kernels.join(", "),
  };
  $("running").replaceChildren(
    ...Object.entries(rows).map(([name, value]) => {
      const row = document.createElement("div");
      row.append(document.createElement("dt"), document.createElement("dd"));
      row.firstChild.textContent = text(`running-${name}`);
      row.lastChild.textContent = value;
      return row;
    }),
  );
  $("running-empty").hidden = true;
  $("max-new-tokens").max = info.context;
  $("software-adapter").textContent = info.adapter;
  $("software").hidden = !info.software;
}

// ---- What is kept, shared and opened ----

/** What a file of a text says beside it. */
function about() {
  const { lm } = writer;
  const model = lm && { ...lm.info, ...kept };
  return { when: new Date().toISOString(), page: VERSION, settings: settingsAsTexts(), model };
}

/** A text from the history or from a file; `identity` where it was here before. */
function open({ pieces, settings, model, when }, identity) {
  if (writer.busy) return showProblem({ message: text("busy"), calm: true });
  tools.close();
  story.begin(pieces, identity);
  const wrong = applyTexts(settings);
  $("story").scrollIntoView({ block: "nearest" });
  $("story-title").focus({ preventScroll: true }); // it is what the reader wants to get to
  if (wrong) return showProblem({ message: text("file-bad-setting", { name: wrong }), calm: true });
  const again = tools.repeatLast();
  const values = { model: model ? (model.title ?? model.model) : text("no-model"), when: localTime(when) };
  const edited = lastTurn(pieces)?.turn.edited;
  const message = edited
    ? text("opened-edited", { ...values, files: edited.join(", ") })
    : text(again ? "opened-to-repeat" : "opened", values);
  showProblem({ message, again, calm: true });
}

function localTime(when) {
  const date = new Date(when);
  return Number.isNaN(date.getTime()) ? "–" : date.toLocaleString();
}

/** Takes over what the link says that this page was opened with: {model: the one that it names, or null; problem}. */
function takeLink() {
  try {
    const state = readLink();
    if (!state) return { model: null };
    if (writer.busy) return { model: null, problem: { message: text("busy"), calm: true } };
    const name = applyTexts(state.settings);
    if (name) throw new Unusable("link-bad-setting", { name, value: state.settings[name].slice(0, 40) });
    linked = state.settings;
    if (state.text) {
      tools.close();
      story.begin(typed(state.text));
    }
    return { model: state.model };
  } catch (error) {
    return { model: null, problem: { error, message: reasonOf(error, error.message) } };
  }
}

// ---- Changing the model ----

/** The panel's programs come when it is opened: the editor is larger than all the others. */
async function openWorkshop() {
  try {
    const { Workshop } = await import("./workshop.js");
    workshop = new Workshop(writer, (whether) => tools.hold(whether));
  } catch (error) {
    $("workshop-empty").textContent = text("workshop-missing");
    console.debug(error);
  }
}

// ---- Problems ----

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
  $("problem").scrollIntoView({ block: "nearest" }); // what it is about may be far below
}

/** One of writing; where the model is of no use any more, with a way to have it back. */
function showWritingProblem(problem) {
  const again = writer.lm?.closed ? { label: text("load-model-again"), run: loadAgain } : problem.again;
  showProblem({ ...problem, again });
}

function hideProblem() {
  $("problem").hidden = true;
}

// ---- The page itself ----

$("not-started").remove();
if (/Mac|iPhone|iPad/.test(navigator.platform)) {
  const kbds = document.querySelectorAll("#keys kbd, #about-editor kbd, #about-code kbd");
  for (const key of kbds) if (key.textContent === "Ctrl") key.textContent = "⌘";
}
if (matchMedia("(max-width: 60rem)").matches) {
  for (const panel of document.querySelectorAll(".panel")) panel.open = false;
}

for (const button of document.querySelectorAll(".example")) {
  button.addEventListener("click", () => {
    $("prompt").value = button.textContent;
    $("prompt").focus();
    context.count();
  });
}
openSettings();
const probabilities = new Probabilities(story, tools.view, writer, (pieces) => tools.goOnBehind(pieces));
openAttention(looking);
openNextToken(looking);
openLens(looking);
$("workshop").addEventListener("toggle", openWorkshop, { once: true });
openWhatLeft();
openHistory(story, { open, about });
openShare(story, { open, about, model: () => kept?.shared ?? null, problem: showProblem });
const link = takeLink();
openModels(listener, link.model);
if (link.problem) showProblem(link.problem);
addEventListener("hashchange", () => {
  hideProblem();
  const { model, problem } = takeLink();
  if (problem) showProblem(problem);
  else if (model) offerModel(model);
});
