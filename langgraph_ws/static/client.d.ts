/** Types of `client.js`, the browser and Node client of the chat protocol (see PROTOCOL.md). */

/**
 * Connect to a graph that `langgraph_ws` serves.
 *
 * Returns at once; what is asked for before the connection is open is sent as soon as it is.
 *
 * @param url `ws:`, `wss:`, `http:` or `https:`; in a page it may be relative to it.
 * @throws {InvalidRequest} An option is not what it may be, or there is no `WebSocket`.
 */
export function connect(url: string | URL, options?: ConnectOptions): Client;

// --- options ------------------------------------------------------------------------------------

export interface ConnectOptions extends Callbacks {
  /**
   * Sent first on every connection. A function is called anew for each of them, so that it can
   * refresh what has expired.
   */
  token?: string | (() => string | Promise<string>);
  /**
   * The class to connect with; default: the global one. Node 20 has none: pass that of the package
   * `ws` (a subclass of it can add headers to the handshake; browsers cannot).
   */
  WebSocket?: WebSocketConstructor;
  /** How to reconnect; false: not at all. */
  reconnect?: ReconnectOptions | false;
  /** Send a ping after so much silence, and reconnect after 2.5 times as much. Default 20,000. */
  heartbeatMs?: number;
  /**
   * The most messages that wait for an iteration, of each run and thread. The oldest beyond it are
   * dropped, and a `skipped` message stands for them; views miss nothing. Default 1,000.
   */
  buffer?: number;
  /** Called when the connection changes its state. */
  onState?: (state: ConnectionState) => unknown;
  /** Called once after the messages that arrived together have changed the view of a thread. */
  onChange?: (view: ThreadView, thread: Thread) => unknown;
  /** Called with everything that is sent and received; tokens are left out. */
  onWire?: (direction: "in" | "out", message: Readonly<Record<string, unknown>>) => unknown;
  /** Time, for tests. */
  clock?: Clock;
  /** A number from 0 up to 1, for tests. */
  random?: () => number;
}

/** Before attempt n the client waits `min(delayMs * 1.5 ** (n - 1), maxDelayMs)`, give or take. */
export interface ReconnectOptions {
  /** Default 1,000. */
  delayMs?: number;
  /** Default 30,000. */
  maxDelayMs?: number;
  /** The part of the delay that chance may add or take away, 0 to 1. Default 0.15. */
  jitter?: number;
  /** Attempts in a row before the client gives up; null: it never does. Default 10. */
  maxAttempts?: number | null;
}

export interface Superseded {
  superseded: string;
}

/** What a message says, and its place in the log. */
export type Told<Data> = Data & { run_id: string; seq: number };

/**
 * What is called when messages arrive: on the client for all of them, on a thread or a run for its
 * own, each once for a message. They may be asynchronous; nothing waits for them. The first argument
 * is what the name says; the message follows where that is more.
 */
