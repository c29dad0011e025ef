/**
 * The client of the chat protocol (see PROTOCOL.md) for browsers and Node 20 and later.
 *
 *     const client = connect("/ws");
 *     const run = await client.newChat("Hello", { onText: (text) => show(text) });
 *     await run.result();
 *
 * From the bottom up: errors, requests, the view of a thread (pure: messages in, what a page shows
 * out), the connection (a socket that mends itself, and knows nothing of threads), and the client
 * with its threads and runs. The types are in client.d.ts.
 *
 * @module
 */

/** @import * as api from "./client.js" */
/** @typedef {Record<string, any>} Json */

const SUBPROTOCOL = "langgraph-ws.chat.v1";
const ENDED = new Set(["completed", "interrupted", "cancelled", "failed", "drained", "lost"]);
const ACTIVE = new Set(["running", "cancelling"]);

// --- errors ---------------------------------------------------------------------------------------

/** The base of all errors of this module. */
export class ChatError extends Error {
  /**
   * @param {string} message
   * @param {ErrorOptions} [options]
   */
  constructor(message, options) {
    super(message, options);
    this.name = new.target.name;
  }
}

/** A request is wrong and was not sent; `field` is what is wrong. */
export class InvalidRequest extends ChatError {
  /**
   * @param {string} field
   * @param {string} expected
   */
  constructor(field, expected) {
    super(`${field}: ${expected}`);
    this.field = field;
  }
}

/** The server refused a request. */
export class RequestRefused extends ChatError {
  /** @param {api.Refusal} refusal */
  constructor({ code, message, retryable = false, field, retry_after_ms: retryAfterMs }) {
    super(message);
    this.code = code;
    this.retryable = retryable;
    this.field = field ?? null;
    this.retryAfterMs = retryAfterMs ?? null;
  }
}

/** A run failed, was drained, or was lost. */
export class RunFailedError extends ChatError {
  /**
   * @param {string} runId
   * @param {api.RunErrorData} error
   */
  constructor(runId, { code, message, retryable, error_id }) {
    super(message);
    this.runId = runId;
    this.code = code;
    this.retryable = retryable;
    this.errorId = error_id ?? null;
  }
}

/** A connection was lost, or could not be made; the client tries again. */
export class ConnectionLostError extends ChatError {
  /**
   * @param {string} message
   * @param {api.Loss} [loss]
   */
  constructor(message, { code = null, reason = "", httpStatus = null, cause } = {}) {
    super(message, cause === undefined ? undefined : { cause });
    this.code = code;
    this.reason = reason;
    this.httpStatus = httpStatus;
  }
}

/** The connection was given up (`cause` is the last loss), or the client closed. */
export class ConnectionFailedError extends ChatError {
  /**
   * @param {string} message
   * @param {api.Loss} [loss]
   */
  constructor(message, { code = null, reason = "", httpStatus = null, cause } = {}) {
    super(message, cause === undefined ? undefined : { cause });
    this.code = code;
    this.reason = reason;
    this.httpStatus = httpStatus;
  }
}

/** The server sent what is no message of the protocol. */
export class ProtocolError extends ChatError {}

/** The thread was detached while somebody waited. */
export class DetachedError extends ChatError {}

// --- requests -------------------------------------------------------------------------------------

const ID = /^[A-Za-z0-9_.:-]{1,128}$/;
const ROLES = ["user", "assistant", "tool"];
const STRATEGIES = ["enqueue", "reject", "interrupt", "rollback"];
const MAX_DEPTH = 100;
/** Numbers from here on are written with an exponent, which no one takes for an integer. */
const EXPONENT = 1e21;
const LONE_SURROGATE = /\p{Surrogate}/u;

/** What is called, and with what; see `Callbacks` in client.d.ts. */
const CALLBACK_NAMES = [
  ...["onRun", "onText", "onReasoning", "onMessage", "onToolCall", "onToolResult", "onSources"],
  ...["onWorkflowStep", "onInterrupt", "onInterruptAnswered", "onGraphState", "onCheckpoint"],
  ...["onCustom", "onRolledBack", "onAttempt", "onFinal", "onEnd", "onGap", "onSnapshot"],
  "onError",
];
const START_OPTIONS = ["assistantId", "runId", "multitaskStrategy", "options", "messages", "input"];
const NEW_CHAT_OPTIONS = [...START_OPTIONS, "threadId"];
const RESUME_OPTIONS = [...START_OPTIONS, "resume", "checkpointId", "update", "goto"];
const ATTACH_OPTIONS = ["after", "saved", "runId"];
const CONNECT_CALLBACKS = ["onState", "onChange", "onWire"];
const CONNECT_OPTIONS = [
  ...["token", "WebSocket", "reconnect", "heartbeatMs", "buffer", "clock", "random"],
  ...CONNECT_CALLBACKS,
];

/**
 * Refuse what is not as expected.
 *
 * @param {unknown} condition
 * @param {string} field
 * @param {string} expected
 * @returns {asserts condition}
 */
function ensure(condition, field, expected) {
  if (!condition) throw new InvalidRequest(field, expected);
}

/** @type {(value: unknown) => value is Json} */
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

/** @type {(value: unknown) => value is string} */
const isName = (value) => typeof value === "string" && value !== "";

/**
 * Refuse options that nobody knows, and callbacks that cannot be called.
 *
 * @param {unknown} options
 * @param {string[]} names those that there are beside the callbacks
 */
function checkOptions(options, names) {
  ensure(isObject(options), "options", "expected an object");
  const known = [...names, ...CALLBACK_NAMES];
  for (const [name, value] of Object.entries(options)) {
    if (value == null && known.includes(name)) continue;
    ensure(known.includes(name), name, `unknown: expected one of ${known.join(", ")}`);
    if (CALLBACK_NAMES.includes(name) || CONNECT_CALLBACKS.includes(name))
      ensure(typeof value === "function", name, `expected a function, got ${typeof value}`);
  }
}

/**
 * The callbacks among options.
 *
 * @param {Json} options
 * @returns {api.Callbacks}
 */
function callbacksOf(options) {
  return Object.fromEntries(
    Object.entries(options).filter(([name]) => CALLBACK_NAMES.includes(name)),
  );
}

/**
 * Refuse what `JSON.stringify` would leave out, change, or not take. A property that is undefined is
 * one that is not there; an object with `toJSON` says itself what it is.
 *
 * @param {unknown} value
 * @param {string} field
 * @param {unknown[]} [above] the objects around the value
 */
function checkJson(value, field, above = []) {
  if (value === null || typeof value === "boolean") return;
  if (typeof value === "string") {
    ensure(!LONE_SURROGATE.test(value), field, "expected text, got a lone surrogate in it");
  } else if (typeof value === "number") {
    ensure(Number.isFinite(value), field, `expected a finite number, got ${value}`);
    const exact = !Number.isInteger(value) || Number.isSafeInteger(value);
    ensure(
      exact || Math.abs(value) >= EXPONENT,
      field,
      "expected a whole number up to ±(2**53 - 1), or a string",
    );
  } else {
    ensure(typeof value === "object", field, `expected what JSON can hold, got ${typeof value}`);
    ensure(!above.includes(value), field, "expected a value that does not hold itself");
    ensure(above.length < MAX_DEPTH, field, `expected no more than ${MAX_DEPTH} levels`);
    checkObject(/** @type {any} */ (value), field, [...above, value]);
  }
}

/**
 * @param {any} value
 * @param {string} field
 * @param {unknown[]} above
 */
function checkObject(value, field, above) {
  if (typeof value.toJSON === "function") {
    ensure(!(value instanceof Date) || !isNaN(+value), field, "expected a date, got an invalid one");
    checkJson(value.toJSON(), field, above);
  } else if (Array.isArray(value)) {
    for (let index = 0; index < value.length; index++)
      checkJson(value[index], `${field}.${index}`, above);
  } else {
    const prototype = Object.getPrototypeOf(value);
    const isPlain = prototype === null || Object.getPrototypeOf(prototype) === null;
    const name = isPlain ? "" : (value.constructor?.name ?? "something else");
    ensure(isPlain, field, `expected plain data, got an object of the class ${name}`);
    for (const [key, item] of Object.entries(value))
      if (item !== undefined) checkJson(item, `${field}.${key}`, above);
  }
}

/**
 * @param {unknown} value
 * @param {string} field
 */
function checkJsonIfGiven(value, field) {
  if (value !== undefined) checkJson(value, field);
}

/**
 * @param {unknown} value
 * @param {string} field
 */
function ensureId(value, field) {
  const fits = typeof value === "string" && ID.test(value);
  ensure(fits, field, "expected 1 to 128 letters, digits, '_', '.', ':' and '-'");
}

/**
 * @param {unknown} value
 * @param {string} field
 */
function ensureNameIfGiven(value, field) {
  ensure(value === undefined || isName(value), field, "expected a string that is not empty");
}

/**
 * Messages as the protocol wants them, checked.
 *
 * @param {unknown} given a text, or a list of messages
 * @returns {Json[]}
 */
function inputMessages(given) {
  if (typeof given === "string") return [{ role: "user", content: given }];
  ensure(
    Array.isArray(given) && given.length > 0,
    "messages",
    "expected a text, or a list of messages that is not empty",
  );
  given.forEach((message, index) => checkMessage(message, `messages.${index}`));
  return given;
}

/**
 * @param {unknown} message
 * @param {string} field
 */
function checkMessage(message, field) {
  ensure(isObject(message), field, "expected an object with role and content");
  ensure(ROLES.includes(message.role), `${field}.role`, `expected one of ${ROLES.join(", ")}`);
  const { content, tool_calls: calls } = message;
  const blocks =
    Array.isArray(content) &&
    content.every((block) => isObject(block) && typeof block.type === "string");
  ensure(
    typeof content === "string" || blocks,
    `${field}.content`,
    "expected a string, or a list of content blocks (objects with a 'type')",
  );
  for (const name of ["id", "name", "tool_call_id"])
    ensureNameIfGiven(message[name] ?? undefined, `${field}.${name}`);
  ensure(
    message.role !== "tool" || isName(message.tool_call_id),
    `${field}.tool_call_id`,
    "missing: a message of a tool needs one",
  );
  ensure(
    calls == null || (Array.isArray(calls) && calls.every(isToolCall)),
    `${field}.tool_calls`,
    "expected a list of {name, args, id?}",
  );
  checkJson(message, field);
}

/** @param {unknown} call */
function isToolCall(call) {
  return (
    isObject(call) &&
    isName(call.name) &&
    isObject(call.args) &&
    (call.id == null || isName(call.id))
  );
}

/**
 * What `new_chat` and `resume_chat` share, checked.
 *
 * @param {api.NewChatOptions & api.ResumeChatOptions} options
 * @param {string[]} choices of which at most one may be given
 * @param {string[]} names of all options
 * @returns {Json}
 */
function startFields(options, choices, names) {
  checkOptions(options, names);
  const given = choices.filter((name) => /** @type {Json} */ (options)[name] !== undefined);
  ensure(given.length <= 1, given[1] ?? "", `expected only one of ${choices.join(", ")}`);
  ensure(options.input !== null, "input", "expected any JSON value but null");
  ensureNameIfGiven(options.assistantId, "assistantId");
  if (options.runId !== undefined) ensureId(options.runId, "runId");
  ensure(
    options.options === undefined || isObject(options.options),
    "options",
    "expected an object",
  );
  const strategy = options.multitaskStrategy;
  ensure(
    strategy === undefined || STRATEGIES.includes(strategy),
    "multitaskStrategy",
    `expected one of ${STRATEGIES.join(", ")}`,
  );
  checkJsonIfGiven(options.options, "options");
  checkJsonIfGiven(options.input, "input");
  return {
    // Chosen here, so that the server can tell a repetition from another run.
    run_id: options.runId ?? uuid(),
    assistant_id: options.assistantId,
    messages: options.messages === undefined ? undefined : inputMessages(options.messages),
    input: options.input,
    options: { ...options.options, multitask_strategy: strategy },
  };
}

