// The connection: backoff, `bye`, close codes, tokens, silence.

import assert from "node:assert/strict";
import { test } from "node:test";

import {
  ConnectionFailedError,
  ConnectionLostError,
  InvalidRequest,
  ProtocolError,
  RequestRefused,
  connect,
} from "../../langgraph_ws/static/client.js";
import { ManualClock, fakeClient, following, running, settle, standing } from "./fakes.mjs";

const waits = (states) =>
  states.filter((state) => state.delayMs !== undefined).map((state) => state.delayMs);

const CLOSED = { name: "ConnectionFailedError", message: "the client was closed" };

test("connects at once, offers the subprotocol, and tells its states", async () => {
  const { client, socket, states } = fakeClient();
  assert.equal(socket.url, "ws://test/ws");
  assert.deepEqual(socket.protocols, ["langgraph-ws.chat.v1"]);
  assert.equal(client.state.status, "connecting");
  socket.accept();
  await client.opened;
  assert.deepEqual(states, [{ status: "connecting" }, { status: "open" }]);
});

test("takes http URLs, and those that are relative to a page", () => {
  class WebSocket {
    constructor(url) {
      assert.equal(url, "wss://example.com/ws?a=1");
    }
  }
  const clock = new ManualClock();
  connect("https://example.com/ws?a=1#part", { WebSocket, clock });
  globalThis.location = { href: "https://example.com/page" };
  try {
    connect("/ws?a=1", { WebSocket, clock });
  } finally {
    delete globalThis.location;
  }
});

test("refuses options that cannot be meant", () => {
  const bad = {
    url: ["nonsense", {}],
    WebSocket: ["ws://x", { WebSocket: "x" }],
    token: ["ws://x", { token: "" }],
    heartbeatMs: ["ws://x", { heartbeatMs: 0 }],
    buffer: ["ws://x", { buffer: -1 }],
    "reconnect.delayMs": ["ws://x", { reconnect: { delayMs: -1 } }],
    "reconnect.jitter": ["ws://x", { reconnect: { jitter: 2 } }],
    "reconnect.maxAttempts": ["ws://x", { reconnect: { maxAttempts: 1.5 } }],
    "reconnect.delay": ["ws://x", { reconnect: { delay: 1 } }],
    tokens: ["ws://x", { tokens: "x" }],
    onTxt: ["ws://x", { onTxt: () => {} }],
    onText: ["ws://x", { onText: "x" }],
    onState: ["ws://x", { onState: {} }],
    options: ["ws://x", null],
  };
  for (const [field, [url, options]] of Object.entries(bad)) {
    const given = options === null ? "x" : { WebSocket: class {}, ...options };
    const make = () => connect(url, given);
    assert.throws(make, (error) => error instanceof InvalidRequest && error.field === field, field);
  }
  assert.throws(() => connect("ftp://x", { WebSocket: class {} }), { field: "url" });
});

test("waits longer before each attempt, up to a ceiling, and gives up", async () => {
  const { client, clock, sockets, states, errors } = fakeClient({
    reconnect: { delayMs: 1000, maxDelayMs: 3000, maxAttempts: 5 },
  });
  const refused = assert.rejects(client.newChat("Hello"), ConnectionFailedError);
  for (let attempt = 0; attempt <= 5; attempt++) {
    assert.equal(sockets.length, attempt + 1);
    sockets[attempt].drop();
    await clock.advance(3000);
  }
  assert.deepEqual(waits(states), [1000, 1500, 2250, 3000, 3000]);
  await refused;
  await assert.rejects(client.opened, ConnectionFailedError);
  assert.equal(client.state.status, "closed");
  assert(client.state.error instanceof ConnectionFailedError);
  assert(client.state.error.cause instanceof ConnectionLostError);
  assert.deepEqual(
    errors.map((error) => error.name),
    [...Array(5).fill("ConnectionLostError"), "ConnectionFailedError"],
  );
  await assert.rejects(client.newChat("again"), ConnectionFailedError);
  assert.equal(clock.pending, 0);
});