export interface Callbacks {
  /** A run begins. */
  onRun?: (run: Told<RunData>) => unknown;
  /** `text` is all of the text of the message so far. */
  onText?: (text: string, message: Told<TextData>) => unknown;
  /** `text` is all of the reasoning of the message so far. */
  onReasoning?: (text: string, message: Told<TextData>) => unknown;
  /** A message is finished. */
  onMessage?: (message: Told<MessageData>) => unknown;
  onToolCall?: (call: Told<ToolCallData>) => unknown;
  onToolResult?: (result: Told<ToolResultData>) => unknown;
  /** `sources` are all of the run so far. */
  onSources?: (sources: Source[], message: Told<SourcesData>) => unknown;
  /** `step` is the name of the node; `message.status` says whether it began or ended. */
  onWorkflowStep?: (step: string, message: Told<WorkflowStepData>) => unknown;
  onInterrupt?: (interrupt: Told<Interrupt>) => unknown;
  onInterruptAnswered?: (answered: Told<InterruptAnsweredData>) => unknown;
  /** The state of the graph, where the application shows it. */
  onGraphState?: (state: Told<StateData>) => unknown;
  onCheckpoint?: (checkpoint: Told<CheckpointData>) => unknown;
  /** What the application sent itself. */
  onCustom?: (name: string, data: unknown, message: Told<CustomData>) => unknown;
  /** What the run `superseded` has said is void. */
  onRolledBack?: (rolledBack: Told<Superseded>) => unknown;
  onAttempt?: (attempt: Told<AttemptData>) => unknown;
  onFinal?: (final: Told<Final>) => unknown;
  onEnd?: (status: RunStatus, message: Told<EndData>) => unknown;
  /** Something was lost; a snapshot that makes up for it follows. */
  onGap?: (gap: GapData) => unknown;
  /** The view of the thread was replaced. */
  onSnapshot?: (snapshot: SnapshotData) => unknown;
  /**
   * A connection was lost (`ConnectionLostError`) or given up (`ConnectionFailedError`), a message
   * was not understood (`ProtocolError`), a run failed (`RunFailedError`), the server refused what
   * nobody waits for (`RequestRefused`), or a callback threw (what it threw).
   */
  onError?: (error: unknown) => unknown;
}

export type MultitaskStrategy = "enqueue" | "reject" | "interrupt" | "rollback";

/** A message for the graph. */
export interface InputMessage {
  role: "user" | "assistant" | "tool";
  content: string | ContentBlock[];
  id?: string;
  name?: string;
  /** Which call it answers; needed when `role` is `tool`. */
  tool_call_id?: string;
  tool_calls?: { id?: string; name: string; args: Record<string, unknown> }[];
}

export interface StartOptions extends Callbacks {
  /** Which graph, where the server serves several. */
  assistantId?: string;
  /** The id of the run; default: a new UUID. */
  runId?: string;
  /** What to do when the thread has an active run; default: what the server says. */
  multitaskStrategy?: MultitaskStrategy;
  /** More options for the graph; those that the application allows reach it. */
  options?: Record<string, unknown>;
}

export interface NewChatOptions extends StartOptions {
  /** A text, or messages. One of `messages` and `input` is needed. */
  messages?: string | InputMessage[];
  /** The graph's input as it is: any JSON value but null. */
  input?: unknown;
  /** The thread; default: a new one. To see what was said on it before, `attach` to it first. */
  threadId?: string;
}

export interface ResumeChatOptions extends StartOptions {
  /** The next turn. At most one of `messages`, `input` and `resume`; with none, the thread goes on. */
  messages?: string | InputMessage[];
  input?: unknown;
  /** Answers to interrupts: `{id: value}`, or a bare value when exactly one waits. */
  resume?: unknown;
  /** The checkpoint to go on from (edit, fork); default: the newest. */
  checkpointId?: string;
  /** A change to the state, beside `resume`. */
  update?: unknown;
  /** Nodes to go to, beside `resume`. */
  goto?: string | string[];
}

export type AnswerOptions = Omit<ResumeChatOptions, "messages" | "input" | "resume">;

export interface AttachOptions extends Callbacks {
  /** Go on after this position; default: from the beginning, as far as the server holds it. */
  after?: Position | null;
  /** Go on from what `Thread.save` gave: with the view, and after its position. */
  saved?: SavedThread | null;
  /** Follow this run of the thread only, to its end. */
  runId?: string;
}

export interface Clock {
  /** Milliseconds. */
  now(): number;
  setTimeout(callback: () => void, ms: number): unknown;
  clearTimeout(timer: unknown): void;
}

export interface WebSocketLike {
  onopen: ((event: any) => void) | null;
  onmessage: ((event: any) => void) | null;
  onerror: ((event: any) => void) | null;
  onclose: ((event: any) => void) | null;
  send(data: string): void;
  close(code?: number, reason?: string): void;
}

export type WebSocketConstructor = new (url: string, protocols?: string[]) => WebSocketLike;

