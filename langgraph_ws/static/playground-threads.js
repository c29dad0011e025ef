/**
 * The conversations that this browser remembers: their ids and titles, nothing that was said.
 *
 * @module
 */

import { byId, h, keyed } from "./playground-dom.js";

/** @typedef {{id: string, title: string, graph: string | null, time: number}} Entry */

const MOST = 200;
const LONGEST = 80;

/**
 * Where a conversation is found on the page.
 *
 * @param {string} id
 */
export function addressOf(id) {
  return `#${new URLSearchParams({ thread: id })}`;
}

/** The list, as it is kept in the browser and shown at the side. */
export class ThreadList {
  #key;
  #onRemove;
  /** @type {string | null} */
  #current = null;
  /** Whether there are several graphs, so that it matters with which one a conversation is. */
  several = false;

  /**
   * @param {string} scope what the list is kept for: another route has another list
   * @param {(id: string) => void} onRemove
   */
  constructor(scope, onRemove) {
    this.#key = `langgraph_ws ${scope}`;
    this.#onRemove = onRemove;
    addEventListener("storage", (event) => {
      if (event.key === this.#key) this.show(this.#current);
    });
  }

  /** @returns {Entry[]} the newest first */
  get entries() {
    try {
      const kept = JSON.parse(localStorage.getItem(this.#key) ?? "[]");
      return Array.isArray(kept) ? kept.filter(isEntry) : [];
    } catch {
      return [];
    }
  }

  /** @param {string} id */
  find(id) {
    return this.entries.find((entry) => entry.id === id) ?? null;
  }

  /**
   * Remember a conversation, or that it went on.
   *
   * @param {string} id
   * @param {string} title
   * @param {string | null} graph
   */
  note(id, title, graph) {
    const known = this.find(id);
    const line = title.replace(/\s+/g, " ").trim().slice(0, LONGEST) || "Untitled";
    const entry = known ?? { id, title: line, graph, time: 0 };
    this.#keep([
      { ...entry, time: Date.now() },
      ...this.entries.filter((other) => other.id !== id),
    ]);
  }

  /** @param {string} id */
  #remove(id) {
    this.#keep(this.entries.filter((entry) => entry.id !== id));
    this.#onRemove(id);
  }

  /** @param {Entry[]} entries */
  #keep(entries) {
    try {
      localStorage.setItem(this.#key, JSON.stringify(entries.slice(0, MOST)));
    } catch {
      // Private windows may have no storage: the conversation goes on all the same.
    }
    this.show(this.#current);
  }

  /** @param {string | null} current the conversation that is open */
  show(current) {
    this.#current = current;
    const { entries } = this;
    byId("no-threads").hidden = entries.length > 0;
    keyed(
      byId("thread-list"),
      entries,
      ({ id }) => id,
      (entry) => this.#item(entry),
      (element, { id }) => {
        const link = /** @type {Element} */ (element.firstElementChild);
        if (id === current) link.setAttribute("aria-current", "page");
        else link.removeAttribute("aria-current");
      },
    );
  }

  /** @param {Entry} entry */
  #item({ id, title, graph }) {
    const remove = h(
      "button",
      { type: "button", class: "remove", "aria-label": `Remove “${title}” from the list` },
      "×",
    );
    remove.addEventListener("click", () => {
      const list = byId("new-chat");
      this.#remove(id);
      list.focus();
    });
    const where = this.several && graph !== null && h("span", { class: "graph-of" }, graph);
    return h("li", {}, h("a", { href: addressOf(id), title }, title, where), remove);
  }
}

/** @param {any} value */
function isEntry(value) {
  return typeof value?.id === "string" && typeof value.title === "string";
}