test("lets chance add or take away a part of the delay", async () => {
  for (const [random, delay] of [
    [0, 850],
    [0.5, 1000],
    [1, 1150],
  ]) {
    const { socket, states } = fakeClient({ random: () => random });
    socket.drop();
    assert.deepEqual(waits(states), [delay]);
  }
});

test("begins with short waits again after a success", async () => {
  const { clock, sockets, states } = fakeClient();
  sockets[0].drop();
  await clock.advance(1000);
  sockets[1].drop();
  await clock.advance(1500);
  sockets[2].accept();
  sockets[2].drop();
  assert.deepEqual(waits(states), [1000, 1500, 1000]);
});

test("never gives up when told so, and gives up at once when told so", async () => {
  const patient = fakeClient({ reconnect: { delayMs: 10, maxDelayMs: 10, maxAttempts: null } });
  for (let attempt = 0; attempt < 50; attempt++) {
    patient.socket.drop();
    await patient.clock.advance(20);
  }
  assert.equal(patient.client.state.status, "connecting");
  const impatient = fakeClient({ reconnect: false });
  impatient.socket.drop();
  assert.equal(impatient.client.state.status, "closed");
});

test("reconnects at once when asked to, and when the browser is online again", async () => {
  const listeners = new Map();
  globalThis.addEventListener = (name, listener) => listeners.set(name, listener);
  globalThis.removeEventListener = (name) => listeners.delete(name);
  try {
    const { client, clock, sockets } = fakeClient();
    sockets[0].drop();
    client.reconnectNow();
    assert.equal(sockets.length, 2);
    sockets[1].drop();
    listeners.get("online")();
    assert.equal(sockets.length, 3);
    await clock.advance(30_000);
    assert.equal(sockets.length, 3);
    void client.close();
    assert.equal(listeners.size, 0);
  } finally {
    delete globalThis.addEventListener;
    delete globalThis.removeEventListener;
  }
});

test("obeys bye: resume, after what the server says", async () => {
  const { clock, sockets, states, errors } = fakeClient();
  sockets[0].accept();
  sockets[0].say({ type: "bye", data: { reason: "restart", retry: "resume", after_ms: 1800 } });
  sockets[0].drop(1012);
  const { attempt, delayMs, reason } = states.at(-1);
  assert.deepEqual([attempt, reason], [1, "restart"]);
  assert(delayMs >= 1800 && delayMs <= 1800 * 1.15, `${delayMs}`);
  await clock.advance(1799);
  assert.equal(sockets.length, 1);
  await clock.advance(300);
  assert.equal(sockets.length, 2);
  assert.deepEqual(errors, []);
});

test("obeys bye: never", async () => {
  const { client, socket } = fakeClient();
  socket.accept();
  socket.say({ type: "bye", data: { reason: "abuse", retry: "never", after_ms: 0 } });
  socket.drop(1013);
  assert.equal(client.state.status, "closed");
});

test("obeys bye: reauth, with another token", async () => {
  let calls = 0;
  const { clock, sockets } = fakeClient({ token: async () => `token-${++calls}` });
  await settle();
  sockets[0].accept();
  sockets[0].say({ type: "authenticated", request_id: "auth", data: { expires_at: null } });
  sockets[0].say({ type: "bye", data: { reason: "expired", retry: "reauth", after_ms: 0 } });
  sockets[0].drop(4440);
  await clock.advance(1000);
  sockets[1].accept();
  assert.deepEqual(sockets[1].sent, [{ type: "auth", id: "auth", token: "token-2" }]);
});

for (const code of [4400, 4403, 4406]) {
  test(`does not come back after ${code}`, async () => {
    const { client, socket } = fakeClient();
    socket.accept();
    socket.drop(code, "why");
    assert.equal(client.state.status, "closed");
    assert.equal(client.state.error.code, code);
    assert.match(client.state.reason, /why/);
  });
}

