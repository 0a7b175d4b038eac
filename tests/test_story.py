"""story.js: pieces, edits, and the steps to undo, under Node."""

from __future__ import annotations

import random
from typing import Any

import pytest

from in_node import in_node

START = """
  const { Story, before, chosen, edited, lastTurn, promptOf, textOf, typed } =
    await web("story.js");
  const written = (text, id, turn = null) =>
    ({ text, by: "model", ids: [id], model: "one", logprobs: null, top: null, turn });
  const briefly = (pieces) => pieces.map(({ text, by, ids }) => `${by[0]}${ids ?? ""}:${text}`);
  const fox = [...typed("A fox"), written(" ran", 1), written(" home", 2), written(".", 3)];
"""


def pieces_of(program: str, **values: Any) -> Any:
    return in_node(START + program, **values)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("A fox ran home.", ["r:A fox", "m1: ran", "m2: home", "m3:."]),
        ("The fox ran home.", ["r:The", "r: fox", "m1: ran", "m2: home", "m3:."]),
        ("A fox ran back home.", ["r:A fox", "m1: ran", "r: back", "m2: home", "m3:."]),
        ("A fox run home.", ["r:A fox", "m: r", "r:u", "m:n", "m2: home", "m3:."]),
        ("A fox ran home!", ["r:A fox", "m1: ran", "m2: home", "r:!"]),
        ("A fox ran home. It", ["r:A fox", "m1: ran", "m2: home", "m3:.", "r: It"]),
        # what stands behind has lost its token too: the full stop belongs to another word
        ("A fox ran homewards.", ["r:A fox", "m1: ran", "m2: home", "r:wards", "m:."]),
        ("", []),
    ],
)
def test_an_edit_leaves_all_else_as_it_was(text: str, pieces: list[str]) -> None:
    found = pieces_of("return briefly(edited(fox, text));", text=text)
    assert found == pieces


def test_edits_of_every_kind_give_the_text_and_keep_only_ids_of_whole_tokens() -> None:
    drawn = random.Random(5)
    texts = ["".join(drawn.choices("ab \n🦊é", k=drawn.randrange(12))) for _ in range(300)]
    wrong = pieces_of(
        r"""
        const whole = /^(?:[^\ud800-\udfff]|[\ud800-\udbff][\udc00-\udfff])*$/;
        let pieces = fox;
        const wrong = [];
        for (const text of texts) {
          pieces = edited(pieces, text);
          const halves = pieces.filter((piece) => piece.text === "" || !whole.test(piece.text));
          const moved = pieces.filter((piece) => piece.ids && !fox.includes(piece));
          if (textOf(pieces) !== text || halves.length || moved.length) wrong.push(text);
          pieces = edited([...pieces, ...fox.slice(1)], textOf(pieces) + " home.");
        }
        return wrong;
        """,
        texts=texts,
    )
    assert wrong == []


def test_a_prompt_has_the_ids_of_what_follows_the_last_text_without_them() -> None:
    prompts = pieces_of("""
      const away = chosen(fox, 2, { text: " away", ids: [9], model: "one" });
      const both = [edited(fox, "A fox ran back home."), away];
      const texts = [[], fox, ...both, before(fox, 7), typed("A fox")];
      return [...texts.map((pieces) => promptOf(pieces, "one")), promptOf(fox, "another")];
    """)
    assert prompts == [
        {"text": "", "ids": []},
        {"text": "A fox", "ids": [1, 2, 3]},
        {"text": "A fox ran back", "ids": [2, 3]},
        {"text": "A fox", "ids": [1, 9]},
        {"text": "A fox r", "ids": []},
        {"text": "A fox", "ids": []},
        {"text": "A fox ran home.", "ids": []},  # another model has other ids
    ]


def test_the_last_turn_is_all_that_one_step_wrote_and_none_where_the_reader_wrote_last() -> None:
    ends = pieces_of("""
      const [one, two, slid] = [{ step: 1 }, { step: 2, seed: 5 }, { step: 2, seed: 6 }];
      const wrote = [written("a", 1, one), written("b", 2, two), written("c", 3, slid)];
      const turns = [...typed("A"), ...wrote];
      const { pieces, turn } = lastTurn(turns);
      return [briefly(pieces), turn.seed, lastTurn(edited(turns, "Aabc!")), lastTurn([])];
    """)
    assert ends == [["r:A", "m1:a"], 5, None, None]


def test_what_the_model_writes_in_one_go_is_one_step_to_undo() -> None:
    texts = pieces_of("""
      const story = new Story();
      const seen = [];
      const look = () => seen.push([story.text, story.canUndo, story.canRedo]);
      const go = story.write(typed("A fox"), {});
      go.add(written(" ran", 1));
      look();
      go.add(written(" home", 2));
      go.end();
      story.change(edited(story.pieces, "The fox ran home"));
      look();
      story.undo(); look();
      story.undo(); look();
      story.undo(); look();
      story.redo(); look();
      story.change(before(story.pieces, 5)); look();
      return seen;
    """)
    assert texts == [
        ["A fox ran", False, False],  # not while it writes
        ["The fox ran home", True, False],
        ["A fox ran home", True, True],
        ["", False, True],
        ["", False, True],
        ["A fox ran home", True, True],
        ["A fox", True, False],
    ]


def test_a_step_in_which_nothing_was_written_is_taken_back_and_a_new_text_is_not() -> None:
    texts = pieces_of("""
      const story = new Story();
      story.begin(fox);
      const texts = [];
      for (const pieces of [fox, before(fox, 9), typed("Another")]) {
        story.write(pieces).end();
        texts.push(story.text);
      }
      story.undo();
      return [...texts, story.text, story.canUndo];
    """)
    assert texts == ["A fox ran home.", "A fox ran home.", "Another", "A fox ran home.", True]


def test_a_text_keeps_its_identity_while_it_is_changed_and_gets_it_back_when_undone() -> None:
    same = pieces_of("""
      const story = new Story();
      story.begin(fox);
      const first = story.identity;
      story.change(before(fox, 5));
      const changed = story.identity;
      story.begin(typed("Another"));
      const other = story.identity;
      story.undo();
      return [changed === first, other === first, story.identity === first, first !== null];
    """)
    assert same == [True, False, True, True]


def test_a_change_tells_from_which_piece_on_the_text_is_another() -> None:
    told = pieces_of("""
      const story = new Story();
      const told = [];
      story.addEventListener("change", ({ detail }) => told.push(detail.from));
      story.begin(fox);
      story.change(edited(fox, "A fox ran back home."));
      story.undo();
      const go = story.write(fox);
      go.add(written(" It", 4));
      go.end();
      return told;
    """)
    assert told == [0, 2, 2, 4, 4, 5]


def test_the_text_is_not_changed_while_the_model_writes_and_steps_are_not_kept_for_ever() -> None:
    kept = pieces_of("""
      const story = new Story();
      const go = story.write(typed("A"));
      let refused = "";
      try { story.begin(fox); } catch (error) { refused = error.message; }
      story.undo();
      go.add(written("b", 1));
      go.end();
      for (let step = 0; step < 1000; step++) story.change(typed(String(step)));
      let undone = 0;
      for (; story.canUndo; undone++) story.undo();
      return [refused, undone, story.text];
    """)
    assert kept == ["the model is writing: end that before the text is changed", 300, "699"]
