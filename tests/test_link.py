"""gpt2web.js and link.js with workers that do what the test says, under Node: what is asked of the
next worker when one dies, and what whoever waits is told."""

from __future__ import annotations

from typing import Any

from in_node import in_node

ENDED = "Python stopped running; starting it again."

START = """
  const workers = [];
  globalThis.Worker = class {
    asked = []; // messages
    over = false;
    constructor() { workers.push(this); }
    addEventListener() {}
    postMessage(message) { this.asked.push(structuredClone(message)); }
    terminate() { this.over = true; }
    says(message) { this.onmessage({ data: message }); }
    answers(value) { this.says({ type: "result", id: this.asked.at(-1).id, value }); }
    writes(...pieces) {
      const { id } = this.asked.find(({ type }) => type === "generate");
      this.says({ type: "pieces", id, pieces, timing: { tokens: 2, firstToken: 1, seconds: 3 } });
    }
    ends() { this.free(); } // whoever asked for its lock gets it
    begins() {
      this.says({ type: "alive" });
      this.says({ type: "ready" });
    }
  };
  const locks = { request: (name, call) => { workers.at(-1).free = call; } };
  Object.defineProperty(globalThis, "navigator", { value: { locks } });
  globalThis.location = { origin: "null" }; // that of a file
  const piece = (row, text, ids, finishReason = null) =>
    ({ text, ids, logprobs: null, top: null, row, finishReason });
  const briefly = ({ name, code, row, text, finishReason }) =>
    name ? [name, code] : [row, text, finishReason];
  const soon = () => new Promise(setImmediate);
  const { load } = await web("gpt2web.js");
  const told = [];
  const onProgress = ({ stage, notice }) => notice && told.push([stage, notice]);
  const loaded = async () => {
    const loading = load("fox", { precision: "int8", onProgress });
    workers[0].begins();
    workers[0].answers({ model: "fox", started: "snapshot" });
    const lm = await loading;
    lm.addEventListener("change", () => told.push(lm.recovering));
    return lm;
  };
"""


def linked(program: str) -> Any:
    return in_node(START + program)


def test_what_a_dead_worker_had_begun_goes_on_in_the_next_behind_what_has_come() -> None:
    asked, pieces, timing, told, info = linked("""
      const lm = await loaded();
      const generation = lm.generate(["A", [1], "C"], { topK: 4, logprobs: 1 });
      const tokens = lm.tokenize("x");
      const [first] = workers;
      first.says({ type: "started", id: first.asked.at(-2).id, seed: 5 });
      first.writes(piece(0, "é𝄞", [7, 8]), piece(1, "one", [9]), piece(0, "!", [6]));
      first.writes(piece(1, "", [], "stop"));
      first.ends();
      const second = workers[1];
      first.writes(piece(0, "late", [1]));
      second.begins();
      second.answers({ model: "fox", precision: "int4" });
      const asked = [first.over, first.asked, second.asked];
      second.writes(piece(2, "C", [3], "length"), piece(0, "?", [4], "length"));
      second.says({ type: "result", id: second.asked.at(-1).id, value: [1, 2] });
      const pieces = [await tokens];
      for await (const piece of generation) pieces.push(briefly(piece));
      return [asked, pieces, generation.timing, told, lm.info];
    """)
    over, first, second = asked
    assert over
    options = {"top_k": 4, "logprobs": 1}
    model = {"type": "load", "model": "fox", "precision": "int8"}
    generate = {"type": "generate", "prompt": ["A", [1], "C"], "options": options, "id": 2}
    tokenize = {
        "type": "tokenize",
        "text": "x",
        "options": {"as_prompt": False, "parse_special": False},
        "id": 3,
    }
    assert first == [{**model, "id": 1}, generate, tokenize]
    resume = [
        {"ids": [7, 8, 6], "characters": 3, "finished": False},
        {"ids": [9], "characters": 3, "finished": True},
        {"ids": [], "characters": 0, "finished": False},
    ]
    again = {**generate, "options": {**options, "seed": 5}, "resume": resume}
    assert second == [{**model, "id": 4}, again, tokenize]
    assert pieces == [
        [1, 2],
        [0, "é𝄞", None],
        [1, "one", None],
        [0, "!", None],
        [1, "", "stop"],
        [2, "C", "length"],
        [0, "?", "length"],
    ]
    assert timing == {"tokens": 4, "firstToken": 1, "seconds": 6}
    assert told == [ENDED, None]
    assert info["precision"] == "int4"