// --- the client -----------------------------------------------------------------------------------

export type ConnectionState =
  | { readonly status: "connecting" }
  | { readonly status: "open" }
  | {
      readonly status: "reconnecting";
      /** Attempts in a row, from 1. */
      readonly attempt: number;
      /** How long the client waits before it. */
      readonly delayMs: number;
      readonly reason: string;
    }
  | {
      readonly status: "closed";
      readonly reason: string;
      /** Null when the client was closed with `close`. */
      readonly error: ConnectionFailedError | null;
    };

/** One connection that mends itself; any number of threads and runs. */
export interface Client {
  readonly state: ConnectionState;
  /** Resolves when the connection is open for the first time; rejects when it is given up. */
  readonly opened: Promise<void>;
  /**
   * The threads that are followed: those that were asked for (`thread`, `attach`, `subscribe`), and
   * those on which a run goes on that was started here.
   */
  readonly threads: ReadonlyMap<string, Thread>;

  /**
   * Start a run, on a new thread unless one is named. It is started once, however often the
   * connection breaks.
   *
   * @throws {InvalidRequest} It was not even sent.
   * @throws {RequestRefused} The server refused it.
   * @throws {ConnectionFailedError} The connection was given up.
   */
  newChat(messages: string | InputMessage[], options?: NewChatOptions): Promise<Run>;
  newChat(options: NewChatOptions): Promise<Run>;

  /** Go on with a thread: the next turn, answers, a fork, or simply on. Throws as `newChat` does. */
  resumeChat(threadId: string, options?: ResumeChatOptions): Promise<Run>;

  /**
   * Follow a thread; returns at once. A thread that is followed already is returned as it is.
   *
   * @throws {InvalidRequest} An option is wrong.
   */
  thread(threadId: string, options?: AttachOptions): Thread;

  /** `thread`, and wait until the server has answered. Throws as `newChat` does. */
  attach(threadId: string, options?: AttachOptions): Promise<Thread>;

  /**
   * Stop a run: the one named, or the active one of a thread. Resolves when the server has told it
   * so; nothing happens when it has ended.
   */
  cancel(which: { runId: string } | { threadId: string }): Promise<void>;

  /** Try at once, when the client waits before it reconnects. */
  reconnectNow(): void;

  /** Close the connection; runs go on. Resolves when it is closed. */
  close(): Promise<void>;
}

/** Where in a thread a client stands; plain JSON data, to be kept. */
export interface Position {
  epoch: string;
  seq: number;
  /** The run that was going on there. */
  runId?: string | null;
}

/** A thread with its view; plain JSON data, to be kept (for example over the reload of a page). */
export interface SavedThread {
  version: 1;
  threadId: string;
  position: Position;
  view: unknown;
}

/**
 * A thread. Iterating over it gives the messages of all of its runs, as long as it is followed.
 *
 * One that was followed only because a run was started on it is let go when no run of this client goes
 * on there: the server lets a connection follow no more than so many. It can still be looked at, and
 * whatever is asked of it, or whoever subscribes to it, has it followed again from where it stood.
 */
export interface Thread extends AsyncIterable<Message> {
  readonly threadId: string;
  readonly view: ThreadView;
  /** Null until something is known of it. */
  readonly position: Position | null;
  /** Resolves when the server has answered `attach`; rejects when it refused. */
  readonly ready: Promise<void>;

  /** Have a function called after changes of the view, and follow it meanwhile; returns what ends that. */
  subscribe(listener: (view: ThreadView, thread: Thread) => unknown): () => void;
  newChat(messages: string | InputMessage[], options?: NewChatOptions): Promise<Run>;
  newChat(options: NewChatOptions): Promise<Run>;
  resumeChat(options?: ResumeChatOptions): Promise<Run>;
  /** Answer interrupts: `{id: value}`, or a bare value when exactly one waits. */
  answer(value: unknown, options?: AnswerOptions): Promise<Run>;
  /** Stop the active run. */
  cancel(): Promise<void>;
  /** What `attach` with `saved` goes on from; null until something is known of the thread. */
  save(): SavedThread | null;
  /** Stop following it; its runs go on. */
  detach(): Promise<void>;
}

