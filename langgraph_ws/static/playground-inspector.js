/**
 * The frames that went in and out, with when they did.
 *
 * @module
 */

import { asLine, byId, h } from "./playground-dom.js";

/** @typedef {{direction: "in" | "out", message: any, at: string}} Record */

const MOST = 500;

/** The list of frames; what is hidden is not drawn. */
export class Inspector {
  /** @type {Record[]} */
  #records = [];
  /** How many of `#records` are in the list already. */
  #drawn = 0;
  /** @type {Map<string, number>} when each run was first heard of */
  #began = new Map();
  #waiting = false;

  constructor() {
    this.list = byId("frames");
    this.types = byId("frame-type");
    this.count = byId("frame-count");
    this.panel = byId("inspector");
    this.panel.addEventListener("toggle", () => this.#later());
    this.types.addEventListener("change", () => this.#again());
    byId("frame-clear").addEventListener("click", () => {
      this.#records = [];
      this.#again();
    });
  }

  /**
   * Keep a frame.
   *
   * @param {"in" | "out"} direction
   * @param {any} message
   */
  add(direction, message) {
    const now = performance.now();
    const run = message.run_id;
    if (typeof run === "string" && !this.#began.has(run)) this.#began.set(run, now);
    const since = typeof run === "string" ? now - (this.#began.get(run) ?? now) : null;
    const at = since === null ? "" : `+${Math.round(since)}`;
    // A copy: the client completes the texts of what it was given.
    this.#records.push({ direction, message: structuredClone(message), at });
    this.#offer(message.type);
    if (this.#records.length > MOST) {
      this.#records.shift();
      this.#drawn = Math.max(0, this.#drawn - 1);
    }
    this.#later();
  }

  /** @param {string} type */
  #offer(type) {
    const known = [...this.types.options].some((option) => option.value === type);
    if (!known && this.types.options.length < 60) {
      this.types.append(h("option", { value: type }, type));
    }
  }

  #later() {
    if (this.#waiting) return;
    this.#waiting = true;
    requestAnimationFrame(() => {
      this.#waiting = false;
      this.#draw();
    });
  }

  #again() {
    this.#drawn = 0;
    this.list.replaceChildren();
    this.#later();
  }

  #draw() {
    this.count.textContent = this.#records.length === 0 ? "" : String(this.#records.length);
    if (!this.panel.open) return;
    const { list } = this;
    const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
    const wanted = this.types.value;
    for (const record of this.#records.slice(this.#drawn)) {
      if (wanted === "" || record.message.type === wanted) list.append(row(record));
    }
    this.#drawn = this.#records.length;
    while (list.children.length > MOST) list.firstElementChild?.remove();
    if (atEnd) list.scrollTop = list.scrollHeight;
  }
}

/** What tells nothing at a glance. */
const DULL = [
  "message_id",
  "task_id",
  "namespace",
  "thread_id",
  "run_id",
  "epoch",
  "index",
  "node",
];

/**
 * What a frame says, in a few words.
 *
 * @param {any} message
 */
function gist({ type: _, id: __, data, ...rest }) {
  const said = data ?? rest;
  if (said === null || typeof said !== "object" || Array.isArray(said)) return asLine(said);
  if (typeof said.delta === "string") return JSON.stringify(said.delta);
  const telling = Object.entries(said).filter(([name]) => !DULL.includes(name));
  return asLine(telling.map(([name, value]) => `${name}: ${asLine(value, 60)}`).join(", "));
}

/** @param {Record} record */
function row({ direction, message, at }) {
  const details = h(
    "details",
    {},
    h(
      "summary",
      {},
      h("span", { class: "way" }, direction === "in" ? "↓" : "↑"),
      h("span", { class: "type" }, String(message.type)),
      h("span", { class: "about" }, gist(message)),
      h("span", { class: "at", title: "ms since the first frame of the run" }, at),
    ),
  );
  // The whole frame is written out only when somebody wants to see it.
  details.addEventListener("toggle", () => {
    if (details.open && details.children.length === 1) {
      details.append(h("pre", { tabindex: "0" }, JSON.stringify(message, null, 2)));
    }
  });
  return h("li", { class: direction, "data-type": String(message.type) }, details);
}
