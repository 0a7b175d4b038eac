// How other pages' TypeScript uses gpt2web.js; test_types.py compiles it.

import type {} from "../../web/gpt2-writer.js";
import { Completions, type CompletionChunk, type ParameterError } from "../../web/completions.js";
import { Download, type Gpt2webError, keepOffline, load, type Model, models, type Piece, removeModel } from "../../web/gpt2web.js";

export async function write(into: HTMLElement, files: FileList): Promise<number> {
  const stop = new AbortController();
  const download = new Download();
  download.addEventListener("change", () => console.log(download.paused));
  const lm: Model = await load("stories", {
    onProgress: ({ stage, done, total, notice }) => console.log(stage === "download", done / total, notice ?? ""),
    onRequests: (requests) => requests.forEach(({ address, bytes }) => console.log(address, bytes)),
    signal: stop.signal,
    precision: "int8",
    download,
  });
  const own = await load("my model", { files, edits: { "gpt2web/turn.py": (await lm.sources())["gpt2web/turn.py"] ?? "" } });
  console.log(own.info.edited.join());
  own.close();
  const generation = lm.generate("Once upon a time", { maxNewTokens: 60, topK: 40, seed: 7, stop: ["."] });
  for await (const piece of generation) into.append(piece.text);
  const seed: number | null = generation.seed;
  for await (const { row, finishReason } of lm.generate(["A", [1, 2]], { signal: stop.signal })) {
    console.log(row, finishReason === "cancelled");
  }
  const ids: number[] = await lm.tokenize("A fox", { asPrompt: true, signal: stop.signal });
  const text: string = await lm.detokenize(ids);
  const texts: string[] = await lm.detokenize([ids, [1]]);
  const bytes: Uint8Array[] = await lm.tokenBytes(ids);
  const scored = await lm.score("A fox", { top: 3 });
  const [token] = await lm.score(Uint32Array.from(ids), { signal: stop.signal });
  console.log(scored[0]?.top?.[0]?.[1], token?.logprob);
  const inspection = await lm.inspect(Uint32Array.from(ids), { position: -2, top: 5 });
  const [layers, heads, tokens] = inspection.shape;
  const looked: number | undefined = inspection.attention[(layers - 1) * heads * tokens];
  const { candidates, kept } = await inspection.nextTokens({ temperature: 0.7, topK: 40, signal: stop.signal });
  console.log(looked, inspection.lens.at(-1)?.[0]?.text, candidates[0]?.afterCuts, kept);
  inspection.close();
  for (const { name, shape, gpuBytes } of await lm.parameters()) console.log(name, shape.join(" x "), gpuBytes);
  lm.addEventListener("change", () => console.log(lm.recovering ?? lm.info.notice, lm.closed?.code));
  console.log(lm.info.adapter.length, seed, text, texts, bytes);
  lm.close();
  return (await models({ signal: stop.signal })).reduce((sum, { bytes, stored }) => sum + bytes - stored, 0);
}

export function probable({ ids, logprobs, top }: Piece): [number, number][] {
  return ids.map((id, n) => [id, Math.exp(logprobs?.[n] ?? top?.[n]?.[0]?.[1] ?? -Infinity)]);
}

export async function remove(name: string): Promise<boolean> {
  try {
    await removeModel(name, { signal: AbortSignal.timeout(1000) });
    return keepOffline();
  } catch (error) {
    if ((error as Gpt2webError).code === "busy") return false;
    console.log((error as Gpt2webError).place?.line);
    throw error;
  }
}

export async function complete(lm: Model): Promise<string> {
  const client = { completions: new Completions(lm) };
  try {
    const stream = await client.completions.create({ prompt: "A", stream: true, stream_options: { include_usage: true } });
    let last: CompletionChunk | undefined;
    for await (const chunk of stream) last = chunk;
    console.log(last?.usage?.total_tokens);
    const { choices } = await client.completions.create({ prompt: ["A", "B"], max_tokens: 9, n: 2, logprobs: 3, seed: 1 });
    console.log(choices[0]?.logprobs?.top_logprobs[0]?.[" fox"]);
    return choices.map(({ text, finish_reason }) => `${text} (${finish_reason})`).join("\n");
  } catch (error) {
    return (error as ParameterError).param;
  }
}

export function follow(document: Document): void {
  const writer = document.createElement("gpt2-writer");
  writer.setAttribute("top-k", "40");
  writer.addEventListener("finish", ({ detail }) => console.log(detail.text.length, detail.seed, writer.value));
  writer.addEventListener("error", ({ detail }) => console.log(detail.code));
  writer.addEventListener("progress", ({ detail: { done, total } }) => console.log(done / total));
  document.body.append(writer);
  void writer.write().then((text: string | null) => console.log(text, writer.lm?.info.model));
}
