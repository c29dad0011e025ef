/**
 * The panels at the sides, which are drawers where there is little room, and the end of the page.
 *
 * @module
 */

import { byId } from "./playground-dom.js";

/** @typedef {"threads" | "inside"} Panel */

const PANELS = /** @type {const} */ (["threads", "inside"]);
/** From these widths on a panel stands beside the conversation; the same as in the style sheet. */
const BESIDE = {
  threads: matchMedia("(min-width: 760px)"),
  inside: matchMedia("(min-width: 1120px)"),
};
const NEAR = 60;

/** The panels. */
export class Panels {
  constructor() {
    for (const name of PANELS) {
      this.set(name, BESIDE[name].matches);
      BESIDE[name].addEventListener("change", ({ matches }) => this.set(name, matches));
      byId(`show-${name}`).addEventListener("click", () => this.#toggle(name));
    }
    byId("shade").addEventListener("click", () => this.closeDrawer());
  }

  /** @param {Panel} name */
  isOpen(name) {
    return document.body.dataset[name] === "open";
  }

  /**
   * @param {Panel} name
   * @param {boolean} open
   */
  set(name, open) {
    document.body.dataset[name] = open ? "open" : "closed";
    byId(`show-${name}`).setAttribute("aria-expanded", String(open));
    byId(name).inert = !open;
    const drawer = this.#drawer();
    byId("shade").hidden = drawer === null;
    byId("main").inert = drawer !== null;
  }

  /** @param {Panel} name */
  #toggle(name) {
    const open = !this.isOpen(name);
    for (const other of PANELS)
      if (other !== name && !BESIDE[other].matches) this.set(other, false);
    this.set(name, open);
    if (open && !BESIDE[name].matches) byId(name).querySelector("button, summary, a")?.focus();
  }

  #drawer() {
    return PANELS.find((name) => this.isOpen(name) && !BESIDE[name].matches) ?? null;
  }

  /** Close what lies over the conversation; whether there was anything. */
  closeDrawer() {
    const drawer = this.#drawer();
    if (drawer === null) return false;
    this.set(drawer, false);
    byId(`show-${drawer}`).focus();
    return true;
  }
}

/** Keeps the newest words in sight, for a reader who has not scrolled away from them. */
export class Follower {
  #scroll = byId("scroll");
  #button = byId("to-end");
  #follows = true;

  constructor() {
    this.#scroll.addEventListener("scroll", () => {
      this.#follows = this.#distance() < NEAR;
      this.#button.hidden = this.#follows;
    });
    this.#button.addEventListener("click", () => this.toEnd());
    new ResizeObserver(() => this.follow()).observe(this.#scroll);
  }

  #distance() {
    const { scrollHeight, scrollTop, clientHeight } = this.#scroll;
    return scrollHeight - scrollTop - clientHeight;
  }

  /** To be called when something was added. */
  follow() {
    if (this.#follows) this.#scroll.scrollTop = this.#scroll.scrollHeight;
    else this.#button.hidden = this.#distance() < NEAR;
  }

  toEnd() {
    this.#follows = true;
    this.follow();
    this.#button.hidden = true;
  }
}
