// narrator.js: what the screen reader hears of a text while the model writes it.
//
// The text on the page is no live region: with one, every token would be an announcement, most of them half a word, and
// some screen readers would begin the text anew each time. Instead it hears that the writing began, then whole
// sentences, each of them once, and at the end what is left with how it ended. The next ones go out when it has had
// the time to speak the last, so that nothing piles up behind a model that writes faster than anyone speaks.

const PACE = 60; // milliseconds to speak a character: some 170 words a minute
const ENDS = /^[^]*(?:[.!?…؟۔।]["”’'»)\]]*\s|[。！？]["”’」』]*|\n)/; // all sentences that have ended

export class Narrator {
  #say;
  #now;
  #waiting = ""; // what was written since it last heard of it
  #until = 0; // when it has spoken that, in milliseconds

  /** say(words): tells it; now(): the time. */
  constructor(say, now = () => performance.now()) {
    this.#say = say;
    this.#now = now;
  }

  begins(words) {
    this.#waiting = "";
    this.#tell(words);
  }

  wrote(text) {
    this.#waiting += text;
    if (this.#now() < this.#until) return;
    const [sentences] = ENDS.exec(this.#waiting) ?? [""];
    if (sentences.trim() === "") return;
    this.#waiting = this.#waiting.slice(sentences.length);
    this.#tell(sentences.trim());
  }

  /** words: how it ended. */
  ends(words) {
    const rest = this.#waiting.trim();
    this.#waiting = "";
    const brokenOff = /[\p{L}\p{N},;:]$/u.test(rest);
    this.#tell(`${rest}${brokenOff ? "…" : ""} ${words}`.trim());
  }

  #tell(words) {
    this.#until = this.#now() + PACE * words.length;
    this.#say(words);
  }
}
