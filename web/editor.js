// editor.js: a text field for programs: CodeMirror 6 with the page's colours. It lives in a shadow root, where its style
// sheets are adopted: in the page itself they would be <style> elements, which the policy refuses.

import {
  Decoration, EditorState, EditorView, HighlightStyle, RangeSet, StateEffect, StateField, StreamLanguage,
  bracketMatching, defaultKeymap, drawSelection, highlightActiveLine, history, historyKeymap, indentOnInput,
  indentUnit, indentWithTab, keymap, lineNumbers, pythonLanguage, search, searchKeymap, syntaxHighlighting, tags,
} from "./codemirror.js";
import { differences } from "./edits.js";

const setMarks = StateEffect.define(); // {changed: RangeSet, wrong: line or null}

const WGSL_WORDS =
  /^(?:alias|break|case|const|const_assert|continue|continuing|default|diagnostic|discard|else|enable|fn|for|if|let|loop|override|return|struct|switch|var|while)\b/;
const WGSL_TYPES = /^(?:array|atomic|bool|f16|f32|i32|mat[234]x[234]|ptr|u32|vec[234])\b/;

const wgslLanguage = StreamLanguage.define({
  name: "wgsl",
  startState: () => ({ depth: 0 }), // of comments
  token(stream, state) {
    if (state.depth > 0 || stream.match("/*")) {
      if (state.depth === 0) state.depth = 1;
      while (!stream.eol() && state.depth > 0) {
        if (stream.match("/*")) state.depth += 1;
        else if (stream.match("*/")) state.depth -= 1;
        else stream.next();
      }
      return "comment";
    }
    if (stream.match("//")) {
      stream.skipToEnd();
      return "comment";
    }
    if (stream.match(/^(?:0x[\da-fA-F.]+(?:p[+-]?\d+)?|(?:\d*\.\d+|\d+\.?)(?:e[+-]?\d+)?)[fhiu]?/)) return "number";
    if (stream.match(WGSL_WORDS)) return "keyword";
    if (stream.match(WGSL_TYPES)) return "typeName";
    if (stream.match(/^(?:true|false)\b/)) return "bool";
    if (stream.match(/^@\w+/)) return "meta";
    if (stream.match(/^[A-Za-z_]\w*(?=\()/)) return "function";
    if (stream.match(/^[A-Za-z_]\w*/)) return "variableName";
    stream.next();
    return null;
  },
  languageData: { commentTokens: { line: "//" } },
  tokenTable: { function: tags.function(tags.variableName) },
});

const colours = HighlightStyle.define([
  { tag: tags.comment, color: "var(--quiet)", fontStyle: "italic" },
  { tag: [tags.keyword, tags.operatorKeyword, tags.controlKeyword, tags.definitionKeyword, tags.moduleKeyword], color: "var(--code-word)" },
  { tag: [tags.string, tags.special(tags.string)], color: "var(--code-text)" },
  { tag: [tags.number, tags.bool, tags.null], color: "var(--code-number)" },
  { tag: [tags.function(tags.variableName), tags.function(tags.definition(tags.variableName)), tags.definition(tags.className)], color: "var(--code-name)" },
  { tag: [tags.typeName, tags.className, tags.meta], color: "var(--code-type)" },
]);

const look = EditorView.theme({
  "&": { color: "var(--ink)", backgroundColor: "var(--paper)", fontSize: "0.85rem", height: "100%" },
  "&.cm-focused": { outline: "none" }, // the page outlines its place
  ".cm-scroller": { fontFamily: "var(--mono)", lineHeight: "1.5", overflow: "auto" },
  ".cm-content": { caretColor: "var(--ink)", paddingBlock: "0.5rem" },
  ".cm-cursor": { borderLeftColor: "var(--ink)", borderLeftWidth: "2px" },
  ".cm-gutters": { backgroundColor: "var(--desk)", color: "var(--quiet)", borderRight: "1px solid var(--line)" },
  ".cm-activeLine, .cm-activeLineGutter": { backgroundColor: "color-mix(in srgb, var(--accent-soft) 45%, transparent)" },
  "&.cm-focused > .cm-scroller > .cm-selectionLayer .cm-selectionBackground, .cm-selectionBackground": {
    backgroundColor: "var(--code-selected)",
  },
  ".cm-changed": { backgroundColor: "var(--code-changed)", boxShadow: "inset 3px 0 var(--accent)" },
  ".cm-missing": { boxShadow: "inset 0 2px var(--accent)" },
  ".cm-wrong": { backgroundColor: "var(--bad-soft)", boxShadow: "inset 4px 0 var(--bad)" },
  ".cm-matchingBracket, &.cm-focused .cm-matchingBracket": { backgroundColor: "transparent", outline: "1px solid var(--edge)" },
  ".cm-panels": { backgroundColor: "var(--desk)", color: "var(--ink)", borderColor: "var(--line)" },
  ".cm-panels label": { fontSize: "0.85rem" },
  ".cm-textfield": { backgroundColor: "var(--paper)", color: "var(--ink)", border: "1px solid var(--edge)", fontSize: "0.85rem" },
  ".cm-button": { backgroundImage: "none", backgroundColor: "var(--paper)", color: "var(--ink)", border: "1px solid var(--edge)", fontSize: "0.85rem" },
  ".cm-searchMatch": { backgroundColor: "var(--step-2)" },
  ".cm-searchMatch-selected": { backgroundColor: "var(--step-3)" },
});

const changedLine = Decoration.line({ class: "cm-changed" });
const missingLine = Decoration.line({ class: "cm-missing" });
const wrongLine = Decoration.line({ class: "cm-wrong" });

/** The lines that are not as they were, and the one that is wrong. */
function marks(original) {
  const build = (doc, wrong) => {
    const found = [];
    for (const { from, to, removed } of differences(original, doc.toString())) {
      for (let line = from; line < to; line++) found.push(changedLine.range(doc.line(line + 1).from));
      if (from === to && removed > 0) found.push(missingLine.range(doc.line(Math.min(from + 1, doc.lines)).from));
    }
    if (wrong !== null && wrong <= doc.lines) found.push(wrongLine.range(doc.line(wrong).from));
    return RangeSet.of(found, true);
  };
  return StateField.define({
    create: (state) => ({ set: build(state.doc, null), wrong: null }),
    update(value, transaction) {
      const told = transaction.effects.find((effect) => effect.is(setMarks));
      if (!told && !transaction.docChanged) return value;
      const wrong = told ? told.value : null; // it may be right now
      return { set: build(transaction.newDoc, wrong), wrong };
    },
    provide: (field) => EditorView.decorations.from(field, ({ set }) => set),
  });
}

export class Editor {
  #view;
  #states = new Map(); // path -> EditorState, with what can be undone
  #path = null;
  #options;

  /**
   * @param {HTMLElement} place
   * @param {object} options  label(path): its name for screen readers; changed(path, text); run(): Ctrl + Enter
   */
  constructor(place, options) {
    this.#options = options;
    const root = place.attachShadow({ mode: "open" });
    this.#view = new EditorView({
      root,
      parent: root,
      dispatchTransactions: (transactions, view) => {
        view.update(transactions);
        if (transactions.some(({ docChanged }) => docChanged)) options.changed(this.#path, view.state.doc.toString());
      },
    });
    // The page's own keys (Ctrl + Enter, Ctrl + Z, Esc) mean something else.
    place.addEventListener("keydown", (event) => event.stopPropagation());
  }

  /** Shows a file; `text` in place of what it had here, as one change to undo. */
  show(path, text, original) {
    if (this.#path !== null) this.#states.set(this.#path, this.#view.state);
    this.#path = path;
    this.#view.setState(this.#states.get(path) ?? this.#stateOf(path, text, original));
    this.replace(text);
  }

  /** Makes the text that is shown another one. */
  replace(text) {
    const { doc } = this.#view.state;
    const old = doc.toString();
    if (old === text) return;
    let from = 0;
    while (from < old.length && old[from] === text[from]) from += 1;
    let end = 0;
    while (end < Math.min(old.length, text.length) - from && old.at(-1 - end) === text.at(-1 - end)) end += 1;
    const changes = { from, to: old.length - end, insert: text.slice(from, text.length - end) };
    this.#view.dispatch({ changes, effects: scrollTo(from) });
  }

  /** Marks a line as wrong, counted from 1, and shows it; null: none. */
  mark(line) {
    const { doc } = this.#view.state;
    const known = line !== null && line >= 1 && line <= doc.lines;
    const effects = [setMarks.of(known ? line : null)];
    if (known) effects.push(scrollTo(doc.line(line).from));
    this.#view.dispatch({ effects });
  }

  /** Shows the first line that is not as it was. */
  showFirst(original) {
    const { doc } = this.#view.state;
    const [first] = differences(original, doc.toString());
    if (first) this.#view.dispatch({ effects: scrollTo(doc.line(Math.min(first.from + 1, doc.lines)).from) });
  }

  focus() {
    this.#view.focus();
  }

  #stateOf(path, text, original) {
    const run = () => {
      this.#options.run();
      return true;
    };
    return EditorState.create({
      doc: text,
      extensions: [
        keymap.of([{ key: "Mod-Enter", run }, ...defaultKeymap, ...historyKeymap, ...searchKeymap, indentWithTab]),
        path.endsWith(".py") ? [pythonLanguage, indentUnit.of("    ")] : [wgslLanguage, indentUnit.of("  ")],
        [lineNumbers(), history(), drawSelection(), highlightActiveLine(), bracketMatching(), indentOnInput()],
        EditorView.domEventHandlers({ drop: (event) => event.dataTransfer?.types.includes("Files") }), // the page's
        [search({ top: true }), syntaxHighlighting(colours), look, marks(original)],
        EditorView.contentAttributes.of({ "aria-label": this.#options.label(path), tabindex: "0" }),
      ],
    });
  }
}

function scrollTo(at) {
  return EditorView.scrollIntoView(at, { y: "center" });
}
