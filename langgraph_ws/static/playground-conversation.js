/**
 * The conversation: the view of a thread, as elements. What has not changed stays as it is, so that
 * what a reader has unfolded or selected survives the next word.
 *
 * @module
 */

import {
  asLine,
  asText,
  byId,
  duration,
  h,
  keyed,
  link,
  safeUrl,
  setText,
} from "./playground-dom.js";
import { showMarkdown } from "./playground-markdown.js";
import { editPoint, isActive } from "./playground-turns.js";

/** @import { BlockView, MessageView, RunView, Source, StepView, ThreadView, ToolCallView } from "./client.js" */
/** @import { Loss, Turn } from "./playground-turns.js" */

const LOST_RUN = "The server was restarted in the middle of this run, which is lost.";
const LOST_THREAD = "The server no longer knows what was said here.";
const ANEW = "You can go on, but the graph begins anew: it remembers nothing of what is above.";
const ELSEWHERE =
  "The graph keeps no checkpoint before this message: it begins a new conversation.";
const REPLACED = "What was said from here on is replaced.";
const NO_OUTPUT = "It is done. The server does not show what came out (expose_output).";
const IMAGES = new Set(["image/png", "image/jpeg", "image/gif", "image/webp"]);

/** The conversation in the page. */
export class Conversation {
  #turns = byId("turns");
  #waiting = byId("waiting");
  #pending = byId("pending");

  /**
   * @param {object} hooks
   * @param {(message: MessageView, text: string) => Promise<boolean>} hooks.onEdit
   * @param {() => void} hooks.onContinue
   * @param {(text: string) => void} hooks.onAskAgain
   * @param {(runId: string) => void} hooks.onRemove
   * @param {(runId: string) => unknown} hooks.inputOf what this page gave to a run; undefined: not known
   * @param {(runId: string) => ReadonlyMap<string, unknown>} hooks.customOf
   */
  constructor(hooks) {
    this.hooks = hooks;
  }

  /**
   * @param {readonly (Turn | Loss)[]} turns
   * @param {ThreadView | null} view null: nothing was said yet
   * @param {string | null} pending what is on its way to the server
   */
  show(turns, view, pending) {
    keyed(
      this.#turns,
      turns,
      ({ key }) => key,
      (item) => ("run" in item ? turn() : this.#loss(item)),
      (element, item) => {
        if ("run" in item) this.#updateTurn(element, item, /** @type {ThreadView} */ (view));
        else /** @type {HTMLElement} */ (element.lastElementChild).hidden = !item.last;
      },
    );
    keyed(
      this.#waiting,
      view?.queued ?? [],
      ({ runId }) => runId,
      (run) => this.#queued(run),
    );
    keyed(
      this.#pending,
      pending === null ? [] : [pending],
      (text) => text,
      (text) => h("div", { class: "user pending" }, text),
    );
  }

  /**
   * A run that waits for its turn; what it has been asked, only the page knows that has begun it.
   *
   * @param {RunView} run
   */
  #queued({ runId }) {
    const input = this.hooks.inputOf(runId);
    const onclick = () => this.hooks.onRemove(runId);
    return h(
      "div",
      { class: "user-row" },
      h("div", { class: "user pending" }, input === undefined ? "…" : asText(input)),
      input !== undefined && h("button", { type: "button", class: "link", onclick }, "Remove"),
      h("span", { class: "hint" }, "Waits for its turn"),
    );
  }