/**
 * @param {api.NewChatOptions} options
 * @returns {Json}
 */
function newChatFields(options) {
  const fields = startFields(options, ["messages", "input"], NEW_CHAT_OPTIONS);
  ensure(
    fields.messages !== undefined || fields.input !== undefined,
    "messages",
    "missing: expected either messages or input",
  );
  if (options.threadId !== undefined) ensureId(options.threadId, "threadId");
  return { ...fields, thread_id: options.threadId };
}

/**
 * @param {string} threadId
 * @param {api.ResumeChatOptions} options
 * @returns {Json}
 */
function resumeChatFields(threadId, options) {
  ensureId(threadId, "threadId");
  const fields = startFields(options, ["messages", "input", "resume"], RESUME_OPTIONS);
  ensureNameIfGiven(options.checkpointId, "checkpointId");
  const { resume, update, goto } = options;
  ensure(resume !== undefined || update === undefined, "update", "expected only beside resume");
  ensure(resume !== undefined || goto === undefined, "goto", "expected only beside resume");
  const nodes = goto === undefined || isName(goto) || (Array.isArray(goto) && goto.every(isName));
  ensure(nodes, "goto", "expected the name of a node, or a list of names");
  checkJsonIfGiven(resume, "resume");
  checkJsonIfGiven(update, "update");
  return {
    ...fields,
    thread_id: threadId,
    checkpoint_id: options.checkpointId,
    resume,
    update,
    goto,
  };
}

/** @param {unknown} position */
function checkPosition(position) {
  ensure(isObject(position), "after", "expected a position: {epoch, seq}");
  ensure(
    Number.isSafeInteger(position.seq) && position.seq >= 0,
    "after.seq",
    "expected a whole number from 0",
  );
  ensure(typeof position.epoch === "string", "after.epoch", "expected a string");
}

