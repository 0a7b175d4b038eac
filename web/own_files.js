// own_files.js: the reader's own files: which were dropped or picked, and which of them make a model.
// A file's bytes are never read here: the worker reads slices of it.

import { failure } from "./errors.js";

const WANTED = "config.json, merges.txt (or tokenizer.json) and the weights as .safetensors";
const INDEX = "model.safetensors.index.json";
const MOST_FILES = 1000;
// What else models are kept in: none is read here, all can be converted.
const OTHER_FORMS = /\.(bin|pt|pth|ckpt|h5|gguf|ggml|onnx|msgpack|npz|ot|tflite)$/i;

const paths = new WeakMap(); // File -> its path in what was dropped, which a File itself does not hold

/** The files of a drop, those in its folders too: Promise<File[]>. Call it before the drop event ends. */
export async function filesOf(transfer) {
  const items = [...transfer.items].filter(({ kind }) => kind === "file");
  const dropped = items.map((item) => item.webkitGetAsEntry?.() ?? item.getAsFile()).filter(Boolean);
  const found = [];
  for (const one of dropped) {
    if (one instanceof File) found.push(one);
    else await walk(one, found).catch((error) => unreadable(one, error));
  }
  return found;
}

/** Throws why a file or folder could not be looked into; what the browser says of it is short. */
function unreadable({ name }, error) {
  if (typeof error.code === "string") throw error; // ours
  const way = "Look whether it is still there and may be read, or choose the files instead.";
  throw refusal(`${name} can’t be read (${error.message}). ${way}`);
}

async function walk(entry, found) {
  if (found.length === MOST_FILES) {
    throw refusal(`There are more than ${MOST_FILES} files in it: drop the model’s own folder alone.`);
  }
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    paths.set(file, entry.fullPath.slice(1));
    found.push(file);
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject)); // 100 at most
    if (some.length === 0) return;
    for (const one of some) await walk(one, found);
  }
}

/**
 * The model among some files: {name, files: [{name, file}], bytes}, each file under the name that a
 * model folder has for it. It is in the one folder that holds weights.
 *
 * @throws {Error} with name CheckpointError: one sentence that says what is missing
 */
export function wholeModel(files) {
  const folders = new Map(); // folder -> Map of name -> File
  for (const file of files) {
    const [folder, name] = split(paths.get(file) || file.webkitRelativePath || file.name);
    if (/(^|\/)\./.test(`${folder}/${name}`.replace(/^\//, ""))) continue; // hidden: .git, .DS_Store
    if (!folders.has(folder)) folders.set(folder, new Map());
    folders.get(folder).set(name, file);
  }
  const models = [...folders].filter(([, inside]) => [...inside.keys()].some(isWeights));
  if (models.length === 0) throw noWeights([...folders.values()].flatMap((inside) => [...inside.keys()]));
  if (models.length > 1) {
    const where = list(models.map(([folder]) => folder || "no folder"));
    throw refusal(`There is more than one model here, in ${where}: drop or choose one of them.`);
  }
  const [[folder, inside]] = models;
  const named = inside.has("manifest.json") ? inside : underTheirNames(inside);
  const weights = [...inside.keys()].find((name) => name.endsWith(".safetensors") && name !== "model.safetensors");
  const bare = inside.has(INDEX) ? "" : (weights ?? "").replace(".safetensors", "");
  return {
    name: split(folder)[1] || bare || "your model",
    files: [...named].map(([name, file]) => ({ name, file })),
    bytes: [...named.values()].reduce((sum, file) => sum + file.size, 0),
  };
}

/** A Hugging Face folder's files, its one safetensors file as model.safetensors whatever it is called. */
function underTheirNames(inside) {
  const names = [...inside.keys()];
  const missing = [];
  if (!inside.has("config.json")) missing.push("config.json");
  if (!inside.has("merges.txt") && !inside.has("tokenizer.json")) missing.push("merges.txt (or tokenizer.json)");
  if (missing.length > 0) {
    throw refusal(
      `${list(missing)} ${missing.length > 1 ? "are" : "is"} missing: wanted ${WANTED}, got ${some(names)}. ` +
        "Drop or choose all of them together, as they were saved with this model: another model’s do not fit.",
    );
  }
  const weights = names.filter((name) => name.endsWith(".safetensors"));
  if (inside.has("model.safetensors") || inside.has(INDEX)) return inside;
  if (weights.length > 1) {
    throw refusal(
      `There are several files of weights, ${some(weights)}: add ${INDEX}, which says what is where in the parts ` +
        "of one model, or leave only one file.",
    );
  }
  const named = new Map(inside);
  named.delete(weights[0]);
  return named.set("model.safetensors", inside.get(weights[0]));
}

function isWeights(name) {
  return name.endsWith(".safetensors") || name === INDEX || name === "manifest.json";
}

function noWeights(names) {
  const other = names.find((name) => OTHER_FORMS.test(name));
  const way = other
    ? `${other} holds weights in another form: save them as safetensors, as save_pretrained of Transformers does.`
    : "Drop or choose them together.";
  const got = names.length > 0 ? some(names) : "no file";
  const message = `There are no weights among these files: wanted ${WANTED}, got ${got}. ${way}`;
  return refusal(message, other && "checkpoint-unsupported");
}

function split(path) {
  const cut = path.lastIndexOf("/");
  return [path.slice(0, Math.max(cut, 0)), path.slice(cut + 1)];
}

/** The first few of many names. */
function some(names) {
  return names.length > 6 ? `${names.slice(0, 5).join(", ")} and ${names.length - 5} more` : list(names);
}

function list(names) {
  return names.length < 2 ? names.join() : `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`;
}

function refusal(message, code = "checkpoint-missing") {
  return failure("CheckpointError", message, code);
}
