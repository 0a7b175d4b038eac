// Writes data/forms/tfjs, with TensorFlow.js's own writer: record_tensorflow.py says how.
// The names begin with a model's name, as those of a model inside a model do.

import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const require = createRequire(join(process.cwd(), "package.json"));  // of where npm installed it
const tf = require("@tensorflow/tfjs");
const forms = join(dirname(fileURLToPath(import.meta.url)), "data/forms");
const { topology, tensors } = JSON.parse(readFileSync(process.argv[2], "utf-8"));
const named = Object.fromEntries(
  Object.entries(tensors).map(([name, { shape, values }]) => [
    `gpt2_causal_lm/gpt2_backbone/${name}`,
    tf.tensor(values, shape, "float32"),
  ]),
);
const { data, specs } = await tf.io.encodeWeights(named);
const folder = join(forms, "tfjs");
mkdirSync(folder, { recursive: true });
writeFileSync(join(folder, "model.weights.bin"), Buffer.from(data));
const model = {  // as browserDownloads writes it
  modelTopology: topology,
  format: "layers-model",
  generatedBy: `TensorFlow.js tfjs-layers v${tf.version["tfjs-layers"]}`,
  convertedBy: null,
  weightsManifest: [{ paths: ["./model.weights.bin"], weights: specs }],
};
writeFileSync(join(folder, "model.json"), JSON.stringify(model));
copyFileSync(join(forms, "transformers/merges.txt"), join(folder, "merges.txt"));