/** A random id; `crypto.randomUUID` is missing in pages that came over plain HTTP. */
function uuid() {
  if (typeof crypto.randomUUID === "function") return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

// --- what the server sends ------------------------------------------------------------------------

/**
 * @param {unknown} text
 * @returns {Json}
 * @throws {ProtocolError}
 */
function parseServerMessage(text) {
  if (typeof text !== "string")
    throw new ProtocolError("the server sent a message that is not text");
  let message;
  try {
    message = JSON.parse(text);
  } catch (cause) {
    throw new ProtocolError("the server sent a message that is not JSON", { cause });
  }
  if (!isObject(message) || typeof message.type !== "string") {
    throw new ProtocolError("the server sent a message without a type");
  }
  if (
    message.seq !== undefined &&
    (!Number.isSafeInteger(message.seq) || typeof message.run_id !== "string")
  ) {
    throw new ProtocolError(
      `the server sent a message "${message.type}" without a place in the log`,
    );
  }
  return message;
}

/** How many Unicode code points a text has: the unit of `offset`. */
function codePoints(/** @type {string} */ text) {
  let count = text.length;
  for (let index = 0; index < text.length - 1; index++) {
    if (isPair(text, index)) {
      count--;
      index++;
    }
  }
  return count;
}

/**
 * The first code points of a text.
 *
 * @param {string} text
 * @param {number} count
 */
function firstCodePoints(text, count) {
  let index = 0;
  for (; count > 0 && index < text.length; count--) index += isPair(text, index) ? 2 : 1;
  return text.slice(0, index);
}

/**
 * Whether a surrogate pair stands at an index.
 *
 * @param {string} text
 * @param {number} index
 */
function isPair(text, index) {
  return (
    (text.charCodeAt(index) & 0xfc00) === 0xd800 && (text.charCodeAt(index + 1) & 0xfc00) === 0xdc00
  );
}

// --- the view of a thread -------------------------------------------------------------------------

/** @typedef {"text" | "reasoning" | "tool_call" | "media"} BlockKind */

/** @implements {api.BlockView} */
class Block {
  /** Code points in `#counted`: those of `text`, unless somebody else has set that. */
  #length = 0;
  #counted = "";

  /**
   * @param {number} index
   * @param {BlockKind} kind
   */
  constructor(index, kind) {
    this.index = index;
    this.kind = kind;
    this.text = "";
    /** @type {ToolCall | null} */
    this.toolCall = null;
    /** @type {api.ContentBlock | null} */
    this.content = null;
  }

  /**
   * Take what is new of the text.
   *
   * @param {string} delta
   * @param {number} offset
   * @returns {boolean} whether it could be added: not when what lies before is missing
   */
  append(delta, offset) {
    const length = this.#counted === this.text ? this.#length : codePoints(this.text);
    if (offset > length) return false;
    const before = offset === length ? this.text : firstCodePoints(this.text, offset);
    this.text = before + delta;
    this.#counted = this.text;
    this.#length = offset + codePoints(delta);
    return true;
  }
}

/** @implements {api.ToolCallView} */
class ToolCall {
  /**
   * @param {string | null} id
   * @param {string | null} runId
   * @param {string | null} messageId
   */
  constructor(id, runId, messageId) {
    this.id = id;
    this.runId = runId;
    this.messageId = messageId;
    /** @type {string | null} */
    this.name = null;
    /** @type {string[]} */
    this.namespace = [];
    /** @type {"started" | "arguments" | "finished"} */
    this.status = "started";
    this.arguments = "";
    /** @type {Record<string, unknown> | null} */
    this.args = null;
    /** @type {string | null} */
    this.error = null;
    /** @type {ToolResult | null} */
    this.result = null;
  }
}

/** @implements {api.ToolResultView} */
class ToolResult {
  /** @type {"running" | "success" | "error"} */
  status = "running";
  /** @type {unknown} */
  input = null;
  /** @type {unknown[]} */
  output = [];
  /** @type {unknown} */
  content = null;
  /** @type {unknown} */
  artifact = null;
}

/** @implements {api.MessageView} */
class Message {
  /**
   * @param {string} id
   * @param {string | null} runId
   */
  constructor(id, runId) {
    this.id = id;
    this.runId = runId;
    /** @type {api.Role} */
    this.role = "assistant";
    /** @type {"open" | "finished" | "failed" | "cancelled"} */
    this.status = "open";
    /** @type {Block[]} */
    this.blocks = [];
    this.partial = false;
    /** @type {string | null} */
    this.node = null;
    /** @type {string[]} */
    this.namespace = [];
    /** @type {string | null} */
    this.taskId = null;
    /** @type {api.Usage | null} */
    this.usage = null;
    /** @type {Record<string, unknown>[]} */
    this.citations = [];
    /** @type {Record<string, unknown> | null} */
    this.metadata = null;
    /** @type {number | null} */
    this.time = null;
    this.seq = 0;
    this.version = 0;
  }

  get text() {
    return this.said("text");
  }

  get reasoning() {
    return this.said("reasoning");
  }

  /** @param {BlockKind} kind */
  said(kind) {
    let text = "";
    for (const block of this.blocks) if (block.kind === kind) text += block.text;
    return text;
  }

  /**
   * The block with an index, made when there is none.
   *
   * @param {number} index
   * @param {BlockKind} kind
   */
  block(index, kind) {
    const at = this.blocks.findIndex((block) => block.index >= index);
    if (at >= 0 && this.blocks[at].index === index) return this.blocks[at];
    const block = new Block(index, kind);
    this.blocks.splice(at < 0 ? this.blocks.length : at, 0, block);
    return block;
  }
}

/** @implements {api.RunView} */
class RunRecord {
  #view;

  /**
   * @param {View} view
   * @param {string} runId
   */
  constructor(view, runId) {
    this.#view = view;
    this.runId = runId;
    /** @type {api.RunState} */
    this.status = "running";
    /** @type {number | null} */
    this.place = null;
    /** @type {string | null} */
    this.graph = null;
    /** @type {string | null} */
    this.checkpointId = null;
    /** @type {api.CheckpointData[]} */
    this.checkpoints = [];
    /** @type {number | null} */
    this.startedAt = null;
    this.attempt = 1;
    /** @type {Step[]} */
    this.steps = [];
    /** @type {api.Source[]} */
    this.sources = [];
    /** @type {api.Final | null} */
    this.final = null;
    /** @type {api.RunErrorData | null} */
    this.error = null;
  }

  get messages() {
    return this.#view.messages.filter((message) => message.runId === this.runId);
  }

  get toolCalls() {
    return this.#view.toolCalls.filter((call) => call.runId === this.runId);
  }

  get text() {
    if (this.final !== null) return this.final.text;
    return this.messages.findLast((message) => message.role === "assistant")?.text ?? "";
  }
}

/** @typedef {{-readonly [Key in keyof api.StepView]: api.StepView[Key]}} Step */

/**
 * How what is still open ends with its run.
 *
 * @type {Record<string, "finished" | "cancelled">}
 */
const UNFINISHED = { completed: "finished", interrupted: "finished", cancelled: "cancelled" };

/** What a view does with each type of message; a type that is not here changes nothing. */
/** @type {Record<string, (view: View, message: Json) => void>} */
const CHANGES = {
  run: (view, message) => view.runBegan(message),
  text: (view, message) => view.said(message, "text"),
  reasoning: (view, message) => view.said(message, "reasoning"),
  message: (view, message) => view.messageFinished(message.data, message.run_id, message.seq),
  tool_call: (view, message) => view.toolCalled(message),
  tool_result: (view, message) => view.toolWorked(message),
  workflow_step: (view, message) => view.stepped(message),
  sources: (view, { run_id, data }) => void (view.runFor(run_id).sources = data.sources),
  interrupt: (view, { data }) => view.interrupted(data),
  interrupt_answered: (view, { data }) => view.answered(data.ids),
  state: (view, { data }) => view.stateTold(data),
  checkpoint: (view, { run_id, data }) => void view.runFor(run_id).checkpoints.push(data),
  final: (view, { run_id, data }) => view.completed(run_id, data),
  error: (view, { run_id, data }) => void (view.runFor(run_id).error = data),
  end: (view, message) => view.runEnded(message),
  rolled_back: (view, { data }) => view.rolledBack(data.run_id),
  attempt: (view, message) => view.attempted(message),
};

/** @implements {api.ThreadView} */
class View {
  /** @type {Map<string, Message>} */
  #messages = new Map();
  /** @type {Map<string, ToolCall>} */
  #toolCalls = new Map();

  /** @param {string} threadId */
  constructor(threadId) {
    this.threadId = threadId;
    this.version = 0;
    /** @type {RunRecord[]} */
    this.runs = [];
    /** @type {Message[]} */
    this.messages = [];
    /** @type {ToolCall[]} */
    this.toolCalls = [];
    /** @type {api.Interrupt[]} */
    this.interrupts = [];
    /** @type {unknown} */
    this.values = null;
  }

  get run() {
    return this.runs.findLast((run) => run.status !== "queued") ?? null;
  }

  get queued() {
    return this.runs.filter((run) => run.status === "queued");
  }

  /** @returns {api.RunState | "idle"} */
  get status() {
    return this.run?.status ?? "idle";
  }

  get sources() {
    return this.run?.sources ?? [];
  }

  get steps() {
    return this.run?.steps ?? [];
  }

  get branch() {
    const left = this.#leftBehind();
    return this.messages.filter(({ runId }) => runId === null || !left.has(runId));
  }

  /** The runs that the newest one has not built on, because it began from an older checkpoint. */
  #leftBehind() {
    const left = new Set();
    const begun = this.runs.filter((run) => run.status !== "queued");
    for (let index = begun.length - 1; index > 0;) {
      const from = begun[index].checkpointId;
      const parent = begun.findLastIndex(
        (run, at) => at < index && run.checkpoints.some(({ checkpoint_id: id }) => id === from),
      );
      const next = from === null || parent < 0 ? this.#sibling(begun, index) : parent;
      for (let at = next + 1; at < index; at++) left.add(begun[at].runId);
      index = next;
    }
    return left;
  }

  /**
   * Where a run goes on whose checkpoint no run has saved: before the first that began there too.
   *
   * @param {RunRecord[]} begun
   * @param {number} index
   */
  #sibling(begun, index) {
    const from = begun[index].checkpointId;
    const first = begun.findIndex((run) => run.checkpointId === from);
    return from === null || first === index ? index - 1 : first - 1;
  }

  /**
   * Fold in the next logged message. Texts that come in parts are completed in it.
   *
   * @param {Json} message
   */
  apply(message) {
    this.version++;
    if (Object.hasOwn(CHANGES, message.type)) CHANGES[message.type](this, message);
  }

  /**
   * Note how the thread stands, from the `run` that answers a request.
   *
   * @param {Json} data
   */
  noted(data) {
    this.version++;
    this.interrupts = data.interrupts ?? [];
    const { run_id: runId, status } = data;
    if (runId === null || !["queued", "running", "cancelling"].includes(status)) return;
    const run = this.runFor(runId);
    if (ENDED.has(run.status)) return;
    run.status = status;
    run.place = data.place ?? run.place;
    run.graph ??= data.graph ?? null;
    run.checkpointId ??= data.checkpoint_id ?? null;
  }

  /** @param {string} runId */
  runFor(runId) {
    let run = this.runs.findLast((known) => known.runId === runId);
    if (run === undefined) {
      run = new RunRecord(this, runId);
      this.runs.push(run);
    }
    return run;
  }

  /** @param {Json} message */
  runBegan({ run_id: runId, seq, data }) {
    const run = this.runFor(runId);
    // The order of the runs is the order in which they begin, not that in which they were queued.
    this.runs.splice(this.runs.indexOf(run), 1);
    this.runs.push(run);
    run.status = "running";
    run.graph = data.graph ?? null;
    run.checkpointId = data.checkpoint_id ?? null;
    run.startedAt = data.time ?? null;
    for (const given of data.messages ?? [])
      this.messageFinished({ time: data.time, ...given }, runId, seq);
  }

  /** @param {Json} message */
  runEnded({ run_id: runId, data: { status } }) {
    const run = this.runFor(runId);
    const another = this.runs.some((other) => other !== run && ACTIVE.has(other.status));
    // Only one is active at a time: this one was stopped in the queue.
    if (run.status === "queued" || another) this.runs.splice(this.runs.indexOf(run), 1);
    run.status = status;
    for (const message of run.messages) {
      if (message.status === "open") this.#touch(message).status = UNFINISHED[status] ?? "failed";
    }
    for (const step of run.steps) {
      if (step.status === "started") step.status = UNFINISHED[status] ?? "failed";
    }
  }

  /**
   * @param {string} runId
   * @param {api.Final} final
   */
  completed(runId, final) {
    const run = this.runFor(runId);
    run.final = final;
    if (final.sources.length > 0) run.sources = final.sources;
  }

  /**
   * @param {Json} message
   * @param {"text" | "reasoning"} kind
   */
  said({ run_id: runId, seq, data }, kind) {
    const message = this.#open(data, runId, seq);
    const block = message.block(data.index, kind);
    if (data.delta === undefined) {
      const before = message.blocks.filter(
        (other) => other.kind === kind && other.index < data.index,
      );
      // All of the message comes as one text: what other blocks have of it is not said twice.
      const known = before.map((other) => other.text).join("");
      if (!data.text.startsWith(known)) for (const other of before) other.text = "";
      block.text = data.text.startsWith(known) ? data.text.slice(known.length) : data.text;
    } else if (!block.append(data.delta, data.offset)) {
      message.partial = true;
    }
    if (!message.partial) data.text = message.said(kind);
  }

  /**
   * @param {Json} data
   * @param {string | null} runId
   * @param {number} seq
   */
  messageFinished(data, runId, seq) {
    const toolCallId = data.role === "tool" ? data.metadata?.tool_call_id : undefined;
    if (toolCallId !== undefined) {
      this.#toolSaid(toolCallId, data, runId);
      return;
    }
    const message = this.#message(data.streamed_id ?? data.message_id, runId);
    this.#rename(message, data.message_id);
    this.#place(message, data, seq);
    message.role = data.role;
    message.status = data.status ?? "finished";
    message.partial = false;
    message.usage = data.usage ?? null;
    message.citations = data.citations ?? [];
    message.metadata = data.metadata ?? null;
    message.time = data.time ?? null;
    message.blocks = data.content.map((/** @type {Json} */ content, /** @type {number} */ index) =>
      this.#whole(message, content, index),
    );
  }

  /** @param {Json} message */
  toolCalled({ run_id: runId, seq, data }) {
    const message = this.#open(data, runId, seq);
    const block = message.block(data.index, "tool_call");
    const call = this.#callOf(message, block, data.tool_call_id);
    call.name = data.name ?? call.name;
    call.namespace = data.namespace ?? call.namespace;
    call.status = data.status;
    if (data.status === "arguments" && data.delta !== undefined) {
      if (!block.append(data.delta, data.offset)) return;
      data.arguments = block.text;
    } else if (data.arguments !== undefined) {
      block.text = data.arguments;
    }
    call.arguments = block.text;
    call.args = data.args ?? call.args;
    call.error = data.error ?? call.error;
  }

  /** @param {Json} message */
  toolWorked({ run_id: runId, data }) {
    const call = this.#call(data.tool_call_id, runId, null);
    call.name ??= data.name ?? null;
    if (data.status === "started" || call.result === null) call.result = new ToolResult();
    if (data.status === "started") call.result.input = data.input ?? null;
    else if (data.status === "output") call.result.output.push(data.delta);
    else this.#toolEnded(call.result, data.status, data);
    const asked = call.messageId === null ? undefined : this.#messages.get(call.messageId);
    if (asked !== undefined) this.#touch(asked);
  }

  /**
   * @param {string} toolCallId
   * @param {Json} data
   * @param {string | null} runId
   */
  #toolSaid(toolCallId, data, runId) {
    const call = this.#call(toolCallId, runId, null);
    const only = data.content.length === 1 && data.content[0].type === "text";
    call.result ??= new ToolResult();
    this.#toolEnded(call.result, data.metadata.status === "error" ? "error" : "success", {
      content: only ? data.content[0].text : data.content,
    });
  }

  /**
   * @param {ToolResult} result
   * @param {"success" | "error"} status
   * @param {Json} data
   */
  #toolEnded(result, status, data) {
    result.status = status;
    result.content = data.content ?? null;
    result.artifact = data.artifact ?? null;
  }

  /** @param {Json} message */
  stepped({ run_id: runId, seq, data }) {
    const { steps } = this.runFor(runId);
    const taskId = data.task_id ?? null;
    let step = steps.findLast((known) => known.taskId === taskId && known.step === data.step);
    if (step === undefined) {
      step = {
        step: data.step,
        status: data.status,
        namespace: data.namespace ?? [],
        taskId,
        durationMs: null,
        seq,
      };
      steps.push(step);
    }
    step.status = data.status;
    step.durationMs = data.duration_ms ?? null;
    step.seq = seq;
  }

  /** @param {api.Interrupt} interrupt */
  interrupted(interrupt) {
    this.answered([interrupt.id]);
    this.interrupts.push(interrupt);
  }

  /** @param {string[]} ids */
  answered(ids) {
    this.interrupts = this.interrupts.filter(({ id }) => !ids.includes(id));
  }

  /** @param {Json} data */
  stateTold(data) {
    if (data.node == null && !data.namespace?.length) this.values = data.values;
  }

  /** @param {string} runId */
  rolledBack(runId) {
    this.runs = this.runs.filter((run) => run.runId !== runId);
    this.#keep((message) => message.runId !== runId);
    this.toolCalls = this.toolCalls.filter((call) => call.runId !== runId);
    this.#index();
  }

  /** @param {Json} message */
  attempted({ run_id: runId, data }) {
    const again = new Set(data.rerun_task_ids);
    /** @type {(said: {taskId: string | null, seq: number}) => boolean} */
    const isVoid = ({ taskId, seq }) =>
      taskId !== null && again.has(taskId) && seq > data.rollback_to;
    const run = this.runFor(runId);
    run.attempt = data.attempt;
    run.steps = run.steps.filter((step) => !isVoid(step));
    // An unfinished message of such a task never goes on: the task says a new one.
    this.#keep(
      (message) => !isVoid(message) && !(message.status === "open" && again.has(message.taskId)),
    );
    this.#index();
  }

  /**
   * Forget everything and begin from a snapshot. Whose run a message is of is told by no snapshot,
   * but may be known already; what follows the user's last words is the newest run's.
   *
   * @param {Json} data
   */
  replace(data) {
    const runIds = new Map(this.messages.map((message) => [message.id, message.runId]));
    const known = this.runs.find((run) => run.runId === data.run?.run_id);
    this.version++;
    this.messages = [];
    this.toolCalls = [];
    this.#index();
    this.runs = [];
    const turn = data.messages.findLastIndex(
      (/** @type {Json} */ message) => message.role === "user",
    );
    if (data.run !== null) this.#replaceRun(known ?? new RunRecord(this, data.run.run_id), data);
    data.messages.forEach((/** @type {Json} */ message, /** @type {number} */ at) => {
      const newest = at >= turn ? (data.run?.run_id ?? null) : null;
      this.messageFinished(message, runIds.get(message.message_id) ?? newest, data.seq);
    });
    for (const message of data.open) this.#reopen(message, data.run?.run_id ?? null, data.seq);
    this.interrupts = data.interrupts;
    this.values = data.values ?? null;
  }

  /**
   * @param {RunRecord} run
   * @param {Json} data
   */
  #replaceRun(run, data) {
    run.status = data.run.status;
    run.sources = data.sources;
    run.steps = [];
    run.checkpoints = [];
    this.runs.push(run);
  }

  /**
   * @param {Json} data
   * @param {string | null} runId
   * @param {number} seq
   */
  #reopen(data, runId, seq) {
    const message = this.#open(data, runId, seq);
    message.role = data.role;
    for (const told of data.blocks) {
      const block = message.block(told.index, told.kind);
      if (told.block)
        message.blocks[message.blocks.indexOf(block)] = this.#whole(
          message,
          told.block,
          told.index,
        );
      else block.text = told.text;
      if (told.kind !== "tool_call" || told.block) continue;
      const call = this.#callOf(message, block, told.tool_call_id);
      call.name = told.name ?? null;
      call.arguments = block.text;
      if (block.text !== "") call.status = "arguments";
    }
  }

  /**
   * The message that a piece belongs to; the first piece opens it.
   *
   * @param {Json} data
   * @param {string | null} runId
   * @param {number} seq
   */
  #open(data, runId, seq) {
    const message = this.#message(data.message_id, runId);
    this.#place(message, data, seq);
    return message;
  }

  /**
   * @param {string} id
   * @param {string | null} runId
   */
  #message(id, runId) {
    let message = this.#messages.get(id);
    if (message === undefined) {
      message = new Message(id, runId);
      this.#messages.set(id, message);
      this.messages.push(message);
    }
    return message;
  }

  /**
   * @param {Message} message
   * @param {string} id
   */
  #rename(message, id) {
    if (message.id === id) return;
    this.#messages.delete(message.id);
    const double = this.#messages.get(id);
    if (double !== undefined) this.messages.splice(this.messages.indexOf(double), 1);
    for (const call of this.toolCalls) if (call.messageId === message.id) call.messageId = id;
    message.id = id;
    this.#messages.set(id, message);
  }

  /**
   * @param {Message} message
   * @param {Json} data
   * @param {number} seq
   */
  #place(message, data, seq) {
    message.node = data.node ?? message.node;
    message.namespace = data.namespace ?? message.namespace;
    message.taskId = data.task_id ?? message.taskId;
    message.seq = seq;
    this.#touch(message);
  }

  /** @param {Message} message */
  #touch(message) {
    message.version = this.version;
    return message;
  }

  /**
   * The block that a finished one is shown as.
   *
   * @param {Message} message
   * @param {Json} content
   * @param {number} index
   */
  #whole(message, content, index) {
    const block = new Block(index, blockKind(content.type));
    block.content = /** @type {api.ContentBlock} */ (content);
    if (block.kind === "text") block.text = content.text ?? "";
    else if (block.kind === "reasoning") block.text = content.reasoning ?? "";
    else if (block.kind === "tool_call") this.#wholeCall(message, block, content);
    return block;
  }

  /**
   * @param {Message} message
   * @param {Block} block
   * @param {Json} content
   */
  #wholeCall(message, block, content) {
    const open = message.blocks.find((other) => other.index === block.index);
    block.toolCall = open?.toolCall ?? null;
    const call = this.#callOf(message, block, content.id);
    call.name = content.name ?? call.name;
    call.status = "finished";
    if (content.type === "tool_call") {
      call.args = content.args;
      block.text = open?.text || JSON.stringify(content.args);
    } else {
      block.text = content.args ?? "";
      call.error = content.error ?? null;
    }
    call.arguments = block.text;
  }

  /**
   * The tool call of a block.
   *
   * @param {Message} message
   * @param {Block} block
   * @param {string | null | undefined} id
   */
  #callOf(message, block, id) {
    if (block.toolCall === null || (id != null && block.toolCall.id !== id)) {
      if (block.toolCall !== null && block.toolCall.id === null && id != null) {
        block.toolCall.id = id;
        this.#toolCalls.set(id, block.toolCall);
      } else {
        block.toolCall = this.#call(id ?? null, message.runId, message.id);
      }
    }
    block.toolCall.messageId = message.id;
    return block.toolCall;
  }

  /**
   * @param {string | null} id
   * @param {string | null} runId
   * @param {string | null} messageId
   */
  #call(id, runId, messageId) {
    const known = id === null ? undefined : this.#toolCalls.get(id);
    if (known !== undefined) return known;
    const call = new ToolCall(id, runId, messageId);
    this.toolCalls.push(call);
    if (id !== null) this.#toolCalls.set(id, call);
    return call;
  }

  /** @param {(message: Message) => boolean} which */
  #keep(which) {
    const kept = new Set(this.messages.filter(which).map((message) => message.id));
    this.messages = this.messages.filter((message) => kept.has(message.id));
    this.toolCalls = this.toolCalls.filter(
      (call) => call.messageId === null || kept.has(call.messageId),
    );
  }

  #index() {
    this.#messages = new Map(this.messages.map((message) => [message.id, message]));
    this.#toolCalls = new Map(
      this.toolCalls.flatMap((call) => (call.id === null ? [] : [[call.id, call]])),
    );
  }

  /** The view as plain JSON data. */
  save() {
    const messages = this.messages.map((message) => ({
      ...message,
      blocks: message.blocks.map((block) => ({
        ...block,
        toolCall: block.toolCall === null ? null : this.toolCalls.indexOf(block.toolCall),
      })),
    }));
    const { version, runs, toolCalls, interrupts, values } = this;
    return JSON.parse(JSON.stringify({ version, runs, messages, toolCalls, interrupts, values }));
  }

  /**
   * The view that `save` told of.
   *
   * @param {string} threadId
   * @param {Json} saved
   */
  static restore(threadId, saved) {
    const view = new View(threadId);
    view.version = saved.version;
    view.runs = saved.runs.map((/** @type {Json} */ run) =>
      Object.assign(new RunRecord(view, run.runId), run),
    );
    view.toolCalls = saved.toolCalls.map((/** @type {Json} */ call) =>
      Object.assign(new ToolCall(null, null, null), call),
    );
    view.messages = saved.messages.map((/** @type {Json} */ message) =>
      restoreMessage(message, view.toolCalls),
    );
    view.interrupts = saved.interrupts;
    view.values = saved.values;
    view.#index();
    return view;
  }
}

