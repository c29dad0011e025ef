/**
 * What the graph asks for, as a form: buttons where the answers are known, a field where not.
 *
 * @module
 */

import { asText, byId, h } from "./playground-dom.js";
import { choicesOf, formFor, parsed, readForm, resolved } from "./playground-forms.js";
import { showMarkdown } from "./playground-markdown.js";

/** @typedef {import("./client.js").Interrupt} Interrupt */
/** @typedef {{element: HTMLElement, read: () => unknown}} Answer */
/** @typedef {(value: unknown) => void} Pick answers at once, where nothing else is asked */

const KNOWN_AS_QUESTION = ["question", "message", "prompt", "description", "text"];
const KNOWN_AS_OPTIONS = ["options", "choices"];

/** What a question is answered with; a block of code in it has a button of its own. */
const ANSWERS = "[data-pick], input, textarea, select";

/** The form with everything that waits for an answer; all of it is answered together. */
export class Questions {
  #form = byId("questions");
  #shown = "";
  /** @type {() => Record<string, unknown>} */
  #read = () => ({});

  /**
   * @param {(answers: Record<string, unknown>) => Promise<void>} answer
   * @param {(message: string) => void} tell
   */
  constructor(answer, tell) {
    this.answer = answer;
    this.tell = tell;
    this.#form.addEventListener("submit", (/** @type {Event} */ event) => {
      event.preventDefault();
      const read = readForm(this.#form, this.#read, this.tell);
      if (read !== null) void this.#send(read.value);
    });
  }

  /** Another conversation is shown from now on. */
  forget() {
    this.show([]);
    this.#shown = "";
  }

  /** @param {readonly Interrupt[]} interrupts */
  show(interrupts) {
    const key = JSON.stringify(interrupts.map(({ id }) => id));
    if (key === this.#shown) return;
    const before = this.#shown;
    this.#shown = key;
    this.#form.hidden = interrupts.length === 0;
    this.#form.replaceChildren();
    if (interrupts.length === 0) return;
    this.#build(interrupts);
    // Where the user's attention belongs now; on the first sight of an old thread it stays.
    const writing = byId("composer-text").value !== "";
    if (before !== "" && !writing) this.#form.querySelector(ANSWERS)?.focus();
  }

  /** @param {readonly Interrupt[]} interrupts */
  #build(interrupts) {
    const [only] = interrupts;
    const alone = interrupts.length === 1;
    const pick = alone
      ? (/** @type {unknown} */ value) => void this.#send({ [only.id]: value })
      : null;
    const asked = interrupts.map((interrupt) => ({
      id: interrupt.id,
      ...question(interrupt, pick),
    }));
    this.#read = () => Object.fromEntries(asked.map(({ id, read }) => [id, read()]));
    for (const { element } of asked) this.#form.append(element);
    const complete = alone && asked[0].element.querySelector("[data-pick]") !== null;
    if (!complete) {
      const label = alone ? "Answer" : `Answer all ${interrupts.length}`;
      const button = h("button", { type: "submit", class: "primary" }, label);
      this.#form.append(h("div", { class: "buttons" }, button));
    }
  }

  /** @param {Record<string, unknown>} answers */
  async #send(answers) {
    const controls = /** @type {NodeListOf<HTMLButtonElement>} */ (
      this.#form.querySelectorAll("button")
    );
    for (const control of controls) control.disabled = true;
    try {
      await this.answer(answers);
    } finally {
      for (const control of controls) control.disabled = false;
    }
  }
}

/**
 * @param {Interrupt} interrupt
 * @param {Pick | null} pick
 * @returns {Answer}
 */
function question(interrupt, pick) {
  const { value, node } = interrupt;
  const where = node ? h("span", { class: "where" }, node) : null;
  const answer = answerFor(interrupt, pick);
  const element = h(
    "fieldset",
    { class: "question", "data-interrupt": interrupt.id },
    h("legend", {}, "The graph asks", where && " · ", where),
    asked(value),
    answer.element,
  );
  return { element, read: answer.read };
}

/**
 * What is asked, in words where it has any.
 *
 * @param {any} value
 */
function asked(value) {
  const prose = (/** @type {string} */ text) => {
    const element = h("div", { class: "prose" });
    showMarkdown(element, text);
    return element;
  };
  if (typeof value === "string") return prose(value);
  if (value === null || value === undefined) return prose("Go on?");
  const name = KNOWN_AS_QUESTION.find((one) => typeof value[one] === "string");
  const rest = Object.entries(Object(value)).filter(
    ([key]) => key !== name && !KNOWN_AS_OPTIONS.includes(key) && !REVIEW.includes(key),
  );
  const more = Array.isArray(value) || name === undefined ? value : Object.fromEntries(rest);
  const shown = Array.isArray(value) || rest.length > 0;
  return h(
    "div",
    {},
    name !== undefined && prose(value[name]),
    shown && h("pre", { class: "value", tabindex: "0" }, asText(more)),
  );
}

/**
 * @param {Interrupt} interrupt
 * @param {Pick | null} pick
 * @returns {Answer}
 */
