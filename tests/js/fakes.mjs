// A network and a time that tests hold in their hands.

import assert from "node:assert/strict";

import { connect } from "../../langgraph_ws/static/client.js";

/** Let everything that waits for nothing happen. */
export const settle = () => new Promise((resolve) => setImmediate(resolve));

/** A clock that only `advance` moves. */
export class ManualClock {
  time = 0;
  #timers = new Map();
  #next = 1;

  now() {
    return this.time;
  }

  setTimeout(callback, ms) {
    this.#timers.set(this.#next, { at: this.time + ms, callback });
    return this.#next++;
  }

  clearTimeout(timer) {
    this.#timers.delete(timer);
  }

  async advance(ms) {
    const until = this.time + ms;
    await settle();
    for (;;) {
      const due = [...this.#timers].filter(([, { at }]) => at <= until);
      if (due.length === 0) break;
      const [timer, { at, callback }] = due.sort(([, a], [, b]) => a.at - b.at)[0];
      this.#timers.delete(timer);
      this.time = Math.max(this.time, at);
      callback();
      await settle();
    }
    this.time = until;
  }

  get pending() {
    return this.#timers.size;
  }
}

/** Both ends of a socket: the client has the methods of a WebSocket, tests have the others. */
class FakeSocket {
  onopen = null;
  onmessage = null;
  onerror = null;
  onclose = null;
  sent = [];
  closed = null;

  constructor(url, protocols) {
    this.url = url;
    this.protocols = protocols;
  }

  send(text) {
    this.sent.push(JSON.parse(text));
  }

  close(code = 1005) {
    this.closed ??= code;
  }

  accept() {
    this.onopen?.({});
  }

  say(...messages) {
    for (const message of messages) {
      this.onmessage?.({ data: typeof message === "string" ? message : JSON.stringify(message) });
    }
  }

  /** Answer the last request of a type. */
  answer(type, data, kind = "run") {
    const request = this.sent.findLast((message) => message.type === type);
    assert(request, `no ${type} was sent`);
    this.say({ type: kind, request_id: request.id, data });
  }

  drop(code = 1006, reason = "") {
    this.onclose?.({ code, reason });
  }

  refuse(status) {
    this.onerror?.({ error: new Error(`Unexpected server response: ${status}`) });
    this.drop();
  }

  types() {
    return this.sent.map((message) => message.type);
  }
}

/** A client on a fake network; `sockets` are its connections, in order. */
export function fakeClient(options = {}) {
  const sockets = [];
  const states = [];
  const errors = [];
  const clock = new ManualClock();
  class WebSocket extends FakeSocket {
    constructor(url, protocols) {
      super(url, protocols);
      sockets.push(this);
    }
  }
  const client = connect("ws://test/ws", {
    WebSocket,
    clock,
    random: () => 0.5,
    onState: (state) => states.push(state),
    onError: (error) => errors.push(error),
    ...options,
  });
  return {
    client,
    clock,
    sockets,
    states,
    errors,
    get socket() {
      return sockets.at(-1);
    },
  };
}

/** A `run` that answers. */
export const standing = (data = {}) => ({
  thread_id: "t-1",
  run_id: null,
  status: "idle",
  epoch: "e-1",
  head: 0,
  checkpoint_id: null,
  interrupts: [],
  ...data,
});

/** A logged message. */
export const logged = (seq, type, data, run_id = "r-1") => ({ type, run_id, seq, data });

/** The logged beginning of a run. */
export const began = (seq, run_id = "r-1", data = {}) =>
  logged(seq, "run", standing({ run_id, status: "running", head: seq, ...data }), run_id);

/** A text in delta mode. */
export const delta = (seq, text, offset, more = {}, run_id = "r-1") =>
  logged(
    seq,
    "text",
    { message_id: "m-1", index: 0, node: "agent", delta: text, offset, ...more },
    run_id,
  );

/** A snapshot. */
export const snapshot = (data = {}) => ({
  type: "snapshot",
  data: {
    thread_id: "t-1",
    epoch: "e-1",
    seq: 100,
    run: null,
    messages: [],
    open: [],
    interrupts: [],
    sources: [],
    ...data,
  },
});

/** A gap. */
export const gap = (data = {}) => ({
  type: "gap",
  data: {
    thread_id: "t-1",
    reason: "trimmed",
    requested: 1,
    first: 90,
    head: 100,
    epoch: "e-1",
    ...data,
  },
});

/** A client that follows the thread t-1. */
export async function following(options = {}, attach = {}) {
  const fake = fakeClient(options);
  fake.socket.accept();
  const thread = fake.client.thread("t-1", attach);
  fake.socket.answer("attach", standing());
  await thread.ready;
  return { ...fake, socket: fake.sockets[0], thread };
}

/** A client with a run r-1 on t-1 that has been accepted. */
export async function running(options = {}, start = {}) {
  const fake = fakeClient(options);
  fake.socket.accept();
  const starting = fake.client.newChat("Hello", { runId: "r-1", ...start });
  fake.socket.answer("new_chat", standing({ run_id: "r-1", status: "running" }));
  const run = await starting;
  return { ...fake, socket: fake.sockets[0], run };
}