/**
 * @param {Json} saved
 * @param {ToolCall[]} toolCalls
 */
function restoreMessage(saved, toolCalls) {
  const blocks = saved.blocks.map((/** @type {Json} */ block) => {
    const toolCall = block.toolCall === null ? null : toolCalls[block.toolCall];
    return Object.assign(new Block(block.index, block.kind), block, { toolCall });
  });
  return Object.assign(new Message(saved.id, saved.runId), saved, { blocks });
}

/**
 * @param {string} type
 * @returns {BlockKind}
 */
function blockKind(type) {
  if (type === "text" || type === "reasoning" || type === "tool_call") return type;
  return type === "invalid_tool_call" ? "tool_call" : "media";
}

// --- the connection -------------------------------------------------------------------------------

const DEFAULT_RECONNECT = { delayMs: 1_000, maxDelayMs: 30_000, jitter: 0.15, maxAttempts: 10 };
const GROWTH = 1.5;
const SILENCE = 2.5;
const CLOSE_GRACE_MS = 2_000;
const ERROR_GRACE_MS = 100;
/** Close codes after which there is nothing to come back for. */
const FINAL_CODES = new Set([4400, 4403, 4406]);
/** Close codes that ask for new credentials. */
const REAUTH_CODES = new Set([4401, 4440]);
/** HTTP refusals that may pass by themselves. */
const PASSING_STATUS = new Set([408, 425, 429]);

/** @type {api.Clock} */
const SYSTEM_CLOCK = {
  now: () => Date.now(),
  setTimeout: (callback, ms) => setTimeout(callback, ms),
  clearTimeout: (timer) => clearTimeout(/** @type {any} */ (timer)),
};

/**
 * The options of `connect` that the connection needs, checked.
 *
 * @param {string | URL} url
 * @param {api.ConnectOptions} options
 */
function connectionSettings(url, options) {
  checkOptions(options, CONNECT_OPTIONS);
  const {
    token,
    heartbeatMs = 20_000,
    buffer = 1_000,
    clock = SYSTEM_CLOCK,
    random = Math.random,
  } = options;
  const WebSocket = options.WebSocket ?? /** @type {any} */ (globalThis).WebSocket;
  ensure(
    typeof WebSocket === "function",
    "WebSocket",
    "missing: there is no global one (Node 20: pass that of the package ws)",
  );
  ensure(
    token === undefined || isName(token) || typeof token === "function",
    "token",
    "expected a string that is not empty, or a function",
  );
  ensure(
    Number.isFinite(heartbeatMs) && heartbeatMs > 0,
    "heartbeatMs",
    "expected a number above 0",
  );
  ensure(Number.isSafeInteger(buffer) && buffer >= 0, "buffer", "expected a whole number from 0");
  return {
    url: socketUrl(url),
    WebSocket: /** @type {api.WebSocketConstructor} */ (WebSocket),
    token,
    heartbeatMs,
    clock,
    random,
    reconnect: reconnectSettings(options.reconnect),
  };
}

/** @typedef {ReturnType<typeof connectionSettings>} Settings */

/** @param {api.ReconnectOptions | false | undefined} given */
function reconnectSettings(given) {
  if (given === false) return { ...DEFAULT_RECONNECT, maxAttempts: 0 };
  const known = Object.keys(DEFAULT_RECONNECT);
  for (const name of Object.keys(given ?? {}))
    ensure(known.includes(name), `reconnect.${name}`, `unknown: expected ${known.join(", ")}`);
  const { delayMs, maxDelayMs, jitter, maxAttempts } = { ...DEFAULT_RECONNECT, ...given };
  ensure(delayMs >= 0, "reconnect.delayMs", "expected a number from 0");
  ensure(maxDelayMs >= 0, "reconnect.maxDelayMs", "expected a number from 0");
  ensure(jitter >= 0 && jitter <= 1, "reconnect.jitter", "expected a number from 0 to 1");
  const counted = maxAttempts === null || (Number.isSafeInteger(maxAttempts) && maxAttempts >= 0);
  ensure(counted, "reconnect.maxAttempts", "expected a whole number from 0, or null");
  return { delayMs, maxDelayMs, jitter, maxAttempts };
}

/** @param {string | URL} url */
function socketUrl(url) {
  let parsed;
  try {
    parsed = new URL(url, /** @type {any} */ (globalThis).location?.href);
  } catch {
    throw new InvalidRequest("url", `expected a URL, got ${JSON.stringify(url)}`);
  }
  parsed.protocol = parsed.protocol.replace(/^http/, "ws");
  parsed.hash = "";
  ensure(/^wss?:$/.test(parsed.protocol), "url", "expected ws:, wss:, http: or https:");
  return parsed.href;
}

/**
 * @typedef {object} Listener what a connection tells
 * @property {(state: api.ConnectionState) => void} state
 * @property {() => void} opened messages can be sent
 * @property {(code: number) => void} lost what was sent may not have arrived
 * @property {(loss: api.Loss) => void} closed it was given up, or closed
 * @property {(message: Json) => void} message
 * @property {(error: unknown) => void} error
 * @property {(direction: "in" | "out", message: Json) => void} wire
 */

/** A socket that mends itself: token, silence, `bye`, close codes, backoff. */
class Connection {
  #settings;
  #listener;
  /** @type {api.WebSocketLike | null} */
  #socket = null;
  /** @type {api.ConnectionState} */
  #state = { status: "connecting" };
  #ready = false;
  #attempts = 0;
  #renewed = false;
  #heardAt = 0;
  #pinged = false;
  /** The number of the newest attempt: an answer to an older one comes too late. */
  #dialed = 0;
  /** @type {Json | null} */
  #bye = null;
  /** @type {unknown} */
  #fault = null;
  /** @type {unknown} */
  #watch = null;
  /** @type {unknown} */
  #redial = null;
  #online = () => this.reconnectNow();

