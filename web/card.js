// card.js: a model card, lightly formatted. Made of text nodes only: nothing in a card is taken as HTML.

/** The card's blocks: {kind: "heading" | "text" | "table", text or rows}. */
function blocks(markdown) {
  return markdown
    .replaceAll("\r", "")
    .replace(/^(#+ .*)\n(?!\n)/gm, "$1\n\n")
    .split(/\n{2,}/)
    .map((block) => block.trim())
    .filter(Boolean)
    .map((block) => {
      if (block.startsWith("#")) return { kind: "heading", text: block.replace(/^#+\s*/, "") };
      if (block.startsWith("|")) return { kind: "table", rows: rows(block) };
      return { kind: "text", text: block.replaceAll("\n", " ") };
    });
}

function rows(table) {
  return table
    .split("\n")
    .map(cells)
    .filter((row) => !row.every((cell) => /^:?-*:?$/.test(cell))); // the line under the header, an empty header
}

function cells(line) {
  const masked = line.replace(/`[^`]*`/g, (code) => code.replaceAll("|", "\0")); // a bar in code parts no cells
  return masked
    .replace(/^\s*\||\|\s*$/g, "")
    .split("|")
    .map((cell) => cell.replaceAll("\0", "|").trim());
}

/** Elements that show the card. */
export function showCard(markdown) {
  return blocks(markdown).map(({ kind, text, rows: lines }) => {
    if (kind === "heading") return element("h3", inline(text));
    if (kind === "text") return element("p", inline(text));
    return element("table", [element("tbody", lines.map((row) =>
      element("tr", row.map((cell, column) => {
        const made = element(column === 0 ? "th" : "td", inline(cell));
        if (column === 0) made.scope = "row";
        return made;
      }))))]);
  });
}

/** The first paragraph under a heading, without its marks; "" when there is none. */
export function paragraphUnder(markdown, heading) {
  const list = blocks(markdown);
  const at = list.findIndex(({ kind, text }) => kind === "heading" && text === heading);
  const found = at >= 0 && list[at + 1]?.kind === "text" ? list[at + 1].text : "";
  return found.replaceAll("`", "");
}

function inline(text) {
  return text.split("`").map((part, index) => (index % 2 ? element("code", [part]) : part));
}

function element(name, children) {
  const made = document.createElement(name);
  made.append(...children);
  return made;
}