def test_one_that_dies_while_it_loads_the_model_again_leaves_each_thing_asked_once() -> None:
    asked, answer = linked("""
      const lm = await loaded();
      const tokens = lm.tokenize("x");
      workers[0].ends();
      workers[1].begins();
      workers[1].says({ type: "died", message: "no memory" });
      workers[2].begins();
      workers[2].answers({ model: "fox" });
      const asked = workers.map(({ asked }) => asked.map(({ type }) => type));
      workers[2].answers([1]);
      return [asked, await tokens];
    """)
    assert asked == [["load", "tokenize"], ["load"], ["load", "tokenize"]]
    assert answer == [1]


def test_one_that_dies_with_nothing_to_do_is_replaced_when_something_is_asked() -> None:
    """However often: only those in a row without an answer are counted."""
    counts, told = linked("""
      const lm = await loaded();
      const counts = [];
      for (let n = 0; n < 5; n++) {
        workers.at(-1).ends();
        counts.push([workers.length, lm.recovering, lm.closed]);
        const tokens = lm.tokenize("x");
        workers.at(-1).begins();
        workers.at(-1).answers({ model: "fox" });
        workers.at(-1).answers([n]);
        counts.push(await tokens);
      }
      return [counts, told];
    """)
    assert counts == [step for n in range(5) for step in ([n + 1, None, None], [n])]
    assert told == [ENDED, None] * 5


def test_what_is_stopped_while_something_is_started_again_ends_at_once() -> None:
    """Else its last pieces come from the worker."""
    waiting, rows, told, asked = linked("""
      const lm = await loaded();
      const stopped = new AbortController();
      const rows = [];
      const read = async (generation) => {
        for await (const piece of generation) rows.push(briefly(piece));
      };
      let reading = read(lm.generate("A", { signal: stopped.signal }));
      stopped.abort();
      await soon();
      const waiting = [workers[0].asked.at(-1).type, rows.length];
      workers[0].writes(piece(0, "", [], "cancelled"));
      await reading;

      const lost = new AbortController();
      reading = read(lm.generate(["A", "B"], { signal: lost.signal }));
      const { id } = workers[0].asked.at(-1);
      workers[0].says({ type: "pieces", id, pieces: [piece(1, "B", [1], "stop")], timing: {} });
      workers[0].says({ type: "recovering", message: "THE CARD WAS LOST", info: null });
      lost.abort();
      await reading;
      workers[0].says({ type: "recovering", message: null, info: { model: "fox" } });

      const dead = new AbortController();
      reading = read(lm.generate("A", { signal: dead.signal }));
      workers[0].ends();
      dead.abort();
      await reading;
      workers[1].begins();
      workers[1].answers({ model: "fox" });
      return [waiting, rows, told, workers[1].asked.map(({ type }) => type)];
    """)
    assert waiting == ["cancel", 0]
    cancelled = [0, "", "cancelled"]
    assert rows == [cancelled, [1, "B", "stop"], cancelled, cancelled]
    assert told == ["THE CARD WAS LOST", None, ENDED, None]
    assert asked == ["load"]


def test_a_model_that_is_closed_while_something_is_started_again_is_closed() -> None:
    found = linked("""
      const lm = await loaded();
      const tokens = lm.tokenize("x").catch(briefly);
      workers[0].ends();
      lm.close();
      const found = [await tokens, briefly(lm.closed), lm.recovering, workers.at(-1).over];
      workers[1].begins();
      return [...found, workers.length, briefly(await lm.tokenize("y").catch((error) => error))];
    """)
    closed = ["ClosedError", "closed"]
    assert found == [closed, closed, None, True, 2, closed]