  /**
   * @param {Settings} settings
   * @param {Listener} listener
   */
  constructor(settings, listener) {
    this.#settings = settings;
    this.#listener = listener;
    /** @type {any} */ (globalThis).addEventListener?.("online", this.#online);
  }

  get state() {
    return this.#state;
  }

  /** Whether messages can be sent. */
  get ready() {
    return this.#ready;
  }

  /** Connect, or try to. */
  async dial() {
    const dialed = ++this.#dialed;
    this.#enter({ status: "connecting" });
    const { token } = this.#settings;
    let secret;
    try {
      secret = typeof token === "function" ? await token() : token;
      if (token !== undefined)
        ensure(isName(secret), "token", "expected a string that is not empty");
    } catch (cause) {
      if (dialed === this.#dialed) this.#lost({ reason: "there is no token", cause });
      return;
    }
    if (dialed === this.#dialed) this.#open(secret);
  }

  /** Connect now, when it is waited for that. */
  reconnectNow() {
    if (this.#state.status !== "reconnecting") return;
    this.#settings.clock.clearTimeout(this.#redial);
    void this.dial();
  }

  /**
   * @param {Json} message
   * @param {string} [text] the message as JSON, where that is known already
   */
  send(message, text = JSON.stringify(message)) {
    this.#listener.wire("out", "token" in message ? { ...message, token: "…" } : message);
    this.#socket?.send(text);
  }

  /**
   * Give up on this socket, and reconnect.
   *
   * @param {string} reason
   */
  drop(reason) {
    const socket = /** @type {any} */ (this.#release());
    // `ws` would wait for the other side, which may be gone, and keep the process alive for that.
    if (typeof socket?.terminate === "function") socket.terminate();
    else socket?.close();
    this.#lost({ code: 1006, reason });
  }

  /** Close for good. */
  close() {
    const { clock } = this.#settings;
    const socket = this.#release();
    this.#dialed++;
    this.#stop({ reason: "closed by the client" }, null);
    if (socket === null) return Promise.resolve();
    return new Promise((/** @type {(value: void) => void} */ resolve) => {
      const timer = clock.setTimeout(resolve, CLOSE_GRACE_MS);
      socket.onclose = () => {
        clock.clearTimeout(timer);
        resolve();
      };
      socket.close(1000);
    });
  }

  /** @param {api.ConnectionState} state */
  #enter(state) {
    this.#state = state;
    this.#listener.state(state);
  }

  /** @param {string | undefined} secret */
  #open(secret) {
    const { WebSocket, url, clock } = this.#settings;
    let socket;
    try {
      socket = new WebSocket(url, [SUBPROTOCOL]);
    } catch (cause) {
      this.#fail({ reason: "the WebSocket could not be made", cause });
      return;
    }
    this.#socket = socket;
    this.#heardAt = clock.now();
    this.#pinged = false;
    this.#guard();
    /** @type {(react: (event: any) => void) => (event: any) => void} */
    const ours = (react) => (event) => {
      if (this.#socket === socket) react(event);
    };
    socket.onopen = ours(() => this.#greet(secret));
    socket.onmessage = ours((event) => this.#receive(event.data));
    const closed = ours(({ code = 1006, reason = "" }) => {
      this.#release(code);
      this.#lost({ code, reason });
    });
    socket.onclose = closed;
    socket.onerror = ours((event) => {
      this.#fault = event.error ?? event.message ?? null;
      // The WebSocket of Node (undici #3546, seen in 6.24) fails to connect without a `close`.
      clock.setTimeout(() => closed({}), ERROR_GRACE_MS);
    });
  }

  /** @param {string | undefined} secret */
  #greet(secret) {
    this.#heard();
    if (secret === undefined) this.#become();
    else this.send({ type: "auth", id: "auth", token: secret });
  }

  #become() {
    this.#ready = true;
    this.#attempts = 0;
    this.#guard();
    this.#enter({ status: "open" });
    this.#listener.opened();
  }

  #heard() {
    this.#heardAt = this.#settings.clock.now();
    if (!this.#pinged) return;
    this.#pinged = false;
    this.#guard();
  }

  /** @param {unknown} text */
  #receive(text) {
    this.#heard();
    let message;
    try {
      message = parseServerMessage(text);
    } catch (error) {
      this.#listener.error(error);
      return;
    }
    this.#listener.wire("in", message);
    if (message.type === "bye" && message.seq === undefined) this.#bye = message.data;
    else if (message.request_id === "auth") this.#authenticated(message);
    else if (message.request_id !== "ping" && message.type !== "heartbeat")
      this.#listener.message(message);
  }

  /** @param {Json} answer */
  #authenticated({ type, data }) {
    if (type === "authenticated") {
      this.#renewed = false;
      this.#become();
    } else if (data.retryable) {
      this.drop(data.message);
    } else {
      this.#release()?.close(1000);
      this.#fail({ reason: data.message, cause: new RequestRefused(/** @type {any} */ (data)) });
    }
  }

  /** Look after silence: first a ping, then another connection. */
  #guard() {
    const { clock, heartbeatMs } = this.#settings;
    clock.clearTimeout(this.#watch);
    const limit = heartbeatMs * (this.#pinged || !this.#ready ? SILENCE : 1);
    const wait = this.#heardAt + limit - clock.now();
    this.#watch = clock.setTimeout(() => this.#check(), Math.max(wait, 0));
  }

  #check() {
    const { clock, heartbeatMs } = this.#settings;
    const silence = clock.now() - this.#heardAt;
    if (silence >= heartbeatMs * SILENCE) {
      this.drop(`nothing was heard for ${silence} ms`);
      return;
    }
    if (silence >= heartbeatMs && this.#ready && !this.#pinged) {
      this.#pinged = true;
      this.send({ type: "ping", id: "ping" });
    }
    this.#guard();
  }

  /**
   * Let go of the socket; what it still says is not heard.
   *
   * @param {number} [code] what it was closed with
   */
  #release(code = 1006) {
    const socket = this.#socket;
    this.#socket = null;
    this.#settings.clock.clearTimeout(this.#watch);
    if (this.#ready) {
      this.#ready = false;
      this.#listener.lost(code);
    }
    return socket;
  }

  /**
   * Decide what a lost connection means.
   *
   * @param {api.Loss} loss
   */
  #lost(loss) {
    const bye = this.#bye;
    const fault = this.#fault;
    this.#bye = this.#fault = null;
    const seen = { cause: fault ?? undefined, httpStatus: httpStatus(fault), ...loss };
    const step = nextStep(seen, bye);
    if (step === "stop" || (step === "renew" && !this.#mayRenew())) this.#fail(seen);
    else this.#retry(seen, bye);
  }

  /** Whether there is another token to try: once, until one is accepted. */
  #mayRenew() {
    const may = typeof this.#settings.token === "function" && !this.#renewed;
    this.#renewed = true;
    return may;
  }

  /**
   * @param {api.Loss} loss
   * @param {Json | null} bye
   */
  #retry(loss, bye) {
    const { reconnect, clock } = this.#settings;
    const attempt = this.#attempts + 1;
    if (reconnect.maxAttempts !== null && attempt > reconnect.maxAttempts) {
      this.#fail(loss);
      return;
    }
    this.#attempts = attempt;
    const announced = bye !== null || loss.code === 1012;
    if (!announced) this.#listener.error(new ConnectionLostError(lossText(loss), loss));
    const delayMs = this.#delay(attempt, bye);
    this.#redial = clock.setTimeout(() => void this.dial(), delayMs);
    this.#enter({
      status: "reconnecting",
      attempt,
      delayMs,
      reason: bye?.reason || lossText(loss),
    });
  }

  /**
   * How long to wait before an attempt.
   *
   * @param {number} attempt
   * @param {Json | null} bye
   */
  #delay(attempt, bye) {
    const { delayMs, maxDelayMs, jitter } = this.#settings.reconnect;
    const chance = jitter * this.#settings.random();
    // The server said how long at least: whoever it told so should not come back at once with all.
    if (bye?.after_ms > 0) return Math.round(bye?.after_ms * (1 + chance));
    const base = Math.min(delayMs * GROWTH ** (attempt - 1), maxDelayMs);
    return Math.round(base * (1 - jitter + 2 * chance));
  }

  /** @param {api.Loss} loss */
  #fail(loss) {
    const cause = new ConnectionLostError(lossText(loss), loss);
    const error = new ConnectionFailedError(lossText(loss), {
      ...loss,
      cause: loss.cause ?? cause,
    });
    this.#listener.error(error);
    this.#stop({ ...loss, reason: lossText(loss), cause: error }, error);
  }

  /**
   * @param {api.Loss} loss
   * @param {ConnectionFailedError | null} error
   */
  #stop(loss, error) {
    if (this.#state.status === "closed") return;
    this.#settings.clock.clearTimeout(this.#redial);
    /** @type {any} */ (globalThis).removeEventListener?.("online", this.#online);
    this.#enter({ status: "closed", reason: loss.reason ?? "", error });
    this.#listener.closed(loss);
  }
}

/**
 * What to do about a lost connection (PROTOCOL.md, "Close codes").
 *
 * @param {api.Loss} loss
 * @param {Json | null} bye
 * @returns {"stop" | "renew" | "retry"}
 */
function nextStep({ code, httpStatus: status }, bye) {
  if (bye?.retry === "never" || FINAL_CODES.has(code ?? 0)) return "stop";
  if (bye?.retry === "reauth" || REAUTH_CODES.has(code ?? 0)) return "renew";
  if (status === 401 || status === 403) return "renew";
  const refused = status != null && status >= 400 && status < 500 && !PASSING_STATUS.has(status);
  return refused ? "stop" : "retry";
}

/**
 * The status of an HTTP refusal: `ws` (8.x) says it in the text of an error, browsers do not.
 *
 * @param {any} fault
 */
function httpStatus(fault) {
  const match = /Unexpected server response: (\d{3})/.exec(fault?.message ?? fault ?? "");
  return match === null ? null : Number(match[1]);
}

/** @param {api.Loss} loss */
function lossText({ code, reason, httpStatus: status, cause }) {
  if (status != null) {
    const hint = status === 404 ? ": nothing is served at this URL" : "";
    return `the server refused the connection with HTTP ${status}${hint}`;
  }
  const why = reason || (cause instanceof Error ? cause.message : "");
  const what = code == null ? "the connection failed" : `the connection was closed with ${code}`;
  return why ? `${what}: ${why}` : what;
}

// --- iteration ------------------------------------------------------------------------------------

/**
 * Somebody who waits for the next message.
 *
 * @typedef {object} Taker
 * @property {(result: IteratorResult<api.Message, undefined>) => void} resolve
 * @property {(error: unknown) => void} reject
 */

/**
 * Messages that wait to be iterated over.
 *
 * It begins to gather before anybody iterates, so that nothing between the start of a run and the
 * first `await` is missed; and gathers no more than `limit`, whether anybody iterates or not.
 */
class Messages {
  #limit;
  /** @type {api.Message[]} */
  #waiting = [];
  #skipped = 0;
  /** @type {Taker[]} */
  #takers = [];
  /** @type {{error: unknown} | null} */
  #over = null;

  /** @param {number} limit */
  constructor(limit) {
    this.#limit = limit;
  }

