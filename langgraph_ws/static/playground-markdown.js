/**
 * The part of Markdown that models write, as DOM nodes. No text becomes markup, images are not
 * loaded, and links lead only to http, https and mailto.
 *
 * @module
 */

import { h, link } from "./playground-dom.js";

/** @typedef {{kind: string, source: string, make: () => HTMLElement}} Block */

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([\w+#.-]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*\s*$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const QUOTE = /^ {0,3}>\s?/;
const TABLE_RULE = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;
const TASK = /^\[([ xX])\]\s+/;
const DEEPEST = 12;

/**
 * Show a text; what has not changed since the last time stays as it is.
 *
 * @param {Element} parent
 * @param {string} text
 */
export function showMarkdown(parent, text) {
  const blocks = parse(text);
  const shown = /** @type {any} */ (parent).shownBlocks ?? [];
  let same = 0;
  while (same < blocks.length && blocks[same].source === shown[same]) same++;
  while (parent.children.length > same) parent.lastElementChild?.remove();
  for (const block of blocks.slice(same)) parent.append(block.make());
  /** @type {any} */ (parent).shownBlocks = blocks.map((block) => block.source);
}

/**
 * @param {string} text
 * @param {number} [depth]
 * @returns {Block[]}
 */
function parse(text, depth = 0) {
  const lines = text.replace(/\r\n?/g, "\n").split("\n");
  /** @type {Block[]} */
  const blocks = [];
  for (let at = 0; at < lines.length;) {
    if (lines[at].trim() === "") {
      at++;
      continue;
    }
    const [kind, end, make] = next(lines, at, depth);
    blocks.push({ kind, source: kind + lines.slice(at, end).join("\n"), make });
    at = end;
  }
  return blocks;
}

/**
 * The block that begins at a line: its kind, the line after it, and what makes it.
 *
 * @param {string[]} lines
 * @param {number} at
 * @param {number} depth
 * @returns {[string, number, () => HTMLElement]}
 */
function next(lines, at, depth) {
  const line = lines[at];
  const fence = FENCE.exec(line);
  if (fence) return code(lines, at, fence);
  const heading = HEADING.exec(line);
  if (heading) return ["heading", at + 1, () => headingOf(heading[1].length, heading[2])];
  if (RULE.test(line)) return ["rule", at + 1, () => h("hr")];
  if (isTable(lines, at)) return table(lines, at);
  if (depth < DEEPEST) {
    if (QUOTE.test(line)) return quote(lines, at, depth);
    if (ITEM.test(line)) return list(lines, at, depth);
  }
  return paragraph(lines, at, depth);
}

/**
 * @param {string[]} lines
 * @param {number} at
 * @param {RegExpExecArray} fence
 * @returns {[string, number, () => HTMLElement]}
 */
function code(lines, at, [, mark, language]) {
  let end = at + 1;
  const closes = (/** @type {string} */ line) =>
    line.trim().startsWith(mark) && line.trim().replaceAll(mark[0], "") === "";
  while (end < lines.length && !closes(lines[end])) end++;
  const text = lines.slice(at + 1, end).join("\n");
  return ["code", Math.min(end + 1, lines.length), () => codeBlock(text, language)];
}

/**
 * @param {string} text
 * @param {string} language
 */
function codeBlock(text, language) {
  const copies = typeof navigator.clipboard?.writeText === "function";
  const button = h("button", { type: "button", class: "link" }, "Copy");
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  });
  const head = h("div", { class: "code-head" }, h("span", {}, language || "text"));
  if (copies) head.append(button);
  // Scrolls sideways, so the keyboard has to reach it.
  return h("div", { class: "code" }, head, h("pre", { tabindex: "0" }, h("code", {}, text)));
}

/**
 * A heading of a message stands below those of the page.
 *
 * @param {number} level
 * @param {string} text
 */
function headingOf(level, text) {
  const tag = /** @type {"h3"} */ (`h${Math.min(level + 2, 6)}`);
  return h(tag, {}, ...inline(text));
}

/**
 * @param {string[]} lines
 * @param {number} at
 * @param {number} depth
 * @returns {[string, number, () => HTMLElement]}
 */
function quote(lines, at, depth) {
  let end = at;
  while (end < lines.length && QUOTE.test(lines[end])) end++;
  const inner = lines
    .slice(at, end)
    .map((line) => line.replace(QUOTE, ""))
    .join("\n");
  return ["quote", end, () => h("blockquote", {}, ...made(inner, depth))];
}

/**
 * @param {string} text
 * @param {number} depth
 */
function made(text, depth) {
  return parse(text, depth + 1).map((block) => block.make());
}

/**
 * @param {string[]} lines
 * @param {number} at
 * @param {number} depth
 * @returns {[string, number, () => HTMLElement]}
 */
