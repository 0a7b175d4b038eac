"""saved.js: a link and a file of a text, there and back, and what is refused; under Node."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import pytest

from in_node import in_node

START = """
  const { Unusable, fileOf, fragmentOf, stateIn, storyIn } = await web("saved.js");
  const fields = ["temperature", "seed", "stop"];
  const attempt = (call) => {
    try { return call(); }
    catch (error) {
      if (!(error instanceof Unusable)) throw error;
      return { refused: error.reason, ...error.values };
    }
  };
"""
STATE = {"temperature": "0.8", "seed": "7", "stop": "a & b=c\n#+ 100% é🦊\\n"}


def test_a_link_holds_all_that_it_was_made_of() -> None:
    program = """
      const bare = { model: "stories", settings, text: null };
      const states = [bare, { model: null, settings: {}, text }];
      const fragments = states.map(fragmentOf);
      return [fragments, states, fragments.map((fragment) => stateIn(fragment, fields))];
    """
    text = 'Once <b>upon</b> a "time", שלום 🦊\n&end=1#'
    fragments, states, found = in_node(START + program, settings=STATE, text=text)
    assert found == states
    assert "text" not in fragments[0] and "model" not in fragments[1]
    assert all(fragment.isascii() and "#" not in fragment for fragment in fragments)


@pytest.mark.parametrize(
    ("fragment", "refusal"),
    [
        ("gpt2web=1&seed=7&end=1", None),
        ("", None),
        ("top", {"refused": "link-other"}),
        ("gpt2web=2&seed=7&end=1", {"refused": "link-version"}),
        ("gpt2web=1&text=Once+upo", {"refused": "link-cut"}),
        ("gpt2web=1&text=Once%20upo%", {"refused": "link-cut"}),
        ("gpt2web=1&sede=7&end=1", {"refused": "link-unknown", "name": "sede"}),
        ("gpt2web=1&seed=7&seed=8&end=1", {"refused": "link-twice", "name": "seed"}),
        ("gpt2web=1&text=" + "a" * 200_001 + "&end=1", {"refused": "link-long"}),
    ],
)
def test_a_fragment_that_is_no_whole_link_is_refused(fragment: str, refusal: Any) -> None:
    found = in_node(START + "return attempt(() => stateIn(fragment, fields));", fragment=fragment)
    assert found == refusal if refusal else "refused" not in (found or {})


STEP = {
    "seed": 5,
    "tokens": 2,
    "firstToken": 0.1,
    "seconds": 0.2,
    "finish": "length",
    "stops": False,
}
TURN = {
    **{"prompt": [9, 1], "seed": 5, "options": {"topK": 40, "seed": 5}, "ids": [2, 3]},
    **{
        "finish": "length",
        "model": "stories",
        "precision": "f16",
        "adapter": "some card",
        "step": 0,
    },
}
FILE: dict[str, Any] = {
    **{"format": "gpt2web-story", "version": 1, "when": "2026-11-21T04:00:00.000Z", "page": "ab"},
    "settings": {"temperature": "0.8"},
    "model": {"model": "stories", "title": "Stories", "files": []},
    "text": "Once upon",
    "pieces": [
        {
            "text": "On",
            "by": "reader",
            "ids": None,
            "model": None,
            "logprobs": None,
            "top": None,
            "turn": None,
        },
        {
            "text": "ce",
            "by": "model",
            "ids": [2],
            "model": "stories",
            "logprobs": None,
            "top": None,
            "turn": 0,
        },
        {
            "text": " upon",
            "by": "model",
            "ids": [3],
            "model": "stories",
            "logprobs": None,
            "top": None,
            "turn": 0,
        },
    ],
    "turns": [TURN],
    "steps": [STEP],
}


def test_a_file_is_read_as_it_was_written() -> None:
    program = """
      const { pieces, settings, model, when } = storyIn(JSON.stringify(file));
      const shared = pieces[1].turn === pieces[2].turn && pieces[1].turn.step.tokens === 2;
      return [fileOf(pieces, { when, page: "ab", settings, model }), shared];
    """
    again, shared = in_node(START + program, file=FILE)
    assert again == FILE
    assert shared


CHANGES: list[tuple[list[Any], Any, dict[str, Any]]] = [
    (["format"], "other", {"refused": "file-other"}),
    (["version"], 2, {"refused": "file-version", "version": "2"}),
    (["text"], "Once Upon", {"refused": "file-damaged", "part": "text"}),
    (["pieces", 1, "turn"], 1, {"refused": "file-damaged", "part": "pieces"}),
    (["pieces", 1, "ids"], [2.5], {"refused": "file-damaged", "part": "pieces"}),
    (["pieces", 1, "model"], None, {"refused": "file-damaged", "part": "pieces"}),
    (["pieces", 1, "by"], "nobody", {"refused": "file-damaged", "part": "pieces"}),
    (["pieces", 1, "logprobs"], [-1, -2], {"refused": "file-damaged", "part": "pieces"}),
    (["pieces", 1], None, {"refused": "file-damaged", "part": "pieces"}),
    (["turns", 0], None, {"refused": "file-damaged", "part": "turns"}),
    (["pieces"], {}, {"refused": "file-damaged", "part": "pieces"}),
    (["turns", 0, "seed"], -1, {"refused": "file-damaged", "part": "turns"}),
    (["turns", 0, "edited"], [7], {"refused": "file-damaged", "part": "turns"}),
    (["turns", 0, "prompt"], [], {"refused": "file-damaged", "part": "turns"}),
    (["turns", 0, "step"], 1, {"refused": "file-damaged", "part": "turns"}),
    (["steps", 0], [], {"refused": "file-damaged", "part": "steps"}),
    (["settings"], {"seed": 7}, {"refused": "file-damaged", "part": "settings"}),
    (["model"], {}, {"refused": "file-damaged", "part": "model"}),
]


def test_a_file_with_anything_wrong_in_it_is_refused_by_the_part() -> None:
    files = []
    for path, value, _ in CHANGES:
        file = deepcopy(FILE)
        place: Any = file
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        files.append(json.dumps(file))
    files += ["{", "null", json.dumps(FILE)]
    found = in_node(
        START + "return files.map((file) => attempt(() => storyIn(file)));", files=files
    )
    *refused, broken, null, whole = found
    assert refused == [refusal for _, _, refusal in CHANGES]
    assert (broken, null) == ({"refused": "file-not-json"}, {"refused": "file-other"})
    assert whole["settings"] == FILE["settings"]