/** A run that this client started. Iterating over it gives its messages, from `run` to `end`. */
export interface Run extends AsyncIterable<Message> {
  readonly runId: string;
  readonly threadId: string;
  readonly thread: Thread;
  readonly view: RunView;
  readonly status: RunState;
  /** The text of the last message of the assistant so far. */
  readonly text: string;
  readonly messages: readonly MessageView[];
  readonly toolCalls: readonly ToolCallView[];
  readonly sources: readonly Source[];
  readonly steps: readonly StepView[];
  /** Those of its thread that wait for an answer now. */
  readonly interrupts: readonly Interrupt[];

  /**
   * How it ended.
   *
   * @throws {RunFailedError} It failed, was drained, or was lost.
   * @throws {ConnectionFailedError} The connection was given up before that.
   * @throws {DetachedError} Its thread was detached before that.
   */
  result(): Promise<RunResult>;
  /**
   * Stop it. Resolves when the server has told it so; `result` tells when it has ended. To stop what
   * has ended is no error.
   */
  cancel(): Promise<void>;
  /**
   * Answer what it waits for: `{id: value}`, or a bare value when exactly one waits. The run that goes
   * on has the callbacks of this one, unless others are given.
   */
  answer(value: unknown, options?: AnswerOptions): Promise<Run>;
}

export interface RunResult {
  status: "completed" | "interrupted" | "cancelled";
  threadId: string;
  runId: string;
  text: string;
  /** Null unless it completed, and when it had to be learned from a snapshot that it did. */
  final: Final | null;
  messages: readonly MessageView[];
  sources: readonly Source[];
  interrupts: readonly Interrupt[];
}

// --- views ------------------------------------------------------------------------------------------

export type RunStatus = "completed" | "interrupted" | "cancelled" | "failed" | "drained" | "lost";
export type RunState = RunStatus | "queued" | "running" | "cancelling";

/**
 * What the messages of a thread add up to: what a page shows. It changes as they arrive; the
 * `version` of what has changed is then higher than before.
 */
export interface ThreadView {
  readonly threadId: string;
  readonly version: number;
  /** In the order in which they began; those that were rolled back are not among them. */
  readonly runs: readonly RunView[];
  /** In order; those of all runs. */
  readonly messages: readonly MessageView[];
  readonly toolCalls: readonly ToolCallView[];
  /** Those that wait for an answer. */
  readonly interrupts: readonly Interrupt[];
  /** The state of the graph, where the application shows it. */
  readonly values: unknown;
  /** The run that began last. */
  readonly run: RunView | null;
  /** The runs that wait. */
  readonly queued: readonly RunView[];
  /** How the run that began last stands. */
  readonly status: RunState | "idle";
  /** Those of the run that began last. */
  readonly sources: readonly Source[];
  /** Those of the run that began last. */
  readonly steps: readonly StepView[];
  /** The messages without those that a fork has left behind: what the newest run has built on. */
  readonly branch: readonly MessageView[];
}

export interface RunView {
  readonly runId: string;
  readonly status: RunState;
  /** The place in the queue, from 1, when it was put there. */
  readonly place: number | null;
  readonly graph: string | null;
  /** The checkpoint that it began from: where its turn can be edited. */
  readonly checkpointId: string | null;
  readonly checkpoints: readonly CheckpointData[];
  /** Milliseconds since 1970; null when its beginning was not seen. */
  readonly startedAt: number | null;
  readonly attempt: number;
  readonly messages: readonly MessageView[];
  readonly toolCalls: readonly ToolCallView[];
  readonly steps: readonly StepView[];
  readonly sources: readonly Source[];
  readonly final: Final | null;
  readonly error: RunErrorData | null;
  readonly text: string;
}