for (const code of [1000, 1001, 1006, 1011, 1012, 1013, 4408, 4429, 4450]) {
  test(`comes back after ${code}`, async () => {
    const { clock, sockets } = fakeClient();
    sockets[0].accept();
    sockets[0].drop(code);
    await clock.advance(1000);
    assert.equal(sockets.length, 2);
  });
}

for (const code of [4401, 4440]) {
  test(`after ${code}, tries another token once, if there is one`, async () => {
    const fixed = fakeClient({ token: "always the same" });
    fixed.socket.accept();
    fixed.socket.drop(code);
    assert.equal(fixed.client.state.status, "closed");

    const { client, clock, sockets } = fakeClient({ token: () => "new" });
    await settle();
    sockets[0].accept();
    sockets[0].drop(code);
    await clock.advance(1000);
    assert.equal(sockets.length, 2);
    sockets[1].accept();
    sockets[1].drop(code);
    assert.equal(client.state.status, "closed");
  });
}

test("after a token was accepted, an expired one is renewed again and again", async () => {
  const { client, clock, sockets } = fakeClient({ token: () => "new" });
  for (let round = 0; round < 3; round++) {
    await clock.advance(1000);
    sockets[round].accept();
    sockets[round].say({ type: "authenticated", request_id: "auth", data: { expires_at: 1 } });
    sockets[round].drop(4440);
  }
  assert.equal(client.state.status, "reconnecting");
});

test("says who it is first, and sends nothing else before that was accepted", async () => {
  const wire = [];
  const { client, socket } = fakeClient({
    token: "secret",
    onWire: (direction, message) => wire.push([direction, message]),
  });
  const starting = client.newChat("Hello", { runId: "r-1" });
  socket.accept();
  assert.deepEqual(socket.types(), ["auth"]);
  assert.equal(client.state.status, "connecting");
  socket.say({ type: "authenticated", request_id: "auth", data: { expires_at: null } });
  assert.deepEqual(socket.types(), ["auth", "new_chat"]);
  socket.answer("new_chat", standing({ run_id: "r-1", status: "running" }));
  await starting;
  assert(!JSON.stringify(wire).includes("secret"));
  assert.deepEqual(
    wire.map(([direction, { type }]) => `${direction} ${type}`),
    ["out auth", "in authenticated", "out new_chat", "in run"],
  );
});

test("says clearly that the server takes no tokens", async () => {
  const { client, socket } = fakeClient({ token: "secret" });
  socket.accept();
  const data = { code: "unknown_type", message: "auth: not taken here", retryable: false };
  socket.say({ type: "error", request_id: "auth", data });
  assert.equal(client.state.status, "closed");
  assert(client.state.error.cause instanceof RequestRefused);
  assert.match(client.state.error.message, /not taken here/);
});

test("a token function that fails is tried again", async () => {
  let calls = 0;
  const token = () => {
    if (++calls === 1) throw new Error("no network");
    return "token";
  };
  const { clock, sockets, errors } = fakeClient({ token });
  assert.equal(sockets.length, 0);
  assert.equal(errors[0].cause.message, "no network");
  await clock.advance(1000);
  assert.equal(sockets.length, 1);
});

test("knows HTTP refusals where the platform tells them", async () => {
  for (const status of [400, 401, 403, 404, 410, 426]) {
    const { client, socket } = fakeClient();
    socket.refuse(status);
    assert.equal(client.state.status, "closed", `${status}`);
    assert.equal(client.state.error.httpStatus, status);
  }
  for (const status of [408, 425, 429, 500, 502, 503, 504]) {
    const { client, socket } = fakeClient();
    socket.refuse(status);
    assert.equal(client.state.status, "reconnecting", `${status}`);
  }
  const { client, socket } = fakeClient({ token: () => "another" });
  await settle();
  socket?.refuse(401);
  assert.notEqual(client.state.status, "closed");
});

test("an error without a close is a loss, too", async () => {
  const { clock, sockets, errors } = fakeClient();
  sockets[0].onerror({ message: "Received network error or non-101 status code." });
  await clock.advance(100);
  assert.equal(errors.length, 1);
  await clock.advance(1_000);
  assert.equal(sockets.length, 2);
});

