/**
 * The playground: a page to talk to the graphs of a route with. Everything on the socket is done by
 * client.js; here it is decided what the page shows of it.
 *
 * @module
 */

import { connect } from "./client.js";
import { Conversation, isSendKey } from "./playground-conversation.js";
import { byId, duration, h, keyed, setText } from "./playground-dom.js";
import { Drawing } from "./playground-drawing.js";
import { formFor, readForm } from "./playground-forms.js";
import { Inspector } from "./playground-inspector.js";
import { Follower, Panels } from "./playground-layout.js";
import { Questions } from "./playground-questions.js";
import { addressOf, ThreadList } from "./playground-threads.js";
import { editPoint, isActive, Turns } from "./playground-turns.js";

/** @import { Client, ConnectionState, MessageView, Run, StepView, Thread } from "./client.js" */
/**
 * What the server says of a graph.
 *
 * @typedef {{name: string, chat: boolean, input_schema: any, nodes: {id: string, name: string}[],
 *   edges: {source: string, target: string, conditional: boolean}[]}} Graph
 */

const TOKEN_KEY = `langgraph_ws token ${location.pathname}`;
/** Close codes that a new token helps against, and what to say about the last one. */
const TOKEN_CODES = new Map([
  [4401, "This token is not accepted."],
  [4403, "This token is another user's. Enter it again to go on as that one."],
  [4408, "The server has waited for a token in vain."],
  [4440, "The token has expired."],
]);
const NOTICE_MS = 8_000;
const SPOKEN = 1_000;

class Playground {
  /** @type {Client | null} */
  #client = null;
  /** Resolves when it is known what is served here, or that this cannot be known. */
  #beginning = Promise.resolve();
  /** @type {Thread | null} */
  #thread = null;
  /** @type {() => void} */
  #unsubscribe = () => {};
  /** @type {Graph[]} */
  #graphs = [];
  /** @type {Graph | null} */
  #graph = null;
  /** @type {() => unknown} */
  #readInput = () => null;
  /** What is on its way to the server. @type {string | null} */
  #pending = null;
  /** Whether the server has said what it knows of the thread that is open. */
  #attached = false;
  #drawing = false;
  #status = "idle";
  /** What this page has begun. @type {Map<string, Run>} */
  #runs = new Map();
  /** And with what. @type {Map<string, unknown>} */
  #inputs = new Map();
  /** @type {Map<string, Map<string, unknown>>} */
  #custom = new Map();
  #noticeTimer = 0;