export type Role = "assistant" | "user" | "tool" | "system";

export interface MessageView {
  readonly id: string;
  /** Null when that is not known: it stood in a snapshot. */
  readonly runId: string | null;
  readonly role: Role;
  readonly status: "open" | "finished" | "failed" | "cancelled";
  readonly blocks: readonly BlockView[];
  /** All of its text. */
  readonly text: string;
  /** All of its reasoning. */
  readonly reasoning: string;
  /** Its beginning was not seen, so `text` and `reasoning` are incomplete until it is finished. */
  readonly partial: boolean;
  readonly node: string | null;
  readonly namespace: readonly string[];
  readonly taskId: string | null;
  readonly usage: Usage | null;
  readonly citations: readonly Record<string, unknown>[];
  readonly metadata: Readonly<Record<string, unknown>> | null;
  /** Milliseconds since 1970. */
  readonly time: number | null;
  /** Where in the log it was changed last. */
  readonly seq: number;
  readonly version: number;
}

export interface BlockView {
  readonly index: number;
  readonly kind: "text" | "reasoning" | "tool_call" | "media";
  /** What was written of it so far; the arguments, of a tool call. */
  readonly text: string;
  readonly toolCall: ToolCallView | null;
  /** The block as the server told it, once it is whole. */
  readonly content: ContentBlock | null;
}

export interface ToolCallView {
  readonly id: string | null;
  readonly name: string | null;
  readonly runId: string | null;
  /** Null when no message asked for it. */
  readonly messageId: string | null;
  readonly namespace: readonly string[];
  /** How far the model has written it. */
  readonly status: "started" | "arguments" | "finished";
  /** The JSON text so far. */
  readonly arguments: string;
  readonly args: Readonly<Record<string, unknown>> | null;
  /** Why `arguments` is no valid JSON. */
  readonly error: string | null;
  /** Null until the tool is at work. */
  readonly result: ToolResultView | null;
}

export interface ToolResultView {
  readonly status: "running" | "success" | "error";
  readonly input: unknown;
  /** What it put out while it worked. */
  readonly output: readonly unknown[];
  readonly content: unknown;
  /** Only where the application shows state. */
  readonly artifact: unknown;
}

export interface StepView {
  readonly step: string;
  readonly status: "started" | "finished" | "interrupted" | "failed" | "cancelled";
  readonly namespace: readonly string[];
  readonly taskId: string | null;
  readonly durationMs: number | null;
  readonly seq: number;
}

// --- messages ----------------------------------------------------------------------------------------
// As they are on the wire, in its spelling; PROTOCOL.md says what each field means.

export interface ContentBlock {
  type: string;
  [field: string]: unknown;
}

export interface Source {
  id: string;
  title?: string;
  url?: string;
  snippet?: string;
  metadata?: Record<string, unknown>;
}

export interface Usage {
  input_tokens: number;
  output_tokens: number;
  total_tokens: number;
  [detail: string]: unknown;
}

interface Logged<Type extends string, Data> {
  type: Type;
  run_id: string;
  seq: number;
  /** The first of the entries that were merged. */
  from_seq?: number;
  data: Data;
}

interface Place {
  node?: string;
  namespace?: string[];
}

interface Task extends Place {
  task_id?: string;
}

export interface RunData {
  thread_id: string;
  run_id: string | null;
  status: RunState | "idle" | "detached";
  place?: number;
  epoch: string;
  head: number;
  checkpoint_id: string | null;
  graph?: string | null;
  interrupts: Interrupt[];
  messages?: { message_id: string; role: Role; content: ContentBlock[] }[];
  time?: number;
}

export interface RunMessage {
  type: "run";
  run_id?: string;
  /** Absent in an answer. */
  seq?: number;
  request_id?: string | number;
  data: RunData;
}

export interface TextData extends Task {
  message_id: string;
  index: number;
  /**
   * All of the message so far: the client adds it up. Absent while the beginning of the message is
   * not known.
   */
  text?: string;
  delta?: string;
  offset?: number;
}

