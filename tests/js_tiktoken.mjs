// Tokenizes a JSON list of texts (stdin) with js-tiktoken's GPT-2, as an oracle for test_tokenizer.py.
import { text } from "node:stream/consumers"
import { Tiktoken } from "js-tiktoken/lite"
import gpt2 from "js-tiktoken/ranks/gpt2"

// JavaScript's \s has U+FEFF and lacks U+0085; OpenAI's is Unicode's White_Space.
const pattern = gpt2.pat_str.replaceAll("\\s", "\\p{White_Space}").replaceAll("\\S", "\\P{White_Space}")
const tiktoken = new Tiktoken({ ...gpt2, pat_str: pattern })

function codePoints(propertyPattern) {
  const found = []
  for (let code = 0; code <= 0x10ffff; code++) {
    const surrogate = code >= 0xd800 && code <= 0xdfff
    if (!surrogate && propertyPattern.test(String.fromCodePoint(code))) found.push(code)
  }
  return found
}

const texts = JSON.parse(await text(process.stdin))
process.stdout.write(JSON.stringify({
  unicode: process.versions.unicode,
  plain: texts.map((each) => tiktoken.encode(each, [], [])),
  special: texts.map((each) => tiktoken.encode(each, "all")),
  letters: codePoints(/\p{L}/u),
  numbers: codePoints(/\p{N}/u),
}))
