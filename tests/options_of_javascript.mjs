// The options that web/*.js accept, as their own messages list them: printed as JSON, by what takes them.

class Answering {
  constructor() {
    setTimeout(() => this.onmessage({ data: { type: "ready" } }));
  }

  postMessage({ id }) {
    setTimeout(() => this.onmessage({ data: { type: "result", id, value: { model: "any" } } }));
  }

  addEventListener() {}

  terminate() {}
}
globalThis.Worker = Answering;
globalThis.location = new URL(import.meta.url);

const web = new URL("../web/", import.meta.url);
const gpt2web = await import(new URL("gpt2web.js", web));
const { Completions } = await import(new URL("completions.js", web));
const lm = await gpt2web.load("any");
const calls = {
  LoadOptions: () => gpt2web.load("any", { wrong: 1 }),
  GenerateOptions: () => lm.generate("a", { wrong: 1 }),
  TokenizeOptions: () => lm.tokenize("a", { wrong: 1 }),
  ScoreOptions: () => lm.score([1], { wrong: 1 }),
  InspectOptions: () => lm.inspect([1], { wrong: 1 }),
  NextTokensSettings: async () => (await lm.inspect([1])).nextTokens({ wrong: 1 }),
  SignalOption: () => gpt2web.models({ wrong: 1 }),
  CompletionParametersStreaming: () => new Completions(lm).create({ wrong: 1 }),
};
const found = {};
for (const [type, call] of Object.entries(calls)) {
  const error = await (async () => call())().catch((error) => error);
  found[type] = /(?:options are|own are) (.*)\.$/.exec(error.message)[1].split(", ");
}
console.log(JSON.stringify(found));