  constructor() {
    this.panels = new Panels();
    this.follower = new Follower();
    this.inspector = new Inspector();
    this.picture = new Drawing();
    this.turns = new Turns();
    this.threads = new ThreadList(location.pathname, (id) => this.#removed(id));
    this.conversation = new Conversation({
      onEdit: (message, text) => this.#fork(message, text),
      onContinue: () => void this.#start("", (thread) => thread.resumeChat()),
      onAskAgain: (text) => void this.#send(text),
      inputOf: (runId) => this.#inputs.get(runId),
      onRemove: (runId) =>
        void this.#runs
          .get(runId)
          ?.cancel()
          .catch((error) => this.#failed(error)),
      customOf: (runId) => this.#custom.get(runId) ?? new Map(),
    });
    this.questions = new Questions(
      (answers) => this.#answer(answers),
      (message) => this.#notice(message),
    );
    this.#listen();
  }

  #listen() {
    const text = byId("composer-text");
    byId("composer").addEventListener("submit", (/** @type {Event} */ event) => {
      event.preventDefault();
      void this.#send(text.value.trim());
    });
    text.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      if (!isSendKey(event)) return;
      event.preventDefault();
      byId("composer").requestSubmit();
    });
    text.addEventListener("input", () => this.#fit());
    byId("input-form").addEventListener("submit", (/** @type {Event} */ event) => {
      event.preventDefault();
      void this.#runInput();
    });
    byId("stop").addEventListener("click", () => void this.#stop());
    byId("reconnect").addEventListener("click", () => this.#reconnect());
    byId("new-chat").addEventListener("click", () => this.#newChat());
    byId("graph").addEventListener("change", () => this.#choose(byId("graph").value));
    byId("sign-in-form").addEventListener("submit", () => this.#signedIn());
    byId("sign-in").addEventListener("cancel", (/** @type {Event} */ event) =>
      event.preventDefault(),
    );
    byId("thread-list").addEventListener("click", () => this.panels.closeDrawer());
    byId("skip").addEventListener("click", (/** @type {Event} */ event) => {
      event.preventDefault();
      this.#firstField()?.focus();
    });
    addEventListener("hashchange", () => this.#open());
    document.addEventListener("keydown", (event) => this.#key(event));
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (event.key !== "Escape" || event.defaultPrevented) return;
    if (document.querySelector("dialog[open]") !== null) return;
    if (this.panels.closeDrawer()) return;
    if (isActive(this.#status)) void this.#stop();
  }

  // -- beginning ---------------------------------------------------------------------------------

  /** Ask what is served here, and connect. */
  begin() {
    this.#beginning = this.#begin();
  }

  async #begin() {
    const token = sessionStorage.getItem(TOKEN_KEY) ?? undefined;
    const answer = await this.#describe(token);
    if (answer === null) return;
    if (answer.status === 401) {
      this.#signIn(token === undefined ? "" : "This token was not accepted.");
      return;
    }
    if (!answer.ok) {
      const text = (await answer.text()).trim();
      this.#connection("closed", text || `The server answered ${answer.status}`, true);
      return;
    }
    const { graphs, examples } = await answer.json();
    this.#graphs = graphs;
    this.#offerGraphs();
    this.#offerExamples(examples);
    this.#connect(token);
    this.#open();
  }

  /** @param {string | undefined} token */
  async #describe(token) {
    const headers = token === undefined ? undefined : { Authorization: `Bearer ${token}` };
    try {
      // The page's own query goes along: the application may look for credentials in it.
      return await fetch(new URL(`graphs${location.search}`, import.meta.url), { headers });
    } catch {
      this.#connection("closed", "The server cannot be reached", true);
      return null;
    }
  }

  #offerGraphs() {
    const names = this.#graphs.map(({ name }) => name);
    byId("graph").replaceChildren(...names.map((name) => h("option", { value: name }, name)));
    byId("graph-choice").hidden = names.length < 2;
    this.threads.several = names.length > 1;
    byId("graph-name").classList.toggle("unseen", names.length > 1);
  }

  /** @param {string[]} examples */
  #offerExamples(examples) {
    const offered = examples.map((text) => {
      const onclick = () => void this.#send(text).then(() => byId("composer-text").focus());
      return h("li", {}, h("button", { type: "button", class: "quiet", onclick }, text));
    });
    byId("examples").replaceChildren(...offered);
  }

  /** @param {string | undefined} token */
  #connect(token) {
    const { href } = new URL(location.pathname + location.search, location.href);
    this.#client = connect(href, {
      token,
      reconnect: { maxAttempts: null, maxDelayMs: 10_000 },
      onState: (state) => this.#stateChanged(state),
      onWire: (direction, message) => this.inspector.add(direction, message),
      onChange: (_, thread) => {
        if (thread === this.#thread) this.#later();
      },
      onGap: ({ reason, thread_id: threadId }) => {
        const lost = reason === "epoch" || reason === "unknown";
        if (lost && threadId === this.#thread?.threadId) this.turns.losing(this.#thread.view);
      },
      onSnapshot: ({ thread_id: threadId }) => {
        if (threadId === this.#thread?.threadId) this.turns.replaced(this.#thread.view);
      },
      onCustom: (name, data, { run_id: runId }) => this.#told(runId, name, data),
    });
  }

  /** @param {ConnectionState} state */
  #stateChanged(state) {
    if (state.status === "reconnecting") {
      const wait = state.delayMs > 999 ? ` in ${Math.round(state.delayMs / 1_000)} s` : "";
      this.#connection("reconnecting", `Reconnecting, attempt ${state.attempt}${wait}`, true);
    } else if (state.status === "closed") {
      this.#connection("closed", `Closed: ${state.reason || "no reason was given"}`, true);
      const wrong = TOKEN_CODES.get(state.error?.code ?? 0);
      if (wrong !== undefined) this.#signIn(wrong);
    } else {
      this.#connection(state.status, state.status === "open" ? "Connected" : "Connecting", false);
    }
  }

  /**
   * @param {string} status
   * @param {string} text
   * @param {boolean} again whether to offer to try again
   */
  #connection(status, text, again) {
    byId("connection").dataset.status = status;
    setText(byId("connection-text"), text);
    byId("reconnect").hidden = !again;
  }

  #reconnect() {
    // The button goes away; the focus must not go with it.
    this.#firstField()?.focus();
    if (this.#client?.state.status === "reconnecting") this.#client.reconnectNow();
    else this.#again();
  }

  #again() {
    void this.#client?.close();
    this.#client = null;
    this.#leave();
    this.begin();
  }

  /** @param {string} wrong why the last token did not do */
  #signIn(wrong) {
    sessionStorage.removeItem(TOKEN_KEY);
    this.#connection("closed", "A token is needed", false);
    setText(byId("token-wrong"), wrong);
    if (!byId("sign-in").open) byId("sign-in").showModal();
    byId("token").focus();
  }

  #signedIn() {
    const token = byId("token").value.trim();
    byId("token").value = "";
    if (token !== "") sessionStorage.setItem(TOKEN_KEY, token);
    this.#again();
  }