  /** @param {api.Message} message */
  push(message) {
    if (this.#over !== null) return;
    const taker = this.#takers.shift();
    if (taker !== undefined) {
      taker.resolve({ value: message, done: false });
      return;
    }
    this.#waiting.push(message);
    if (this.#waiting.length > this.#limit) {
      this.#waiting.shift();
      this.#skipped++;
    }
  }

  /**
   * Nothing comes any more.
   *
   * @param {unknown} [error] what iterating ends with
   */
  end(error = null) {
    this.#over ??= { error };
    for (const taker of this.#takers.splice(0)) this.#finish(taker);
  }

  /** @returns {AsyncIterator<api.Message, undefined>} */
  iterate() {
    return { next: () => new Promise((resolve, reject) => this.#take({ resolve, reject })) };
  }

  /** @param {Taker} taker */
  #take(taker) {
    if (this.#skipped > 0) {
      taker.resolve({ value: { type: "skipped", data: { count: this.#skipped } }, done: false });
      this.#skipped = 0;
      return;
    }
    const value = this.#waiting.shift();
    if (value !== undefined) taker.resolve({ value, done: false });
    else if (this.#over !== null) this.#finish(taker);
    else this.#takers.push(taker);
  }

  /** @param {Taker} taker */
  #finish({ resolve, reject }) {
    if (this.#over?.error) reject(this.#over.error);
    else resolve({ value: undefined, done: true });
  }
}

// --- callbacks ------------------------------------------------------------------------------------

/**
 * What a message says, and its place in the log.
 *
 * @param {Json} message
 */
const told = ({ run_id, seq, data }) => ({ ...data, run_id, seq });

/**
 * Which callback each type of message is for, and what it gets.
 *
 * @type {Record<string, (message: Json) => [name: keyof api.Callbacks, ...values: unknown[]]>}
 */
const CALLBACKS = {
  run: (message) => ["onRun", told(message)],
  text: (message) => ["onText", message.data.text, told(message)],
  reasoning: (message) => ["onReasoning", message.data.text, told(message)],
  message: (message) => ["onMessage", told(message)],
  tool_call: (message) => ["onToolCall", told(message)],
  tool_result: (message) => ["onToolResult", told(message)],
  sources: (message) => ["onSources", message.data.sources, told(message)],
  workflow_step: (message) => ["onWorkflowStep", message.data.step, told(message)],
  interrupt: (message) => ["onInterrupt", told(message)],
  interrupt_answered: (message) => ["onInterruptAnswered", told(message)],
  state: (message) => ["onGraphState", told(message)],
  checkpoint: (message) => ["onCheckpoint", told(message)],
  custom: (message) => ["onCustom", message.data.name, message.data.data, told(message)],
  rolled_back: ({ run_id, seq, data }) => [
    "onRolledBack",
    { superseded: data.run_id, run_id, seq },
  ],
  attempt: (message) => ["onAttempt", told(message)],
  final: (message) => ["onFinal", told(message)],
  end: (message) => ["onEnd", message.data.status, told(message)],
  gap: ({ data }) => ["onGap", data],
  snapshot: ({ data }) => ["onSnapshot", data],
};

/**
 * A custom event that bears its own name.
 *
 * @param {Json} message
 * @returns {[name: "onCustom", ...values: unknown[]]}
 */
const custom = ({ type: name, data, run_id, seq }) => [
  "onCustom",
  name,
  data,
  { name, data, run_id, seq },
];

const KNOWN = new Set([...Object.keys(CALLBACKS), "error", "skipped"]);

/**
 * Whether the type of a message is one of the protocol's own.
 *
 * @param {api.Message} message
 * @returns {message is api.KnownMessage}
 */
export function isKnown(message) {
  return KNOWN.has(message.type);
}

/**
 * Call those who want to know of a message.
 *
 * @param {(api.Callbacks | undefined)[]} listeners
 * @param {Json} message
 * @param {(error: unknown) => void} report takes what a callback throws
 */
function notify(listeners, message, report) {
  const [name, ...values] = (
    Object.hasOwn(CALLBACKS, message.type) ? CALLBACKS[message.type] : custom
  )(message);
  // The beginning of this text is not known, so neither is the text so far.
  if ((name === "onText" || name === "onReasoning") && values[0] === undefined) return;
  for (const listener of listeners) call(listener?.[name], values, report);
}

/**
 * @param {Function | null | undefined} callback
 * @param {unknown[]} values
 * @param {(error: unknown) => void} report
 */
function call(callback, values, report) {
  if (callback == null) return;
  try {
    const result = callback(...values);
    if (typeof result?.then === "function") result.then(undefined, report);
  } catch (error) {
    report(error);
  }
}

// --- runs and threads -----------------------------------------------------------------------------

/** @typedef {{result: api.RunResult} | {error: unknown}} Outcome */

/** @implements {api.Run} */
class Run {
  #client;
  /** @type {Thread | null} */
  #thread = null;
  /** @type {RunRecord | null} */
  #record = null;
  #messages;
  /** @type {Outcome | null} */
  #outcome = null;
  /** @type {((value?: unknown) => void)[]} */
  #waiting = [];

  /**
   * @param {Client} client
   * @param {string} runId
   * @param {api.Callbacks} callbacks
   * @param {number} buffer
   */
  constructor(client, runId, callbacks, buffer) {
    this.#client = client;
    this.#messages = new Messages(buffer);
    this.runId = runId;
    this.callbacks = callbacks;
    /**
     * How the server said that it ended, and where in the log it said so: what comes until then may
     * tell more.
     *
     * @type {{status: api.RunStatus, head: number} | null}
     */
    this.known = null;
  }

  get thread() {
    if (this.#thread === null) throw new ChatError("the run has not begun");
    return this.#thread;
  }

  get view() {
    const { view } = this.thread;
    this.#record = view.runs.findLast((run) => run.runId === this.runId) ?? this.#record;
    return (this.#record ??= new RunRecord(view, this.runId));
  }

  get threadId() {
    return this.thread.threadId;
  }

  get status() {
    return this.view.status;
  }

  get text() {
    return this.view.text;
  }

  get messages() {
    return this.view.messages;
  }

  get toolCalls() {
    return this.view.toolCalls;
  }

  get sources() {
    return this.view.sources;
  }

  get steps() {
    return this.view.steps;
  }

  get interrupts() {
    return this.thread.view.interrupts;
  }

  /** Whether it has ended, or nothing more will be heard of it. */
  get over() {
    return this.#outcome !== null;
  }

  /** @param {Thread} thread */
  bind(thread) {
    this.#thread ??= thread;
    // Remembered now: a run that ends in the queue, or is rolled back, leaves the view.
    void this.view;
  }

  /** @param {Json} message */
  take(message) {
    this.#messages.push(/** @type {api.Message} */ (message));
    if (message.type === "end") this.end(message.data.status);
  }

  /**
   * Settle how it ended.
   *
   * @param {api.RunStatus} status
   */
  end(status) {
    const { view } = this;
    view.status = status;
    if (status === "completed" || status === "interrupted" || status === "cancelled") {
      const { text, final, messages, sources } = view;
      const { runId, threadId, interrupts } = this;
      this.#settle({
        result: { status, threadId, runId, text, final, messages, sources, interrupts },
      });
      return;
    }
    const error = view.error ?? {
      code: status,
      message: `the run ended as ${status}`,
      retryable: status === "drained",
    };
    if (view.error === null)
      this.#client.report(new RunFailedError(this.runId, error), this, this.#thread);
    this.#settle({ error: new RunFailedError(this.runId, error) });
  }

  /**
   * Nothing more will be heard of it.
   *
   * @param {unknown} error
   */
  abandon(error) {
    if (this.#outcome !== null) return;
    this.#messages.end(error);
    this.#settle({ error });
  }

  /** @param {Outcome} outcome */
  #settle(outcome) {
    if (this.#outcome !== null) return;
    this.#outcome = outcome;
    this.#messages.end();
    this.#client.ended(this);
    for (const wake of this.#waiting.splice(0)) wake();
  }

  /** @returns {Promise<api.RunResult>} */
  async result() {
    if (this.#outcome === null) await new Promise((resolve) => this.#waiting.push(resolve));
    const outcome = /** @type {Outcome} */ (this.#outcome);
    if ("error" in outcome) throw outcome.error;
    return outcome.result;
  }

  /** @returns {Promise<void>} */
  async cancel() {
    if (!this.over) await this.#client.cancel({ runId: this.runId });
  }

  /**
   * @param {unknown} value
   * @param {api.AnswerOptions} [options]
   * @returns {Promise<api.Run>}
   */
  answer(value, options) {
    return this.thread.answer(value, { ...this.callbacks, ...options });
  }

  [Symbol.asyncIterator]() {
    return this.#messages.iterate();
  }
}

/** @implements {api.Thread} */
class Thread {
  #client;
  #buffer;
  /** @type {Messages} */
  #messages;
  /** @type {Set<(view: View, thread: Thread) => unknown>} */
  #listeners = new Set();
  #changed = false;
  /** @type {() => void} */
  #answered = () => {};
  /** @type {(error: unknown) => void} */
  #refused = () => {};

  /**
   * @param {Client} client
   * @param {string} threadId
   * @param {api.AttachOptions} options
   * @param {number} buffer
   */
  constructor(client, threadId, options, buffer) {
    const { saved, after = saved?.position ?? null } = options;
    this.#client = client;
    this.#buffer = buffer;
    this.threadId = threadId;
    this.callbacks = callbacksOf(options);
    this.view = saved
      ? View.restore(threadId, /** @type {Json} */ (saved.view))
      : new View(threadId);
    /** @type {string | null} */
    this.epoch = after?.epoch ?? null;
    this.seq = after?.seq ?? 0;
    this.runId = after?.runId ?? null;
    /**
     * The only run that is followed; null: all of them.
     *
     * @type {string | null}
     */
    this.scope = options.runId ?? null;
    /** The head of the log when the server answered last. */
    this.head = 0;
    /** Runs of which it has to be asked how they ended; how many questions are on their way. */
    this.unsettled = /** @type {Set<Run>} */ (new Set());
    this.probes = 0;
    this.attached = false;
    /** Whether somebody has asked to follow it, and not only for a run on it. */
    this.wanted = false;
    // Whoever has not seen the beginning of a message cannot add up what is new of it.
    this.textMode = !saved && this.seq > 0 ? "full" : "delta";
    this.#messages = new Messages(buffer);
    this.ready = this.#promised();
  }

  /** It is followed again: whoever waits, or iterates, does so anew. */
  reopen() {
    this.attached = false;
    this.#messages = new Messages(this.#buffer);
    this.ready = this.#promised();
  }

  /** @returns {Promise<void>} */
  #promised() {
    const ready = new Promise((/** @type {(value: void) => void} */ resolve, reject) => {
      this.#answered = resolve;
      this.#refused = reject;
    });
    ready.catch(() => {});
    return ready;
  }

  /** Whether somebody looks at it, be there a run or not. */
  get held() {
    return this.wanted || this.#listeners.size > 0;
  }

  /** @returns {api.Position | null} */
  get position() {
    return this.epoch === null ? null : { epoch: this.epoch, seq: this.seq, runId: this.runId };
  }

  /** What `attach` asks for. */
  get following() {
    const from = this.seq > 0 && this.epoch !== null ? { after: this.seq, epoch: this.epoch } : {};
    const only = this.scope === null ? {} : { run_id: this.scope };
    return { thread_id: this.threadId, ...only, ...from, options: { text: this.textMode } };
  }

  /**
   * The server follows the thread from now on.
   *
   * @param {Json} data
   */
  accepted(data) {
    // An epoch that is new here has no meaning before its snapshot has come.
    this.epoch ??= data.epoch;
    this.head = data.head;
    this.attached = true;
    this.view.noted(data);
    this.#answered();
  }

  /**
   * Take the position of a message.
   *
   * @param {Json} message
   */
  moved({ type, seq, run_id: runId }) {
    this.seq = seq;
    if (type === "run") this.runId = runId;
    else if (type === "end" && this.runId === runId) this.runId = null;
    else if (type !== "end") this.runId ??= runId;
  }

  /** @param {Json} message */
  push(message) {
    this.#messages.push(/** @type {api.Message} */ (message));
    this.changed();
  }

  /** Tell the listeners of the view, once for all that arrives together. */
  changed() {
    if (this.#changed) return;
    this.#changed = true;
    queueMicrotask(() => {
      this.#changed = false;
      for (const listener of [...this.#listeners])
        call(listener, [this.view, this], this.#client.reportThrown);
      this.#client.changed(this);
    });
  }

  /**
   * It is followed no longer.
   *
   * @param {unknown} error
   * @param {boolean} quiet whether iterating simply ends
   */
  closed(error, quiet) {
    this.#refused(error);
    this.#messages.end(quiet ? null : error);
  }

  /** @returns {api.SavedThread | null} */
  save() {
    const { threadId, position, view } = this;
    return position && { version: 1, threadId, position, view: view.save() };
  }

  /**
   * @param {(view: api.ThreadView, thread: api.Thread) => unknown} listener
   * @returns {() => void}
   */
  subscribe(listener) {
    this.#listeners.add(listener);
    this.#client.follow(this);
    return () => {
      this.#listeners.delete(listener);
      this.#client.letGo(this);
    };
  }

  /**
   * @param {string | api.InputMessage[] | api.NewChatOptions} messages
   * @param {api.NewChatOptions} [options]
   * @returns {Promise<api.Run>}
   */
  newChat(messages, options) {
    return this.#client.newChat(messages, { ...options, threadId: this.threadId }, this);
  }

  /**
   * @param {api.ResumeChatOptions} [options]
   * @returns {Promise<api.Run>}
   */
  resumeChat(options) {
    return this.#client.resumeChat(this.threadId, options, this);
  }

  /**
   * @param {unknown} value
   * @param {api.AnswerOptions} [options]
   * @returns {Promise<api.Run>}
   */
  answer(value, options) {
    return this.resumeChat({ ...options, resume: value ?? null });
  }

  /** @returns {Promise<void>} */
  cancel() {
    return this.#client.cancel({ threadId: this.threadId });
  }

  /** @returns {Promise<void>} */
  detach() {
    return this.#client.detach(this);
  }

  [Symbol.asyncIterator]() {
    return this.#messages.iterate();
  }
}

// --- the client -----------------------------------------------------------------------------------

const RETRY_MS = 1_000;
const UNKNOWN_PACE_MS = 100;
const FASTEST_MS = 10;
const TOO_LONG = 1009;
const TOO_FAST = 4429;
const STARTS = new Set(["new_chat", "resume_chat"]);

/**
 * The turns of messages that must not be sent at once, because the server has refused some for their
 * rate (PROTOCOL.md): wait for as long as it says, then send one by one, no faster than the shortest
 * time that it has said. What is new waits behind what was refused: it counts, too.
 */
class Pace {
  /** @type {number[]} */
  #waiting = [];
  #interval = 0;
  #nextAt = 0;

  /**
   * Whether whatever is to be sent has to wait for its turn.
   *
   * @param {number} now
   */
  limited(now) {
    return this.#waiting.length > 0 || now < this.#nextAt;
  }

  /**
   * The server has refused a message.
   *
   * @param {number} retryAfter
   * @param {number} now
   * @returns {boolean} whether it had not done so already
   */
  slowDown(retryAfter, now) {
    const wait = Math.max(retryAfter, FASTEST_MS);
    const news = !this.limited(now);
    this.#interval = news ? wait : Math.min(this.#interval, wait);
    this.#nextAt = Math.max(this.#nextAt, now + wait);
    return news;
  }

  /**
   * Give a message its turn, after those that wait already.
   *
   * @param {number} id
   */
  wait(id) {
    if (!this.#waiting.includes(id)) this.#waiting.push(id);
  }

  /**
   * How long until the next turn; null where nothing waits.
   *
   * @param {number} now
   */
  due(now) {
    return this.#waiting.length > 0 ? Math.max(this.#nextAt - now, 0) : null;
  }

  /**
   * The message whose turn it is; the next one's comes an interval later.
   *
   * @param {number} now
   */
  take(now) {
    this.#nextAt = now + this.#interval;
    return /** @type {number} */ (this.#waiting.shift());
  }

  /** @param {boolean} abused whether the connection ended because too much was sent over it */
  disconnected(abused) {
    this.#waiting = [];
    this.#interval = abused ? this.#interval || UNKNOWN_PACE_MS : 0;
    this.#nextAt = 0;
  }

  /**
   * There is another connection; after one that was abused it is begun slowly.
   *
   * @param {number} now
   */
  connected(now) {
    if (this.#interval > 0) this.#nextAt = now + this.#interval;
  }
}

/**
 * A request that waits for its answer.
 *
 * @typedef {object} Request
 * @property {Json} message
 * @property {string} text the message as JSON
 * @property {boolean} sent
 * @property {Thread | null} attaches the thread that it follows: made anew on every connection
 * @property {(data: Json) => void} answered
 * @property {(error: unknown) => void} refused
 */

/** @implements {api.Client} */
class Client {
  #connection;
  #options;
  #buffer;
  /** @type {Map<string, Thread>} */
  #threads = new Map();
  /** @type {Map<string, Run>} runs that were started here and have not ended */
  #runs = new Map();
  /** @type {Map<string, Thread>} messages name their run, not their thread */
  #threadOfRun = new Map();
  /** @type {Map<number, Request>} */
  #requests = new Map();
  #nextId = 1;
  #pace = new Pace();
  /** @type {unknown} */
  #turn = null;
  #clock;
  /** @type {() => void} */
  #opened = () => {};
  /** @type {(error: unknown) => void} */
  #gaveUp = () => {};

  /**
   * @param {string | URL} url
   * @param {api.ConnectOptions} options
   */
  constructor(url, options) {
    const settings = connectionSettings(url, options);
    this.#options = options;
    this.#buffer = options.buffer ?? 1_000;
    this.#clock = settings.clock;
    /** @type {Promise<void>} */
    this.opened = new Promise((resolve, reject) => {
      this.#opened = resolve;
      this.#gaveUp = reject;
    });
    this.opened.catch(() => {});
    this.#connection = new Connection(settings, {
      state: (state) => call(options.onState, [state], this.reportThrown),
      opened: () => this.#resume(),
      lost: (code) => this.#interrupted(code),
      closed: (loss) => this.#closed(loss),
      message: (message) => this.#receive(message),
      error: (error) => this.report(error),
      wire: (direction, message) => call(options.onWire, [direction, message], this.reportThrown),
    });
    void this.#connection.dial();
  }

  get state() {
    return this.#connection.state;
  }

  /** @returns {ReadonlyMap<string, Thread>} */
  get threads() {
    return this.#threads;
  }

  // -- what people ask for

  /**
   * @param {string | api.InputMessage[] | api.NewChatOptions} messages
   * @param {api.NewChatOptions} [options]
   * @param {Thread} [thread] the thread, where it is asked
   * @returns {Promise<Run>}
   */
  async newChat(messages, options = {}, thread = undefined) {
    const listed = typeof messages === "string" || Array.isArray(messages);
    const asked = listed ? { ...options, messages } : { ...messages, ...options };
    return this.#start("new_chat", newChatFields(asked), asked, thread);
  }

  /**
   * @param {string} threadId
   * @param {api.ResumeChatOptions} [options]
   * @param {Thread} [thread] the thread, where it is asked
   * @returns {Promise<Run>}
   */
  async resumeChat(threadId, options = {}, thread = undefined) {
    return this.#start("resume_chat", resumeChatFields(threadId, options), options, thread);
  }

  /**
   * @param {string} threadId
   * @param {api.AttachOptions} [options]
   * @returns {Thread}
   */
  thread(threadId, options = {}) {
    ensureId(threadId, "threadId");
    checkOptions(options, ATTACH_OPTIONS);
    const { saved, after, runId } = options;
    if (runId !== undefined) ensureId(runId, "runId");
    if (after != null) checkPosition(after);
    if (saved != null) checkSaved(saved, threadId);
    this.#ensureOpen();
    const known = this.#threads.get(threadId);
    const thread = known ?? this.#begin(threadId, options);
    thread.wanted = true;
    if (known !== undefined && runId === undefined) this.#widen(known);
    return thread;
  }

  /**
   * @param {string} threadId
   * @param {api.AttachOptions} [options]
   * @returns {Promise<Thread>}
   */
  async attach(threadId, options) {
    const thread = this.thread(threadId, options);
    await thread.ready;
    return thread;
  }

  reconnectNow() {
    this.#connection.reconnectNow();
  }

  /** @returns {Promise<void>} */
  close() {
    return this.#connection.close();
  }

  /**
   * @param {{runId?: string, threadId?: string}} which
   * @returns {Promise<void>}
   */
  async cancel({ runId, threadId }) {
    if (runId === undefined) ensureId(threadId, "threadId");
    else ensureId(runId, "runId");
    await this.#ask("cancel", runId === undefined ? { thread_id: threadId } : { run_id: runId });
  }

  /** @param {Thread} thread */
  async detach(thread) {
    thread.wanted = false;
    if (this.#threads.get(thread.threadId) !== thread) return;
    this.#forget(thread, new DetachedError("the thread was detached"), true);
    await this.#leave(thread.threadId);
  }

  // -- what runs and threads tell

  /** @param {Run} run */
  ended(run) {
    this.#runs.delete(run.runId);
  }

  /** @param {Thread} thread */
  changed(thread) {
    call(this.#options.onChange, [thread.view, thread], this.reportThrown);
  }

  /**
   * Takes what callbacks throw.
   *
   * @type {(error: unknown) => void}
   */
  reportThrown = (error) => this.report(error);

  /**
   * Tell of an error; nothing that listens to errors may end anything by throwing one.
   *
   * @param {unknown} error
   * @param {Run | null} [run]
   * @param {Thread | null} [thread]
   */
  report(error, run = null, thread = null) {
    for (const { onError } of [run?.callbacks ?? {}, thread?.callbacks ?? {}, this.#options]) {
      call(onError, [error], (thrown) => console.error("onError:", thrown));
    }
  }

  // -- following

  /**
   * Follow a thread again that was let go, from where it stands.
   *
   * @param {Thread} thread
   */
  follow(thread) {
    if (this.state.status === "closed" || this.#threads.has(thread.threadId)) return;
    thread.reopen();
    this.#enlist(thread);
  }

  /**
   * Let go of a thread that was followed for the sake of its runs, when none goes on.
   *
   * @param {Thread} thread
   */
  letGo(thread) {
    const { threadId } = thread;
    if (this.#threads.get(threadId) !== thread || thread.held || thread.probes > 0) return;
    if (this.#isStarting(threadId) || this.#runsOf(thread).length > 0) return;
    this.#forget(thread, new DetachedError("its runs have ended"), true);
    this.#leave(threadId).catch(this.reportThrown);
  }

  /**
   * @param {string} threadId
   * @param {api.AttachOptions} options
   */
  #begin(threadId, options) {
    const thread = new Thread(this, threadId, options, this.#buffer);
    this.#enlist(thread);
    return thread;
  }

  /** @param {Thread} thread */
  #enlist(thread) {
    this.#threads.set(thread.threadId, thread);
    for (const { runId } of thread.view.runs) this.#threadOfRun.set(runId, thread);
    if (thread.runId !== null) this.#threadOfRun.set(thread.runId, thread);
    if (this.#connection.ready) this.#follow(thread);
  }

  /**
   * Have the server tell of a thread no longer. On another connection it does not anyway.
   *
   * @param {string} threadId
   */
  async #leave(threadId) {
    if (this.#connection.ready) await this.#ask("detach", { thread_id: threadId });
  }

  /**
   * Whether a run is about to start on a thread.
   *
   * @param {string} threadId
   */
  #isStarting(threadId) {
    return [...this.#requests.values()].some(
      ({ message }) => STARTS.has(message.type) && message.thread_id === threadId,
    );
  }

  /**
   * Follow all of a thread of which only a run was followed.
   *
   * @param {Thread} thread
   */
  #widen(thread) {
    if (thread.scope === null) return;
    thread.scope = null;
    if (this.#connection.ready) this.#follow(thread);
  }

  /** @param {Thread} thread */
  #follow(thread) {
    this.#send({
      message: { type: "attach", ...thread.following },
      attaches: thread,
      answered: (data) => {
        thread.accepted(data);
        for (const run of thread.unsettled) this.#probe(thread, run);
      },
      refused: (error) => this.#notFollowed(thread, error),
    });
  }

  /**
   * @param {Thread} thread
   * @param {unknown} error
   */
  #notFollowed(thread, error) {
    const again = thread.attached && error instanceof RequestRefused && error.retryable;
    if (again) {
      this.#connection.drop(error.message);
      return;
    }
    if (thread.attached) this.report(error, null, thread);
    this.#forget(thread, error, false);
  }

  /**
   * @param {Thread} thread
   * @param {unknown} error
   * @param {boolean} quiet
   */
  #forget(thread, error, quiet) {
    this.#threads.delete(thread.threadId);
    for (const [runId, other] of this.#threadOfRun) {
      if (other !== thread) continue;
      this.#threadOfRun.delete(runId);
      this.#runs.get(runId)?.abandon(error);
    }
    for (const [id, request] of this.#requests)
      if (request.attaches === thread) this.#requests.delete(id);
    thread.closed(error, quiet);
  }

  /**
   * Ask how a run ended that a snapshot does not tell of. The server answers that while it follows
   * this run only; what it shows meanwhile is ignored, and the thread followed again at once.
   *
   * @param {Thread} thread
   * @param {Run} run
   */
  #probe(thread, run) {
    thread.unsettled.add(run);
    thread.probes++;
    this.#send({
      message: {
        type: "attach",
        ...thread.following,
        run_id: run.runId,
        after: undefined,
        epoch: undefined,
      },
      attaches: thread,
      answered: ({ status }) => (run.known = ENDED.has(status) ? { status, head: 0 } : null),
      refused: () => (run.known = { status: "lost", head: 0 }),
    });
    this.#send({
      message: { type: "attach", ...thread.following },
      attaches: thread,
      answered: (data) => {
        thread.probes--;
        thread.unsettled.delete(run);
        thread.accepted(data);
        this.#settle(thread);
      },
      refused: (error) => this.#notFollowed(thread, error),
    });
  }

  /**
   * End the runs of which it is known how they ended, once nothing more can be heard of them.
   *
   * @param {Thread} thread
   */
  #settle(thread) {
    for (const run of this.#runsOf(thread)) {
      if (run.known === null || thread.probes > 0 || thread.seq < run.known.head) continue;
      const { status } = run.known;
      const end = { type: "end", run_id: run.runId, seq: thread.seq, data: { status } };
      notify([run.callbacks, this.#options], end, (error) => this.report(error, run));
      run.take(end);
    }
    this.letGo(thread);
  }

  // -- asking

  /**
   * @param {"new_chat" | "resume_chat"} type
   * @param {Json} fields
   * @param {api.StartOptions} given
   * @param {Thread | undefined} asked
   */
  async #start(type, fields, given, asked) {
    if (asked !== undefined) this.follow(asked);
    const thread = this.#threads.get(fields.thread_id);
    if (thread !== undefined) this.#widen(thread);
    const options = { ...fields.options, text: thread?.textMode ?? "delta" };
    const runId = fields.run_id;
    const known = this.#runs.get(runId);
    const run = known ?? new Run(this, runId, callbacksOf(given), this.#buffer);
    this.#runs.set(runId, run);
    try {
      await this.#ask(type, { ...fields, options }, (data) => this.#started(run, data));
    } catch (error) {
      if (known === undefined) this.#runs.delete(runId);
      if (thread !== undefined) this.letGo(thread);
      throw error;
    }
    return run;
  }

  /**
   * @param {Run} run
   * @param {Json} data
   */
  #started(run, data) {
    let thread = this.#threads.get(data.thread_id);
    if (thread === undefined) {
      thread = new Thread(this, data.thread_id, {}, this.#buffer);
      this.#threads.set(data.thread_id, thread);
    }
    this.#threadOfRun.set(run.runId, thread);
    thread.accepted(data);
    run.bind(thread);
    thread.changed();
    if (ENDED.has(data.status) && !run.over) run.known = { status: data.status, head: data.head };
    this.#settle(thread);
  }

  /**
   * @param {string} type
   * @param {Json} fields
   * @param {(data: Json) => void} [answered] called at once, before what follows the answer
   * @returns {Promise<void>}
   */
  #ask(type, fields, answered = () => {}) {
    return new Promise((resolve, reject) => {
      this.#ensureOpen();
      this.#send({
        message: { type, ...fields },
        attaches: null,
        answered: (data) => {
          answered(data);
          resolve();
        },
        refused: reject,
      });
    });
  }

  #ensureOpen() {
    const { state } = this;
    if (state.status === "closed") throw state.error ?? closedError();
  }

  /** @param {Omit<Request, "text" | "sent">} request */
  #send(request) {
    const id = this.#nextId++;
    const message = { id, ...request.message };
    this.#requests.set(id, { ...request, message, text: JSON.stringify(message), sent: false });
    if (this.#connection.ready) this.#dispatch(id);
  }

  /**
   * Send a request, or have it wait for its turn.
   *
   * @param {number} id
   */
  #dispatch(id) {
    if (this.#pace.limited(this.#clock.now())) this.#dispatchInTurn(id);
    else this.#put(this.#requests.get(id));
  }

  /** @param {number} id */
  #dispatchInTurn(id) {
    this.#pace.wait(id);
    if (this.#turn === null) this.#awaitTurn();
  }

  #awaitTurn() {
    const due = this.#pace.due(this.#clock.now());
    this.#turn = due === null ? null : this.#clock.setTimeout(() => this.#takeTurn(), due);
  }

  #takeTurn() {
    const now = this.#clock.now();
    if (this.#pace.due(now) === 0) {
      const id = this.#pace.take(now);
      const request = this.#requests.get(id);
      const threadId = request?.message.thread_id;
      const isFollowed = this.#threads.has(threadId) || this.#isStarting(threadId);
      // What was to be left is followed again meanwhile.
      if (request?.message.type === "detach" && isFollowed) this.#take(id)?.answered({});
      else this.#put(request);
    }
    this.#awaitTurn();
  }

  /** @param {Request | undefined} request */
  #put(request) {
    if (request === undefined) return;
    request.sent = true;
    this.#connection.send(request.message, request.text);
  }

  /** Follow again what was followed, then ask again what was not answered. */
  #resume() {
    this.#opened();
    this.#pace.connected(this.#clock.now());
    for (const thread of this.#threads.values()) this.#follow(thread);
    for (const [id, request] of [...this.#requests]) if (!request.sent) this.#dispatch(id);
  }

  /** @param {number} code */
  #interrupted(code) {
    if (code === TOO_LONG) this.#refuseLongest();
    this.#clock.clearTimeout(this.#turn);
    this.#turn = null;
    this.#pace.disconnected(code === TOO_FAST);
    for (const [id, request] of this.#requests) {
      request.sent = false;
      if (request.attaches !== null) this.#requests.delete(id);
      if (request.message.type === "detach") this.#take(id)?.answered({});
    }
    for (const thread of this.#threads.values()) thread.probes = 0;
  }

  /** One of what was sent is longer than the server takes: the longest must not be sent again. */
  #refuseLongest() {
    const sent = [...this.#requests].filter(([, request]) => request.sent);
    const [longest] = sent.sort(([, one], [, other]) => other.text.length - one.text.length);
    if (longest === undefined) return;
    const message = "the message is longer than the server takes";
    this.#take(longest[0])?.refused(new RequestRefused({ code: "limit_exceeded", message }));
  }

  /** @param {api.Loss} loss */
  #closed(loss) {
    const error = loss.cause ?? closedError();
    const quiet = loss.cause === undefined;
    for (const id of [...this.#requests.keys()]) this.#take(id)?.refused(error);
    for (const thread of [...this.#threads.values()]) this.#forget(thread, error, quiet);
    this.#gaveUp(error);
  }

  /** @param {number} id */
  #take(id) {
    const request = this.#requests.get(id);
    this.#requests.delete(id);
    return request;
  }

  // -- hearing

  /** @param {Json} message */
  #receive(message) {
    try {
      if (message.seq !== undefined) this.#logged(message);
      else if (message.request_id !== undefined) this.#answer(message);
      else if (message.type === "gap" || message.type === "snapshot") this.#recovered(message);
      else if (message.type === "error") this.report(new RequestRefused(/** @type {any} */ (message.data)));
    } catch (cause) {
      this.report(
        new ProtocolError(`the message "${message.type}" is not as it should be`, { cause }),
      );
    }
  }

  /** @param {Json} message */
  #answer({ type, request_id: id, data }) {
    const isLeft = this.#requests.get(id)?.message.type === "detach";
    if (type === "error" && (data.code === "rate_limited" || (isLeft && data.retryable))) {
      this.#slowDown(data, id);
      return;
    }
    const request = this.#take(id);
    if (request === undefined) return;
    if (type !== "error") {
      request.answered(data);
      return;
    }
    // It has ended meanwhile: a first attempt may have stopped it.
    const isOver = data.code === "not_found" && ["cancel", "detach"].includes(request.message.type);
    if (isOver) request.answered(data);
    else request.refused(new RequestRefused(/** @type {any} */ (data)));
  }

  /**
   * A message came too fast and was not carried out: have it wait, and what comes after.
   *
   * @param {Json} data
   * @param {number} id
   */
  #slowDown(data, id) {
    const wait = data.retry_after_ms ?? RETRY_MS;
    if (this.#pace.slowDown(wait, this.#clock.now()))
      this.report(new RequestRefused(/** @type {any} */ (data)));
    if (this.#requests.has(id)) this.#dispatchInTurn(id);
  }

  /** @param {Json} message */
  #logged(message) {
    const thread = this.#threadOf(message);
    if (thread === undefined) return;
    const run = this.#runs.get(message.run_id);
    if (message.seq <= thread.seq) {
      if (thread.probes > 0 && ["final", "error", "end"].includes(message.type))
        this.#late(run, message);
      return;
    }
    thread.moved(message);
    run?.bind(thread);
    thread.view.apply(message);
    this.#tell(thread, run, message);
    this.#settle(thread);
  }

  /**
   * How a run ended that the view knows no more.
   *
   * @param {Run | undefined} run
   * @param {Json} message
   */
  #late(run, message) {
    if (run === undefined) return;
    if (message.type === "final") run.view.final = message.data;
    if (message.type === "error") run.view.error = message.data;
    this.#tell(run.thread, run, message);
  }

  /**
   * @param {Thread} thread
   * @param {Run | undefined} run
   * @param {Json} message
   */
  #tell(thread, run, message) {
    if (message.type === "error")
      this.report(new RunFailedError(message.run_id, message.data), run, thread);
    else
      notify([run?.callbacks, thread.callbacks, this.#options], message, (error) =>
        this.report(error, run, thread),
      );
    thread.push(message);
    run?.take(message);
  }

  /**
   * The thread of a logged message.
   *
   * @param {Json} message
   * @returns {Thread | undefined}
   */
  #threadOf({ type, run_id: runId, data }) {
    let thread = type === "run" ? this.#threads.get(data.thread_id) : this.#threadOfRun.get(runId);
    if (thread === undefined && type !== "run") thread = this.#onlyThread(type);
    if (thread !== undefined) this.#threadOfRun.set(runId, thread);
    return thread;
  }

  /**
   * Of a run that was in the middle at a position without a `runId`, the thread is known only when
   * no other could be meant. Of one that was stopped in the queue nothing but its end is told.
   *
   * @param {string} type
   */
  #onlyThread(type) {
    if (this.#threads.size === 1) return this.#threads.values().next().value;
    const unknown = [...this.#threads.values()].filter(
      (thread) => thread.textMode === "full" && thread.view.run === null,
    );
    if (unknown.length === 1 && type !== "end" && type !== "error") return unknown[0];
    return undefined;
  }

  /** @param {Json} message */
  #recovered(message) {
    const { data } = message;
    const thread = this.#threads.get(data.thread_id);
    // While the server is asked about one run, it shows the thread as that run has left it.
    if (thread === undefined || thread.probes > 0) return;
    if (message.type === "snapshot") this.#replaced(thread, data);
    notify([thread.callbacks, this.#options], message, (error) => this.report(error, null, thread));
    thread.push(message);
    for (const run of this.#runsOf(thread)) {
      notify([run.callbacks], message, (error) => this.report(error, run));
      run.take(message);
    }
    if (message.type === "snapshot") this.#settle(thread);
  }

  /**
   * @param {Thread} thread
   * @param {Json} data
   */
  #replaced(thread, data) {
    const lost = thread.epoch !== data.epoch;
    thread.view.replace(data);
    thread.epoch = data.epoch;
    thread.seq = data.seq;
    thread.textMode = "delta";
    thread.runId = data.run?.run_id ?? null;
    if (thread.runId !== null) this.#threadOfRun.set(thread.runId, thread);
    for (const run of this.#runsOf(thread)) {
      if (run.runId !== thread.runId) this.#missing(thread, run, lost);
      else if (ENDED.has(data.run.status))
        run.known = { status: data.run.status, head: thread.head };
    }
  }

  /**
   * A snapshot does not tell of a run: with the log of its thread the run was lost, too; otherwise
   * the server knows.
   *
   * @param {Thread} thread
   * @param {Run} run
   * @param {boolean} lost
   */
  #missing(thread, run, lost) {
    if (lost) run.known = { status: "lost", head: 0 };
    else this.#probe(thread, run);
  }

  /** @param {Thread} thread */
  #runsOf(thread) {
    return [...this.#runs.values()].filter((run) => this.#threadOfRun.get(run.runId) === thread);
  }
}

/** What is thrown after `close`. */
const closedError = () => new ConnectionFailedError("the client was closed");

/**
 * @param {unknown} saved
 * @param {string} threadId
 */
function checkSaved(saved, threadId) {
  ensure(
    isObject(saved) && saved.version === 1 && isObject(saved.view),
    "saved",
    "expected what Thread.save gave",
  );
  ensure(saved.threadId === threadId, "saved", "expected what the same thread gave");
  checkPosition(saved.position);
}

/**
 * Connect to a graph that `langgraph_ws` serves; see client.d.ts.
 *
 * @param {string | URL} url
 * @param {api.ConnectOptions} [options]
 * @returns {api.Client}
 */
export function connect(url, options = {}) {
  return new Client(url, options);
}
