// progress.js: what the page says while a model loads: how far, how fast, how long still.

import { $, duration, losesFocus, say, size } from "./show.js";
import { text } from "./texts.js";

const RECENT = 5000; // ms over which the rate is taken

/** The progress of one load; `download` is what Pause holds up, `cancel` gives the load up. */
export class LoadProgress {
  #download;
  #recent = []; // [ms, bytes done] of the last seconds
  #spoken = ""; // the last thing the screen reader was told

  constructor(download, cancel) {
    this.#download = download;
    $("pause").onclick = () => this.#pauseOrResume();
    $("cancel-load").onclick = cancel;
    $("pause").textContent = text("pause");
    $("loading").hidden = false;
    $("loading-notice").textContent = "";
    this.show({ stage: "runtime", done: 0, total: 0 });
  }

  show({ stage, done, total, stored = 0, notice = null }) {
    const bar = $("loading-bar");
    if (total > 0) {
      bar.max = total;
      bar.value = done;
    } else {
      bar.removeAttribute("value"); // how far is not known
    }
    const far = { stage: text(`stage-${stage}`), done: size(done), total: size(total) };
    $("loading-label").textContent = total > 0 ? text("loading-far", far) : far.stage;
    const downloading = stage === "download" && done < total;
    if (!downloading && document.activeElement === $("pause")) $("cancel-load").focus();
    $("pause").hidden = !downloading;
    $("loading-pace").textContent = downloading ? this.#pace(done, total, stored) : "";
    if (notice && $("loading-notice").textContent !== notice) {
      $("loading-notice").textContent = notice; // in a live region of its own
    }
    this.#tell(stage, downloading ? Math.floor((4 * done) / total) * 25 : 0);
  }

  /** "3.1 MB/s, about 15 s left; 31.0 MB was here already" */
  #pace(done, total, stored) {
    const now = performance.now();
    this.#recent.push([now, done]);
    while (this.#recent.length > 2 && now - this.#recent[0][0] > RECENT) this.#recent.shift();
    const here = stored > 0 ? text("loading-stored", { bytes: size(stored) }) : "";
    if (this.#download.paused) return [text("paused"), here].filter(Boolean).join("; ");
    const [since, before] = this.#recent[0];
    const rate = now > since + 500 ? (1000 * (done - before)) / (now - since) : 0; // bytes a second
    if (rate <= 0) return here;
    const pace = text("loading-pace", { rate: size(rate), left: duration((total - done) / rate) });
    return [pace, here].filter(Boolean).join("; ");
  }

  #pauseOrResume() {
    const download = this.#download;
    if (download.paused) download.resume();
    else download.pause();
    $("pause").textContent = text(download.paused ? "resume" : "pause");
    $("loading-pace").textContent = download.paused ? text("paused") : "";
    this.#recent = []; // the time in between is no part of the rate
    say(text(download.paused ? "download-paused" : "download-resumed"));
  }

  /** The screen reader hears of each stage once, and of each quarter of a download. */
  #tell(stage, percent) {
    const words = percent > 0 ? text("downloaded", { percent }) : `${text(`stage-${stage}`)}.`;
    if (words === this.#spoken) return;
    this.#spoken = words;
    say(words);
  }

  /** The load has ended, and what was heard of it is shown. */
  end() {
    $("loading").hidden = true;
    if (!losesFocus(document.activeElement)) return; // it was on one of its buttons
    const next = ["way-out", "generate", "problem-text"].map($);
    next.find((element) => !losesFocus(element)).focus({ preventScroll: true });
  }
}