  /**
   * Says that the server has lost something, and how the user can go on.
   *
   * @param {Loss} loss
   */
  #loss({ running, asked, known }) {
    const button = (/** @type {string} */ label, /** @type {() => void} */ onclick) =>
      h("button", { type: "button", class: "quiet", onclick }, label);
    const again = asked && button("Send it again", () => this.hooks.onAskAgain(asked));
    return h(
      "div",
      { class: "loss" },
      h("p", {}, h("strong", {}, running ? LOST_RUN : LOST_THREAD)),
      !known && h("p", {}, running ? `${LOST_THREAD} ${ANEW}` : ANEW),
      h("div", {}, known ? button("Continue", this.hooks.onContinue) : again),
    );
  }

  /**
   * @param {HTMLElement} element
   * @param {Turn} turn
   * @param {ThreadView} view
   */
  #updateTurn(element, turn, view) {
    const [given, said, loose, events, found, result, outcome] = element.children;
    const { run, messages } = turn;
    if (run !== null) this.#showInput(given, run, messages);
    keyed(
      said,
      messages,
      ({ id }) => id,
      (message) => (message.role === "user" ? this.#user(message, view) : assistant()),
      (child, message) => {
        if (message.role === "user") this.#updateUser(child, message, view);
        else updateAssistant(child, message, run);
      },
    );
    if (run === null) return;
    keyed(
      loose,
      run.toolCalls.filter((call) => call.messageId === null),
      callKey,
      tool,
      (element, call) => updateTool(element, call, !isActive(run.status)),
    );
    showEvents(events, this.hooks.customOf(run.runId));
    showSources(found, run.sources);
    showResult(result, run);
    if (!turn.gone || run.status !== "lost") this.#showOutcome(outcome, run, turn.last);
  }

  /**
   * @param {Element} parent
   * @param {RunView} run
   * @param {readonly MessageView[]} messages
   */
  #showInput(parent, run, messages) {
    const input = this.hooks.inputOf(run.runId);
    if (input === undefined || messages.some(({ role }) => role === "user")) {
      parent.replaceChildren();
      return;
    }
    if (parent.children.length > 0) return;
    parent.append(
      typeof input === "string"
        ? h("div", { class: "user" }, input)
        : h("pre", { class: "user input", tabindex: "0" }, asText(input)),
    );
  }

  // -- the user's messages, and editing them

  /**
   * @param {MessageView} message
   * @param {ThreadView} view
   */
  #user(message, view) {
    const edit = h("button", { type: "button", class: "link edit" }, "Edit");
    const element = h(
      "div",
      { class: "user-row" },
      h("div", { class: "user" }, message.text),
      edit,
    );
    edit.addEventListener("click", () => this.#edit(element, message, view));
    return element;
  }

  /**
   * @param {HTMLElement} element
   * @param {MessageView} message
   * @param {ThreadView} view
   */
  #updateUser(element, message, view) {
    if (element.classList.contains("editing")) return;
    setText(/** @type {Element} */ (element.querySelector(".user")), message.text);
    const edit = /** @type {HTMLButtonElement} */ (element.querySelector(".edit"));
    const editable = editPoint(message, view) !== null || message === view.messages[0];
    edit.hidden = !editable || isActive(view.status);
  }

  /**
   * @param {HTMLElement} row
   * @param {MessageView} message
   * @param {ThreadView} view
   */
  #edit(row, message, view) {
    const field = h("textarea", { rows: "2", "aria-label": "Edit the message" });
    field.value = message.text;
    const cancel = h("button", { type: "button", class: "quiet" }, "Cancel");
    const elsewhere = editPoint(message, view) === null;
    const label = elsewhere ? "Send in a new conversation" : "Send again";
    const send = h("button", { type: "submit", class: "primary" }, label);
    const buttons = h("div", { class: "buttons" }, cancel, send);
    const hint = h("p", { class: "hint" }, elsewhere ? ELSEWHERE : REPLACED);
    const form = h("form", { class: "edit-form" }, field, hint, buttons);
    const close = () => {
      form.remove();
      row.classList.remove("editing");
      this.#updateUser(row, message, view);
      /** @type {HTMLElement} */ (row.querySelector(".edit")).focus();
    };
    cancel.addEventListener("click", close);
    form.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        event.stopPropagation();
        close();
      } else if (isSendKey(event)) {
        event.preventDefault();
        form.requestSubmit();
      }
    });
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const text = field.value.trim();
      if (text !== "" && (await this.hooks.onEdit(message, text)) && form.isConnected) close();
    });
    row.classList.add("editing");
    row.append(form);
    field.focus();
  }

  // -- how a run stands

  /**
   * @param {Element} parent
   * @param {RunView} run
   * @param {boolean} last
   */
  #showOutcome(parent, run, last) {
    this.#writeOutcome(parent, run, last);
    showNodes(parent, run);
  }

  /**
   * @param {Element} parent
   * @param {RunView} run
   * @param {boolean} last
   */
  #writeOutcome(parent, run, last) {
    const key = JSON.stringify([run.status, run.error, run.final?.execution_time_ms, last]);
    if (parent.getAttribute("data-shown") === key) return;
    parent.setAttribute("data-shown", key);
    parent.replaceChildren();
    const more = last && ["cancelled", "failed", "drained", "lost"].includes(run.status);
    const again = more
      ? h("button", { type: "button", class: "link", onclick: this.hooks.onContinue }, "Continue")
      : null;
    const { status } = run;
    if (isActive(status)) parent.append(working(status));
    else if (status === "completed") parent.append(h("p", { class: "run-state" }, summary(run)));
    else if (status === "cancelled") {
      parent.append(h("p", { class: "run-state" }, "Stopped.", again && " ", again));
    } else if (status !== "interrupted") parent.append(failure(run, again));
  }
}