export type TextMessage = Logged<"text", TextData>;
export type ReasoningMessage = Logged<"reasoning", TextData>;

export interface MessageData extends Task {
  message_id: string;
  streamed_id?: string;
  role: Role;
  name?: string;
  content: ContentBlock[];
  status?: "finished" | "failed" | "cancelled";
  usage?: Usage;
  citations?: Record<string, unknown>[];
  metadata?: Record<string, unknown>;
  time?: number;
}

/** A message of the conversation is finished. */
export type FinishedMessage = Logged<"message", MessageData>;

export interface ToolCallData extends Task {
  message_id: string;
  index: number;
  status: "started" | "arguments" | "finished";
  tool_call_id?: string;
  name?: string;
  /** The JSON text so far: the client adds it up. */
  arguments?: string;
  delta?: string;
  offset?: number;
  args?: Record<string, unknown>;
  error?: string;
}

export type ToolCallMessage = Logged<"tool_call", ToolCallData>;

export interface ToolResultData {
  tool_call_id: string;
  name: string | null;
  namespace?: string[];
  status: "started" | "output" | "success" | "error";
  input?: unknown;
  delta?: unknown;
  content?: unknown;
  error_id?: string;
  artifact?: unknown;
}

export type ToolResultMessage = Logged<"tool_result", ToolResultData>;

export interface SourcesData {
  sources: Source[];
  /** How many of the last are new. */
  added: number;
}

export type SourcesMessage = Logged<"sources", SourcesData>;

export interface WorkflowStepData {
  step: string;
  status: "started" | "finished" | "interrupted" | "failed" | "cancelled";
  namespace?: string[];
  task_id?: string;
  duration_ms?: number;
}

export type WorkflowStepMessage = Logged<"workflow_step", WorkflowStepData>;

export interface Interrupt extends Task {
  id: string;
  value: unknown;
  ordinal?: number;
  response_schema?: unknown;
}

export type InterruptMessage = Logged<"interrupt", Interrupt>;

export interface InterruptAnsweredData {
  ids: string[];
  superseded: boolean;
}

export type InterruptAnsweredMessage = Logged<"interrupt_answered", InterruptAnsweredData>;

export interface StateData {
  values: unknown;
  node?: string | null;
  namespace?: string[];
}

export type StateMessage = Logged<"state", StateData>;

export interface CheckpointData {
  checkpoint_id: string;
  parent_id?: string | null;
  step: number | null;
  source: string | null;
  namespace?: string[];
}

export type CheckpointMessage = Logged<"checkpoint", CheckpointData>;

export interface RolledBackData {
  run_id: string;
}

export type RolledBackMessage = Logged<"rolled_back", RolledBackData>;

export interface AttemptData {
  attempt: number;
  rerun_task_ids: string[];
  rollback_to: number;
}

export type AttemptMessage = Logged<"attempt", AttemptData>;

export interface Final {
  text: string;
  message_id?: string;
  sources: Source[];
  usage?: Usage | null;
  execution_time_ms: number;
  checkpoint_id?: string;
  output?: unknown;
}

export type FinalMessage = Logged<"final", Final>;

export interface RunErrorData {
  code: string;
  message: string;
  retryable: boolean;
  error_id?: string;
}

/** A run failed. (An `error` that refuses a request rejects what asked for it instead.) */
export type ErrorMessage = Logged<"error", RunErrorData>;

export interface EndData {
  status: RunStatus;
}

export type EndMessage = Logged<"end", EndData>;

export interface CustomData {
  name: string;
  data: unknown;
}

/** A custom event that bears a name of the protocol, or none; all others bear their own name. */
export type NamedCustomMessage = Logged<"custom", CustomData>;

/** A custom event, or a type that this client does not know: its name is its type. */
export interface CustomMessage {
  type: string;
  run_id: string;
  seq: number;
  data: unknown;
}