def test_workers_that_die_three_times_in_a_row_are_lost_for_good() -> None:
    found, message, told = linked("""
      const lm = await loaded();
      const tokens = lm.tokenize("x").catch((error) => error);
      workers[0].ends();
      workers[1].begins();
      workers[1].answers({ model: "fox" });
      workers[1].onerror({ preventDefault() {}, message: "a fault" });
      workers[2].says({ type: "died", message: "no memory" });
      const { message } = await tokens;
      const found = [briefly(await tokens), briefly(lm.closed), workers.length];
      return [found, message, told];
    """)
    lost = ["WorkerError", "runtime-lost"]
    assert found == [lost, lost, 3]
    assert message.startswith("Python stopped 3 times in a row (no memory). What was written is k")
    assert told == [ENDED, None, ENDED, None]


def test_one_that_cannot_be_started_says_whether_there_was_one_before() -> None:
    first, again, message = linked("""
      const loading = load("fox").catch(briefly);
      workers[0].says({ type: "broken", message: "no file" });
      const first = await loading;
      workers.length = 0;
      const lm = await loaded();
      const tokens = lm.tokenize("x").catch((error) => error);
      workers[0].ends();
      workers[1].onerror({ preventDefault() {} });
      return [first, briefly(await tokens), (await tokens).message];
    """)
    assert first == ["LoadError", "runtime-damaged"]
    assert again == ["WorkerError", "runtime-lost"]
    assert "stopped running and could not be started again (it could not be started)" in message


def test_a_model_that_cannot_be_loaded_again_is_closed_by_that_error() -> None:
    found = linked("""
      const lm = await loaded();
      const tokens = lm.tokenize("x").catch(briefly);
      workers[0].ends();
      workers[1].begins();
      const error = { name: "CheckpointError", code: "download-broken", message: "gone" };
      workers[1].says({ type: "error", id: workers[1].asked[0].id, error });
      return [await tokens, briefly(lm.closed), workers[1].over];
    """)
    assert found == [["CheckpointError", "download-broken"]] * 2 + [True]


def test_a_first_load_with_edits_ends_with_its_worker_and_a_later_death_does_not() -> None:
    found, message, told, again = linked("""
      const edits = { "gpt2web/turn.py": "raise SystemExit" };
      const loading = load("fox", { edits, onProgress }).catch((error) => error);
      workers[0].begins();
      workers[0].says({ type: "died", message: "SystemExit" });
      const error = await loading;
      const found = [briefly(error), workers.length, workers[0].over];
      workers.length = 0;
      const another = load("fox", { edits });
      workers[0].begins();
      workers[0].answers({ model: "fox", started: "anew" });
      const lm = await another;
      const tokens = lm.tokenize("x");
      workers[0].ends();
      workers[1].begins();
      workers[1].answers({ model: "fox" });
      workers[1].answers([1]);
      return [found, error.message, told, [workers[1].asked[0].edits, await tokens]];
    """)
    assert found == [["EditError", "edit-failed"], 1, True]
    assert "Python ended by itself while it was loaded (SystemExit)" in message
    assert message.endswith("load the model without edits, which brings the original back.")
    assert told == []
    assert again == [{"gpt2web/turn.py": "raise SystemExit"}, [1]]


def test_a_first_load_is_begun_again_when_its_worker_dies() -> None:
    told, asked, recovering = linked("""
      const loading = load("fox", { onProgress });
      workers[0].begins();
      workers[0].says({ type: "died", message: "no memory" });
      workers[1].begins();
      workers[1].answers({ model: "fox", started: "snapshot" });
      const lm = await loading;
      return [told, workers[1].asked.map(({ type }) => type), lm.recovering];
    """)
    assert told == [["runtime", ENDED]]
    assert asked == ["load"] and recovering is None