function list(lines, at, depth) {
  const first = /** @type {RegExpExecArray} */ (ITEM.exec(lines[at]));
  const indent = first[1].length;
  /** Where the words of the newest item begin. */
  let inset = 0;
  const ordered = /\d/.test(first[2]);
  /** @type {string[][]} */
  const items = [];
  let end = at;
  for (; end < lines.length; end++) {
    const item = ITEM.exec(lines[end]);
    const ours = item !== null && item[1].length <= indent + 1;
    if (ours && (/\d/.test(item[2]) !== ordered || item[1].length < indent)) break;
    if (ours) {
      items.push([item[3]]);
      inset = item[0].length - item[3].length;
    } else if (goesOn(lines, end, indent))
      items[items.length - 1].push(outdented(lines[end], inset));
    else break;
  }
  while (lines[end - 1]?.trim() === "") end--;
  const start = ordered ? Number.parseInt(first[2], 10) : 1;
  return ["list", end, () => listOf(items, ordered, start, depth)];
}

/**
 * Whether a line that begins no item belongs to the one before it.
 *
 * @param {string[]} lines
 * @param {number} at
 * @param {number} indent
 */
function goesOn(lines, at, indent) {
  const line = lines[at];
  if (line.trim() === "") {
    const after = lines.slice(at).find((later) => later.trim() !== "");
    if (after === undefined) return false;
    return indentOf(after) > indent || (ITEM.exec(after)?.[1].length ?? -1) === indent;
  }
  if (indentOf(line) > indent) return true;
  const starts = HEADING.test(line) || RULE.test(line) || FENCE.test(line) || QUOTE.test(line);
  return !starts && lines[at - 1].trim() !== "";
}

/** @param {string} line */
function indentOf(line) {
  return line.length - line.trimStart().length;
}

/**
 * @param {string} line
 * @param {number} inset
 */
function outdented(line, inset) {
  return line.slice(Math.min(indentOf(line), inset));
}

/**
 * @param {string[][]} items
 * @param {boolean} ordered
 * @param {number} start
 * @param {number} depth
 */
function listOf(items, ordered, start, depth) {
  const children = items.map((lines) => itemOf(lines, depth));
  const numbered = ordered && start !== 1 ? { start } : {};
  return ordered ? h("ol", numbered, ...children) : h("ul", {}, ...children);
}

/**
 * @param {string[]} lines
 * @param {number} depth
 */
function itemOf([first, ...more], depth) {
  const task = TASK.exec(first);
  const lines = [first.slice(task?.[0].length ?? 0), ...more];
  while (lines.length > 1 && lines.at(-1)?.trim() === "") lines.pop();
  const blocks = parse(lines.join("\n"), depth + 1);
  const item = h("li", {});
  if (task) {
    const checked = task[1] !== " ";
    item.className = "task";
    item.append(
      h("input", {
        type: "checkbox",
        disabled: true,
        checked,
        "aria-label": checked ? "done" : "to do",
      }),
    );
  }
  // An item without an empty line in it needs no paragraph around its words.
  const tight = blocks[0]?.kind === "paragraph" && lines.every((line) => line.trim() !== "");
  if (tight) item.append(.../** @type {Block} */ (blocks.shift()).make().childNodes);
  item.append(...blocks.map((block) => block.make()));
  return item;
}

/**
 * @param {string[]} lines
 * @param {number} at
 */
function isTable(lines, at) {
  const rule = lines[at + 1];
  if (rule === undefined || !lines[at].includes("|") || !rule.includes("|")) return false;
  return TABLE_RULE.test(rule) && cells(rule).length === cells(lines[at]).length;
}

/**
 * @param {string[]} lines
 * @param {number} at
 * @returns {[string, number, () => HTMLElement]}
 */
function table(lines, at) {
  let end = at + 2;
  while (end < lines.length && lines[end].includes("|")) end++;
  const head = cells(lines[at]);
  const sides = cells(lines[at + 1]).map(sideOf);
  const rows = lines.slice(at + 2, end).map(cells);
  return ["table", end, () => tableOf(head, rows, sides)];
}

/** @param {string} rule the cell of a column in the line below the head */
function sideOf(rule) {
  if (!rule.endsWith(":")) return null;
  return rule.startsWith(":") ? "center" : "right";
}

/** @param {string} line */
function cells(line) {
  return line
    .trim()
    .replace(/^\||\|$/g, "")
    .split(/(?<!\\)\|/)
    .map((cell) => cell.trim().replaceAll("\\|", "|"));
}

/**
 * @param {string[]} head
 * @param {string[][]} rows
 * @param {(string | null)[]} sides the side that each column leans to; null: the left
 */
function tableOf(head, rows, sides) {
  const headings = head.map((cell, column) =>
    h("th", { scope: "col", class: sides[column] }, ...inline(cell)),
  );
  const cell = (/** @type {string[]} */ row, /** @type {number} */ column) =>
    h("td", { class: sides[column] }, ...inline(row[column] ?? ""));
  const body = rows.map((row) => h("tr", {}, ...head.map((_, column) => cell(row, column))));
  return h(
    "div",
    { class: "table", tabindex: "0" },
    h("table", {}, h("thead", {}, h("tr", {}, ...headings)), h("tbody", {}, ...body)),
  );
}

/**
 * @param {string[]} lines
 * @param {number} at
 * @param {number} depth
 * @returns {[string, number, () => HTMLElement]}
 */