/**
 * Whether a key press sends: Enter does, unless a line or a word is being written with it.
 *
 * @param {KeyboardEvent} event
 */
export function isSendKey(event) {
  return event.key === "Enter" && !event.shiftKey && !event.isComposing;
}

function turn() {
  return h(
    "article",
    { class: "turn" },
    h("div", { class: "given" }),
    h("div", { class: "said" }),
    h("div", { class: "loose" }),
    h("div", { class: "events" }),
    h("div", { class: "found" }),
    h("div", { class: "result" }),
    h("div", { class: "outcome" }),
  );
}

// --- the graph's messages ---------------------------------------------------------------------------

function assistant() {
  return h(
    "div",
    { class: "message" },
    h("p", { class: "where" }),
    h("div", { class: "blocks" }),
    h("p", { class: "run-state ended" }),
  );
}

/**
 * @param {HTMLElement} element
 * @param {MessageView} message
 * @param {RunView | null} run
 */
function updateAssistant(element, message, run) {
  const [where, blocks, ended] = element.children;
  const path = [...message.namespace.map((part) => part.split(":")[0]), message.node ?? ""];
  setText(where, path.filter(Boolean).join(" › "));
  const open = message.status === "open";
  element.classList.toggle("open", open);
  const shown = message.blocks.filter(
    (block) => block.kind === "tool_call" || block.kind === "media" || block.text.trim() !== "",
  );
  const last = shown[shown.length - 1];
  const over = run !== null && !isActive(run.status) && run.status !== "interrupted";
  keyed(
    blocks,
    shown,
    (block) => `${block.kind} ${block.index}`,
    (block) => BLOCKS[block.kind].make(block),
    (child, block) => BLOCKS[block.kind].update(child, block, open && block === last, over),
  );
  const stopped = message.status === "failed" || message.status === "cancelled";
  // The run says so itself, right below its last message.
  const said = run?.messages.at(-1) === message;
  setText(ended, stopped && !said ? `${message.status}` : "");
}

/**
 * @type {Record<BlockView["kind"], {make: (block: BlockView) => HTMLElement,
 *   update: (element: HTMLElement, block: BlockView, writing: boolean, over: boolean) => void}>}
 */