test("a server that is silent is asked, and then left", async () => {
  const { clock, sockets, errors } = fakeClient({ heartbeatMs: 10_000 });
  sockets[0].accept();
  await clock.advance(9_999);
  assert.deepEqual(sockets[0].types(), []);
  await clock.advance(1);
  assert.deepEqual(sockets[0].types(), ["ping"]);
  await clock.advance(14_999);
  assert.equal(sockets[0].closed, null);
  await clock.advance(1);
  assert.notEqual(sockets[0].closed, null);
  assert.match(errors[0].message, /nothing was heard/);
  await clock.advance(1_000);
  assert.equal(sockets.length, 2);
  sockets[0].say("what an old socket says is not heard");
  assert.equal(errors.length, 1);
});

test("whatever the server says breaks the silence", async () => {
  const { clock, sockets } = fakeClient({ heartbeatMs: 10_000 });
  sockets[0].accept();
  for (let round = 0; round < 10; round++) {
    await clock.advance(12_000);
    sockets[0].say({ type: "pong", request_id: "ping", data: { time: 0 } });
  }
  assert.equal(sockets[0].closed, null);
  assert.equal(sockets[0].types().length, 10);
});

test("a handshake that never ends is given up like any other silence", async () => {
  const { clock, sockets } = fakeClient({ heartbeatMs: 10_000 });
  await clock.advance(25_000);
  assert.notEqual(sockets[0].closed, null);
});

test("what is no message of the protocol is reported, and the connection lives on", async () => {
  const { client, socket, errors } = fakeClient();
  socket.accept();
  socket.say("{", "[]", '"text"', "{}", { type: "text", seq: "7", run_id: "r", data: {} });
  socket.onmessage({ data: new Uint8Array(1) });
  assert.equal(errors.length, 6);
  assert(errors.every((error) => error instanceof ProtocolError));
  assert.equal(client.state.status, "open");
});

test("a message whose data is not as it should be ends nothing", async () => {
  const { socket, thread, errors } = await following();
  socket.say({ type: "message", run_id: "r-1", seq: 1, data: null });
  assert(errors[0] instanceof ProtocolError);
  socket.say({ type: "tick", run_id: "r-1", seq: 2, data: 1 });
  assert.equal(thread.position.seq, 2);
});

test("types that it does not know are ignored", async () => {
  const { client, socket, errors } = fakeClient();
  socket.accept();
  socket.say(
    { type: "from_the_future", data: {} },
    { type: "heartbeat", data: { time: 1, threads: {} } },
  );
  assert.deepEqual(errors, []);
  assert.equal(client.state.status, "open");
});

test("closes when asked: those who wait are told, iterations end", async () => {
  const { client, clock, socket, run, states } = await running();
  const thread = run.thread;
  const seen = [];
  const iterating = (async () => {
    for await (const message of thread) seen.push(message);
  })();
  const result = assert.rejects(run.result(), CLOSED);
  const closing = client.close();
  assert.equal(socket.closed, 1000);
  socket.drop(1000);
  await Promise.all([closing, result, iterating]);
  assert.deepEqual(states.at(-1), {
    status: "closed",
    reason: "closed by the client",
    error: null,
  });
  await assert.rejects(client.newChat("again"), CLOSED);
  await assert.rejects(thread.newChat("again"), CLOSED);
  assert.throws(() => client.thread("t-2"), CLOSED);
  await client.close();
  assert.equal(clock.pending, 0);
});

test("does not wait for ever for a server that does not answer the close", async () => {
  const { client, clock, socket } = fakeClient();
  socket.accept();
  let closed = false;
  const closing = client.close().then(() => (closed = true));
  await clock.advance(1_999);
  assert.equal(closed, false);
  await clock.advance(1);
  await closing;
});

test("closing while it waits to reconnect is final", async () => {
  const { client, clock, sockets } = fakeClient();
  sockets[0].drop();
  await client.close();
  await clock.advance(60_000);
  assert.equal(sockets.length, 1);
  await assert.rejects(client.opened, CLOSED);
});