function paragraph(lines, at, depth) {
  let end = at + 1;
  while (end < lines.length && !interrupts(lines, end, depth)) end++;
  const text = lines
    .slice(at, end)
    .map((line) => line.trimStart())
    .join("\n");
  return ["paragraph", end, () => h("p", {}, ...inline(text))];
}

/**
 * Whether a line ends the paragraph before it.
 *
 * @param {string[]} lines
 * @param {number} at
 * @param {number} depth
 */
function interrupts(lines, at, depth) {
  const line = lines[at];
  if (line.trim() === "" || FENCE.test(line) || HEADING.test(line) || RULE.test(line)) return true;
  if (isTable(lines, at)) return true;
  return depth < DEEPEST && (QUOTE.test(line) || ITEM.test(line));
}

// --- inline ---------------------------------------------------------------------------------------

/**
 * What can stand in a line; the first that fits where the text has come to is taken. What
 * each may take is bounded, so that no text that a model writes can keep the page busy for long.
 *
 * @type {[RegExp, (found: RegExpExecArray, depth: number) => Node][]}
 */
const INLINE = [
  [/\\([!-/:-@[-`{-~])/y, ([, char]) => document.createTextNode(char)],
  [
    /(`{1,4})(?!`)((?:(?!\1)[^]){1,2000})\1(?!`)/y,
    ([, , text]) => h("code", {}, text.trim() || text),
  ],
  [
    /!?\[([^[\]\n]{0,1000})\]\(\s*<?((?:[^\s()<>]|\([^\s()<>]{0,500}\)){1,2000})>?(?:\s+"[^"\n]{0,500}")?\s*\)/y,
    linked,
  ],
  [/<((?:https?:\/\/|mailto:)[^\s<>]{1,2000})>/y, ([, url]) => link(url, url)],
  [/\*\*(\*(?=[^\s*])[^*\n]{1,5000}(?<!\s)\*)\*\*/y, wrapped("strong")],
  [/\*\*(?=\S)((?:[^*\n]|\*(?!\*)){1,5000}?)(?<!\s)\*\*/y, wrapped("strong")],
  [/__(?=\S)((?:[^_\n]|_(?!_)){1,5000}?)(?<!\s)__(?!\w)/y, wrapped("strong")],
  [/\*(?=[^\s*])([^*\n]{1,5000})(?<!\s)\*/y, wrapped("em")],
  [/_(?=[^\s_])([^_\n]{1,5000})(?<!\s)_(?!\w)/y, wrapped("em")],
  [/~~(?=\S)([^~\n]{1,5000})(?<!\s)~~/y, wrapped("s")],
  // Punctuation at its end belongs to the sentence; brackets, where they are a pair, to the address.
  [
    /https?:\/\/(?:[^\s<>"'`()]|\([^\s<>"'`()]{0,500}\)){1,2000}(?<![.,;:!?\]}*_])/y,
    ([url]) => link(url, url),
  ],
  [/ {2,}\n|\n/y, () => h("br")],
];
/** Where any of them could begin. */
const SPECIAL = /[\\`[!<*_~\n]|https?:\/\/| {2,}\n/g;

/**
 * @param {string} text
 * @param {number} [depth]
 * @returns {Node[]}
 */
function inline(text, depth = 0) {
  if (depth > DEEPEST) return [document.createTextNode(text)];
  /** @type {Node[]} */
  const nodes = [];
  let plain = "";
  for (let at = 0; at < text.length;) {
    SPECIAL.lastIndex = at;
    const special = SPECIAL.exec(text)?.index ?? text.length;
    plain += text.slice(at, special);
    if (special === text.length) break;
    const found = matchAt(text, special);
    if (found === null) {
      plain += text[special];
      at = special + 1;
      continue;
    }
    if (plain !== "") nodes.push(document.createTextNode(plain));
    plain = "";
    nodes.push(found.make(depth));
    at = special + found.length;
  }
  if (plain !== "") nodes.push(document.createTextNode(plain));
  return nodes;
}

/**
 * @param {string} text
 * @param {number} at
 */
function matchAt(text, at) {
  // snake_case is a word, and no emphasis.
  if (text[at] === "_" && at > 0 && /\w/.test(text[at - 1])) return null;
  for (const [pattern, make] of INLINE) {
    pattern.lastIndex = at;
    const found = pattern.exec(text);
    if (found !== null) {
      return { length: found[0].length, make: (/** @type {number} */ depth) => make(found, depth) };
    }
  }
  return null;
}

/**
 * A link; an image is one too, for nothing is loaded from elsewhere.
 *
 * @param {RegExpExecArray} found
 * @param {number} depth
 */
function linked([, text, url], depth) {
  return link(url, ...(text === "" ? [url] : inline(text, depth + 1)));
}

/**
 * @param {"strong" | "em" | "s"} tag
 * @returns {(found: RegExpExecArray, depth: number) => Node}
 */
function wrapped(tag) {
  return ([, text], depth) => h(tag, {}, ...inline(text, depth + 1));
}