const BLOCKS = {
  text: {
    make: () => h("div", { class: "prose" }),
    update: (element, { text }, writing) => {
      showMarkdown(element, text);
      element.classList.toggle("writing", writing);
    },
  },
  reasoning: {
    make: () =>
      h("details", { class: "fold reasoning" }, h("summary", {}, ""), h("div", { class: "prose" })),
    update: (element, { text }, writing) => {
      const [head, body] = element.children;
      setText(head, writing ? "Thinking …" : "Thoughts");
      showMarkdown(body, text);
    },
  },
  tool_call: {
    make: () => tool(),
    update: (element, { toolCall }, _, over) => {
      if (toolCall !== null) updateTool(element, toolCall, over);
    },
  },
  media: { make: media, update: () => {} },
};

/** @param {BlockView} block */
function media({ content }) {
  const { type = "media", mime_type: mime, base64, url } = /** @type {any} */ (content ?? {});
  if (type === "image" && IMAGES.has(mime) && typeof base64 === "string") {
    return h("img", { class: "image", alt: "Image", src: `data:${mime};base64,${base64}` });
  }
  const name = `${type}${mime ? ` (${mime})` : ""}`;
  return h("p", { class: "media" }, safeUrl(url) === null ? name : link(url, name));
}

// --- tools --------------------------------------------------------------------------------------------

/** @param {ToolCallView} call */
function callKey(call, /** @type {number} */ index = 0) {
  return `call ${call.id ?? index}`;
}

function tool() {
  return h(
    "details",
    { class: "fold tool" },
    h(
      "summary",
      {},
      h("span", { class: "tool-name" }),
      h("span", { class: "tool-line" }),
      h("span", { class: "tool-state" }),
    ),
    h(
      "div",
      { class: "tool-body" },
      h("h3", {}, "Arguments"),
      h("pre", { tabindex: "0", class: "tool-arguments" }),
      h("h3", {}, "Result"),
      h("pre", { tabindex: "0", class: "tool-result" }),
    ),
  );
}

/**
 * @param {HTMLElement} element
 * @param {ToolCallView} call
 * @param {boolean} over whether its run has ended
 */
function updateTool(element, call, over) {
  const part = (/** @type {string} */ name) =>
    /** @type {HTMLElement} */ (element.querySelector(`.${name}`));
  const written = call.args ?? call.result?.input;
  const state = toolState(call, over);
  element.dataset.state = state.kind;
  setText(part("tool-name"), call.name ?? "tool");
  setText(part("tool-line"), call.args === null ? asLine(call.arguments) : inWords(call.args));
  setText(part("tool-state"), state.label);
  setText(part("tool-arguments"), written == null ? call.arguments : asText(written));
  setText(part("tool-result"), toolResult(call));
}

/** @param {Readonly<Record<string, unknown>>} args */
function inWords(args) {
  const parts = Object.entries(args).map(([name, value]) => `${name}: ${asLine(value, 60)}`);
  return asLine(parts.join(", "));
}

/** @param {ToolCallView} call */
function toolState({ status, result, error }, /** @type {boolean} */ over) {
  if (error !== null) return { kind: "error", label: "not valid" };
  if (over && (result === null || result.status === "running")) {
    return { kind: "waiting", label: status === "finished" ? "not finished" : "not called" };
  }
  if (result === null) {
    return status === "finished"
      ? { kind: "waiting", label: "called" }
      : { kind: "running", label: "writing …" };
  }
  if (result.status === "running") return { kind: "running", label: "at work …" };
  return result.status === "error"
    ? { kind: "error", label: "failed" }
    : { kind: "done", label: "done" };
}

/** @param {ToolCallView} call */
function toolResult({ result, error }) {
  if (result === null) return error ?? "—";
  if (result.status === "running") return result.output.map(asText).join("\n") || "…";
  return asText(result.content) || "—";
}

// --- what a run found, and how it ended -----------------------------------------------------------------

/**
 * @param {Element} parent
 * @param {ReadonlyMap<string, unknown>} events the newest of each name
 */