export interface GapData {
  thread_id: string;
  reason: "epoch" | "ahead" | "trimmed" | "unknown";
  requested: number;
  first: number;
  head: number;
  epoch: string;
}

export interface GapMessage {
  type: "gap";
  data: GapData;
}

export interface SnapshotData {
  thread_id: string;
  epoch: string;
  seq: number;
  run: { run_id: string; status: RunState } | null;
  messages: MessageData[];
  open: (Task & {
    message_id: string;
    role: Role;
    blocks: {
      index: number;
      kind: BlockView["kind"];
      text: string;
      tool_call_id?: string;
      name?: string;
      block?: ContentBlock;
    }[];
  })[];
  interrupts: Interrupt[];
  sources: Source[];
  values?: unknown;
}

export interface SnapshotMessage {
  type: "snapshot";
  data: SnapshotData;
}

/** The client's own: so many messages were dropped because nobody took them in time. */
export interface SkippedMessage {
  type: "skipped";
  data: { count: number };
}

/** The messages of runs and threads whose type is known. */
export type KnownMessage =
  | RunMessage
  | TextMessage
  | ReasoningMessage
  | FinishedMessage
  | ToolCallMessage
  | ToolResultMessage
  | SourcesMessage
  | WorkflowStepMessage
  | InterruptMessage
  | InterruptAnsweredMessage
  | StateMessage
  | CheckpointMessage
  | RolledBackMessage
  | AttemptMessage
  | FinalMessage
  | ErrorMessage
  | EndMessage
  | NamedCustomMessage
  | GapMessage
  | SnapshotMessage
  | SkippedMessage;

/**
 * What an iteration gives. Its `type` tells which it is; a type that is none of those above is the
 * name of a custom event. `isKnown` narrows it, so that `switch (message.type)` is typed.
 */
export type Message = KnownMessage | CustomMessage;

/** Whether the type of a message is one of the protocol's own. */
export function isKnown(message: Message): message is KnownMessage;

// --- errors -------------------------------------------------------------------------------------------

/** The base of all errors of this module. */
export class ChatError extends Error {}

/** A request is wrong and was not sent. */
export class InvalidRequest extends ChatError {
  readonly field: string;
  constructor(field: string, expected: string);
}

/** The server refused a request. */
export class RequestRefused extends ChatError {
  readonly code: string;
  readonly retryable: boolean;
  /** Which field was wrong. */
  readonly field: string | null;
  /** In how many milliseconds it may be accepted, where the server knows. */
  readonly retryAfterMs: number | null;
  constructor(refusal: Refusal);
}

/** What the server says of a request that it refuses. */
export interface Refusal {
  code: string;
  message: string;
  retryable?: boolean;
  field?: string;
  retry_after_ms?: number;
}

/** A run failed, was drained, or was lost. */
export class RunFailedError extends ChatError {
  readonly code: string;
  readonly errorId: string | null;
  readonly retryable: boolean;
  readonly runId: string;
  constructor(runId: string, error: RunErrorData);
}

/** A connection was lost, or could not be made; the client tries again. */
export class ConnectionLostError extends ChatError {
  /** The close code; 1006 when there was no close frame. */
  readonly code: number | null;
  readonly reason: string;
  /** The status of an HTTP refusal, where the platform tells it (`ws` does, browsers do not). */
  readonly httpStatus: number | null;
  constructor(message: string, loss?: Loss);
}

/** The connection was given up (`cause` is the last loss), or the client closed. */
export class ConnectionFailedError extends ChatError {
  readonly code: number | null;
  readonly reason: string;
  readonly httpStatus: number | null;
  constructor(message: string, loss?: Loss);
}

export interface Loss {
  code?: number | null;
  reason?: string;
  httpStatus?: number | null;
  cause?: unknown;
}

/** The server sent what is no message of the protocol. */
export class ProtocolError extends ChatError {}

/** The thread was detached while somebody waited. */
export class DetachedError extends ChatError {}