function answerFor({ value, response_schema: given }, pick) {
  if (given && typeof given === "object") {
    const schema = resolved(given, given);
    if (schema.type === "boolean")
      return buttons(
        [
          [true, "Yes"],
          [false, "No"],
        ],
        pick,
      );
    const choices = choicesOf(schema);
    if (choices !== null)
      return buttons(
        choices.map((one) => [one, asText(one)]),
        pick,
      );
    return formFor(/** @type {any} */ (given), "Answer");
  }
  if (isReview(value)) return review(/** @type {any} */ (value));
  const options = KNOWN_AS_OPTIONS.map((name) => Object(value)[name]).find(isChoices);
  if (options)
    return buttons(
      options.map((/** @type {unknown} */ one) => [one, asText(one)]),
      pick,
    );
  return free();
}

/** @param {unknown} value */
function isChoices(value) {
  const plain = (/** @type {unknown} */ one) =>
    ["string", "number", "boolean"].includes(typeof one);
  return Array.isArray(value) && value.length > 0 && value.length <= 12 && value.every(plain);
}

/**
 * One of several known answers: at once, or as a choice among other questions.
 *
 * @param {[unknown, string][]} choices
 * @param {Pick | null} pick
 * @returns {Answer}
 */
function buttons(choices, pick) {
  if (pick === null) return radios(choices);
  const made = choices.map(([value, label], index) => {
    const kind = index === 0 ? "primary" : "quiet";
    const button = h("button", { type: "button", class: kind, "data-pick": true }, label);
    button.addEventListener("click", () => pick(value));
    return button;
  });
  return { element: h("div", { class: "choices" }, ...made), read: () => choices[0][0] };
}

let groups = 0;

/**
 * @param {[unknown, string][]} choices
 * @returns {Answer}
 */
function radios(choices) {
  const name = `choice-${++groups}`;
  const inputs = choices.map((_, index) =>
    h("input", { type: "radio", name, value: index, checked: index === 0 }),
  );
  const labels = inputs.map((input, index) => h("label", {}, input, choices[index][1]));
  const read = () => choices[inputs.findIndex((input) => input.checked)][0];
  return { element: h("div", { class: "choices" }, ...labels), read };
}

/**
 * Any answer: text, or JSON.
 *
 * @returns {Answer}
 */
function free() {
  const text = h("textarea", { rows: "2", "aria-label": "Answer" });
  const json = h("input", { type: "checkbox" });
  json.addEventListener("change", () => text.classList.toggle("mono", json.checked));
  const read = () => (json.checked ? parsed(text, "Answer") : text.value);
  const element = h("div", {}, text, h("label", { class: "as-json" }, json, "as JSON"));
  return { element, read };
}

// --- reviews of tool calls --------------------------------------------------------------------------
// What HumanInTheLoopMiddleware of LangChain 1 asks, and what it takes for an answer.

const REVIEW = ["action_requests", "review_configs"];
/** The decisions that there are; a review names those that it takes. */
const DECISIONS = { approve: "Approve", edit: "Edit", reject: "Reject" };

/** @param {any} value */
function isReview(value) {
  return Array.isArray(value?.action_requests) && value.action_requests.length > 0;
}

/**
 * A decision about each of the actions.
 *
 * @param {{action_requests: any[], review_configs?: any[]}} value
 * @returns {Answer}
 */
function review({ action_requests: actions, review_configs: configs }) {
  const decisions = actions.map((action, index) =>
    decision(action, allowed(action, configs, index)),
  );
  return {
    element: h("div", {}, ...decisions.map(({ element }) => element)),
    read: () => ({ decisions: decisions.map(({ read }) => read()) }),
  };
}

/**
 * @param {any} action
 * @param {any} configs
 * @param {number} index
 * @returns {[string, string][]}
 */
function allowed(action, configs, index) {
  const all = Array.isArray(configs) ? configs : [];
  const config = all.find((one) => one?.action_name === action?.name) ?? all[index];
  const named = Object.entries(DECISIONS).filter(([type]) =>
    (config?.allowed_decisions ?? ["approve", "reject"]).includes(type),
  );
  return named.length > 0 ? named : Object.entries(DECISIONS);
}

/**
 * @param {any} action
 * @param {[string, string][]} types
 * @returns {Answer}
 */
function decision(action, types) {
  const name = String(action?.name ?? "action");
  const given = asText(action?.args ?? action?.arguments ?? {});
  const choice = radios(types);
  const reason = h("input", {
    type: "text",
    placeholder: "Why not? (optional)",
    "aria-label": `Reason to reject ${name}`,
  });
  const shown = h("pre", { class: "value", tabindex: "0" }, given);
  const edited = h("textarea", {
    class: "mono",
    rows: "3",
    spellcheck: "false",
    "aria-label": `Arguments of ${name}`,
  });
  edited.value = given;
  const update = () => {
    const type = choice.read();
    reason.hidden = type !== "reject";
    edited.hidden = type !== "edit";
    shown.hidden = type === "edit";
  };
  update();
  const element = h(
    "div",
    { class: "action", onchange: update },
    h("p", {}, h("strong", {}, name)),
    action?.description && h("p", {}, String(action.description)),
    shown,
    edited,
    choice.element,
    reason,
  );
  const read = () => {
    const type = choice.read();
    if (type === "edit") return { type, edited_action: { name, args: parsed(edited, name) } };
    return type === "reject" && reason.value !== "" ? { type, message: reason.value } : { type };
  };
  return { element, read };
}