function showEvents(parent, events) {
  keyed(
    parent,
    [...events],
    ([name]) => name,
    ([name]) => h("p", { class: "event" }, h("span", { class: "event-name" }, name), h("span")),
    (element, [, data]) => setText(/** @type {Element} */ (element.lastElementChild), spoken(data)),
  );
}

/** @param {unknown} data */
function spoken(data) {
  if (data === null || typeof data !== "object" || Array.isArray(data)) return asLine(data);
  const parts = Object.entries(data).map(([name, value]) => `${name}: ${asLine(value, 60)}`);
  return asLine(parts.join(" · "), 200);
}

/**
 * @param {Element} parent
 * @param {readonly Source[]} sources
 */
function showSources(parent, sources) {
  if (sources.length === 0) {
    parent.replaceChildren();
    return;
  }
  if (parent.children.length === 0) {
    parent.append(h("h3", { class: "small" }, "Sources"), h("ol", { class: "sources" }));
  }
  const list = /** @type {Element} */ (parent.lastElementChild);
  keyed(
    list,
    sources,
    (source, index) => `${index} ${source.id}`,
    (source) => card(source),
  );
}

/** @param {Source} source */
function card({ id, title, url, snippet }) {
  const href = safeUrl(url);
  const name = String(title || id);
  const head = href === null ? h("span", { class: "title" }, name) : link(href, name);
  const host = href?.startsWith("http") ? new URL(href).hostname : "";
  return h(
    "li",
    { class: "source" },
    head,
    host && h("span", { class: "host" }, host),
    snippet && h("p", {}, String(snippet)),
  );
}

/**
 * The final state, where the server shows it and no message has said it.
 *
 * @param {Element} parent
 * @param {RunView} run
 */
function showResult(parent, run) {
  if (run.final === null || parent.children.length > 0) return;
  const { output } = run.final;
  if (output === undefined) {
    if (run.messages.length === 0) parent.append(h("p", { class: "run-state" }, NO_OUTPUT));
    return;
  }
  if (output !== null && typeof output === "object" && "messages" in output) return;
  parent.append(
    h("h3", { class: "small" }, "Result"),
    h("pre", { class: "value", tabindex: "0" }, asText(output)),
  );
}

/** @param {string} status */
function working(status) {
  const text = status === "cancelling" ? "Stopping" : "Working";
  return h(
    "p",
    { class: "run-state active" },
    h("span", { class: "pulse", "aria-hidden": "true" }),
    text,
    h("span", { class: "nodes" }),
  );
}

/**
 * Which nodes are at work; a subgraph is, too, but its nodes tell more.
 *
 * @param {Element} parent
 * @param {RunView} run
 */
function showNodes(parent, { steps }) {
  const nodes = parent.querySelector(".nodes");
  if (nodes === null) return;
  const open = steps.filter(({ status }) => status === "started");
  const holds = (/** @type {StepView} */ { step, taskId }) =>
    open.some(({ namespace }) => namespace.includes(`${step}:${taskId}`));
  const names = new Set(open.filter((step) => !holds(step)).map(({ step }) => step));
  setText(nodes, names.size > 0 ? ` · ${asLine([...names].join(", "), 80)}` : "");
}

/** @param {RunView} run */
function summary({ final, messages }) {
  const tokens = messages.reduce((sum, { usage }) => sum + (usage?.total_tokens ?? 0), 0);
  const parts = [duration(final?.execution_time_ms), tokens > 0 ? `${tokens} tokens` : ""];
  return parts.filter(Boolean).join(" · ") || "Done";
}

/**
 * @param {RunView} run
 * @param {HTMLElement | null} again
 */
function failure({ status, error }, again) {
  const said = error?.message ?? `The run was ${status}.`;
  const code = [error?.code, error?.error_id && `error ${error.error_id}`].filter(Boolean);
  return h(
    "div",
    { class: "failure" },
    h("p", {}, said, again && " ", again),
    code.length > 0 && h("p", { class: "hint" }, code.join(" · ")),
  );
}