  // -- which conversation ------------------------------------------------------------------------

  /** The conversation that the address names; none: a new one. */
  get #address() {
    return new URLSearchParams(location.hash.slice(1)).get("thread") || null;
  }

  /** Open what the address names. */
  #open() {
    const id = this.#address;
    if (this.#client === null || (id !== null && id === this.#thread?.threadId)) return;
    this.#leave();
    this.#use(this.#graphNamed(id === null ? null : (this.threads.find(id)?.graph ?? null)));
    if (id !== null) this.#attach(id);
    this.threads.show(id);
    this.#draw();
    this.follower.toEnd();
    if (matchMedia("(pointer: fine)").matches) this.#firstField()?.focus();
  }

  /** @param {string} id */
  #attach(id) {
    try {
      const thread = /** @type {Client} */ (this.#client).thread(id);
      this.#follow(thread);
      thread.ready.then(
        () => {
          this.#attached ||= thread === this.#thread;
          this.#later();
        },
        (error) => this.#failed(error),
      );
    } catch {
      // The address is no id of a thread.
      location.hash = "";
    }
  }

  /** @param {Thread} thread */
  #follow(thread) {
    if (this.#thread === thread) return;
    this.#leave();
    this.#thread = thread;
    this.#unsubscribe = thread.subscribe(() => this.#later());
  }

  #leave() {
    if (this.#thread !== null) this.questions.forget();
    this.#unsubscribe();
    const { state } = this.#client ?? {};
    if (state && state.status !== "closed") this.#thread?.detach().catch(() => {});
    this.#unsubscribe = () => {};
    this.#thread = null;
    this.#pending = null;
    this.#attached = false;
    this.turns.forget();
    this.#status = "idle";
  }

  #newChat() {
    this.panels.closeDrawer();
    if (location.hash === "") this.#open();
    else location.hash = "";
    this.#firstField()?.focus();
  }

  #firstField() {
    const form = this.#graph?.chat === false ? byId("input-form") : byId("composer");
    return form.querySelector("textarea, input, select");
  }

  /** @param {string} id */
  #removed(id) {
    if (id === this.#thread?.threadId) this.#newChat();
  }

  // -- which graph -------------------------------------------------------------------------------

  /** @param {string | null} name */
  #graphNamed(name) {
    return this.#graphs.find((graph) => graph.name === name) ?? this.#graph ?? this.#graphs[0];
  }

  /** @param {string} name */
  #choose(name) {
    this.#use(this.#graphNamed(name));
    // A conversation stays with its graph.
    if (this.#thread !== null) this.#newChat();
    else this.#draw();
  }

  /** @param {Graph} graph */
  #use(graph) {
    if (graph === this.#graph) return;
    this.#graph = graph;
    byId("graph").value = graph.name;
    setText(byId("graph-name"), graph.name);
    this.picture.show(graph);
    byId("composer").hidden = !graph.chat;
    byId("input-form").hidden = graph.chat;
    if (!graph.chat) this.#buildInput(graph);
  }

  /** @param {Graph} graph */
  #buildInput({ input_schema: schema }) {
    const { element, read } = formFor(schema ?? {}, "Input");
    this.#readInput = read;
    const stop = h(
      "button",
      { type: "button", class: "quiet", id: "stop-input", hidden: true },
      "Stop",
    );
    stop.addEventListener("click", () => void this.#stop());
    const run = h("button", { type: "submit", class: "primary" }, "Run");
    byId("input-form").replaceChildren(element, h("div", { class: "buttons" }, stop, run));
  }

  // -- what the user does ------------------------------------------------------------------------

  /** @param {string} text */
  async #send(text) {
    if (text === "" || this.#pending !== null) return;
    byId("composer-text").value = "";
    this.#fit();
    this.#pending = text;
    this.#later();
    const begun = await this.#start(text, null, { messages: text });
    if (begun || byId("composer-text").value !== "") return;
    byId("composer-text").value = text;
    this.#fit();
  }

  /** @param {Record<string, unknown>} answers by the ids of what is asked */
  async #answer(answers) {
    const given = Object.values(answers);
    // An answer is no message of the thread: what was said is known to this page alone.
    const said = given.length === 1 ? given[0] : given;
    await this.#start("", (thread) => thread.answer(answers), { input: said });
  }

  async #runInput() {
    const form = byId("input-form");
    const read = readForm(form, this.#readInput, (message) => this.#notice(message));
    if (read === null || this.#pending !== null) return;
    if (read.value === null || read.value === undefined) {
      this.#notice("The input must not be null.");
      return;
    }
    const { value: input } = read;
    const title = Object.values(Object(input)).find((value) => typeof value === "string");
    await this.#start(title || JSON.stringify(input), null, { input });
  }

  /**
   * Begin a run.
   *
   * @param {string} title of the conversation, if it is a new one
   * @param {((thread: Thread) => Promise<Run>) | null} begin null: the next turn
   * @param {import("./client.js").NewChatOptions} [turn]
   * @returns {Promise<boolean>} whether the server has taken it
   */
  async #start(title, begin, turn = {}) {
    // The page can be used before it knows what it shows.
    await this.#beginning;
    const client = this.#client;
    const thread = this.#thread;
    if (client === null || this.#graph === null) {
      this.#pending = null;
      this.#notice("There is no connection yet.");
      return false;
    }
    this.#notice("");
    this.follower.toEnd();
    this.#later();
    const options = { ...turn, threadId: thread?.threadId, assistantId: this.#graph.name };
    try {
      const run = await (begin && thread ? begin(thread) : client.newChat(options));
      this.#runs.set(run.runId, run);
      this.#inputs.set(run.runId, turn.input ?? turn.messages);
      this.#began(run, title, thread);
      return true;
    } catch (error) {
      this.#failed(error);
      return false;
    } finally {
      if (this.#thread === thread || thread === null) this.#pending = null;
      this.#later();
    }
  }

  /**
   * @param {Run} run
   * @param {string} title
   * @param {Thread | null} before the thread that was open when it was asked for
   */
  #began(run, title, before) {
    run.result().catch(() => {});
    const known = this.threads.find(run.threadId);
    this.threads.note(run.threadId, title || known?.title || "", this.#graph?.name ?? null);
    // The user may have gone elsewhere meanwhile.
    if (this.#thread !== before) return;
    this.#follow(run.thread);
    const address = addressOf(run.threadId);
    if (location.hash !== address) history.pushState(null, "", address);
    this.threads.show(run.threadId);
  }

  /**
   * Say something else in the place of a message: from the checkpoint before it, or where there is
   * none, in a new conversation.
   *
   * @param {MessageView} message
   * @param {string} text
   */
  async #fork(message, text) {
    const checkpointId = editPoint(message, this.#thread?.view);
    if (checkpointId !== null) {
      return this.#start("", (thread) => thread.resumeChat({ messages: text, checkpointId }));
    }
    this.#leave();
    this.#pending = text;
    return this.#start(text, null, { messages: text });
  }

  async #stop() {
    try {
      await this.#thread?.cancel();
      this.#later();
    } catch (error) {
      this.#failed(error);
    }
  }

  // -- what the page shows -----------------------------------------------------------------------

  /**
   * @param {string} runId
   * @param {string} name
   * @param {unknown} data
   */
  #told(runId, name, data) {
    const events = this.#custom.get(runId) ?? new Map();
    this.#custom.set(runId, events.set(name, data));
  }

  /** Draw, once for all that happens before the next frame of the screen. */
  #later() {
    if (this.#drawing) return;
    this.#drawing = true;
    // Not requestAnimationFrame: a tab in the background would fall behind, and its title with it.
    setTimeout(() => {
      this.#drawing = false;
      this.#draw();
    }, 16);
  }

  #draw() {
    const view = this.#thread?.view ?? null;
    const served = this.#graphs.find(({ name }) => name === view?.run?.graph);
    if (served !== undefined) this.#use(served);
    const turns = this.turns.of(view);
    this.conversation.show(turns, view, this.#pending);
    const asked = view?.interrupts ?? [];
    this.questions.show(asked);
    byId("composer-text").placeholder = asked.length > 0 ? "Or write a message" : "Write a message";
    this.picture.light(view?.steps ?? []);
    showSteps(view?.steps ?? []);
    this.#showWelcome(turns.length === 0 && !view?.queued.length);
    this.#showStatus(view?.queued.length ? "queued" : (view?.status ?? "idle"));
    this.#nameThread();
    this.follower.follow();
  }

  /** @param {boolean} empty */
  #showWelcome(empty) {
    const forgotten = this.#attached;
    const shown = empty && this.#pending === null && (this.#thread === null || forgotten);
    byId("welcome").hidden = !shown;
    if (!shown || this.#graph === null) return;
    const { chat, name } = this.#graph;
    const title = forgotten ? "Nothing is left of this conversation" : `Talk to ${name}`;
    setText(byId("welcome-title"), !forgotten && !chat ? `Run ${name}` : title);
    const hint = chat ? "Write a message below." : "Fill in its input below.";
    const gone = "The server does not remember it. What you say now begins it anew.";
    setText(byId("welcome-text"), forgotten ? gone : hint);
    byId("examples").hidden = !chat || forgotten;
  }

  /** @param {string} status */
  #showStatus(status) {
    const active = isActive(status) || this.#pending !== null;
    byId("stop").hidden = !active;
    const stopInput = document.getElementById("stop-input");
    if (stopInput !== null) stopInput.hidden = !active;
    document.body.classList.toggle("active", active);
    if (isActive(this.#status) && !isActive(status)) this.#announce(status);
    this.#status = status;
    const title = this.#thread === null ? null : this.threads.find(this.#thread.threadId)?.title;
    const name = title ?? this.#graph?.name ?? "Playground";
    document.title = `${active ? "● " : ""}${name}`;
  }

  /**
   * Say how a run ended to those who do not see it.
   *
   * @param {string} status
   */
  #announce(status) {
    const run = this.#thread?.view.run;
    const said = { interrupted: "The graph asks for an answer.", idle: "Run lost." }[status];
    const text = status === "completed" ? (run?.text ?? "") : "";
    setText(byId("announcer"), `${text.slice(0, SPOKEN)} ${said ?? `Run ${status}.`}`.trim());
  }

  /** A conversation that another tab or the application began gets its title from its first words. */
  #nameThread() {
    const thread = this.#thread;
    const first = thread?.view.messages.find(({ role }) => role === "user");
    if (!thread || !first || this.threads.find(thread.threadId) !== null) return;
    this.threads.note(thread.threadId, first.text, thread.view.run?.graph ?? null);
  }

  /** Let the field grow with what is written in it. */
  #fit() {
    const text = byId("composer-text");
    text.style.height = "auto";
    text.style.height = `${Math.min(text.scrollHeight, 200)}px`;
  }

  /** @param {unknown} error */
  #failed(error) {
    const text = error instanceof Error ? error.message : String(error);
    this.#notice(text.slice(0, 1).toUpperCase() + text.slice(1));
  }

  /** @param {string} text */
  #notice(text) {
    clearTimeout(this.#noticeTimer);
    byId("notice").hidden = text === "";
    setText(byId("notice"), text);
    if (text !== "") this.#noticeTimer = setTimeout(() => this.#notice(""), NOTICE_MS);
  }
}

/** @param {readonly StepView[]} steps */
function showSteps(steps) {
  byId("no-steps").hidden = steps.length > 0;
  keyed(
    byId("steps"),
    steps,
    (step, index) => `${index} ${step.taskId}`,
    ({ namespace, step }) =>
      h(
        "li",
        { class: namespace.length > 0 ? "inner" : "" },
        h("span", { class: "mark", "aria-hidden": "true" }),
        h("span", { class: "step" }, step),
        h("span", { class: "took" }),
      ),
    (element, { status, durationMs }) => {
      element.dataset.state = status;
      const took = status === "started" ? "running" : duration(durationMs) || status;
      setText(/** @type {Element} */ (element.lastElementChild), took);
    },
  );
}

new Playground().begin();
