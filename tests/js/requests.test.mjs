// What people ask for: checked before anything is sent, and answered.

import assert from "node:assert/strict";
import { test } from "node:test";

import { InvalidRequest, RequestRefused } from "../../langgraph_ws/static/client.js";
import { fakeClient, following, logged, running, settle, standing } from "./fakes.mjs";

const user = { role: "user", content: "Hello" };

test("what is wrong is named, and not sent", async () => {
  const { client, socket } = fakeClient();
  socket.accept();
  const wrong = [
    ["messages", () => client.newChat([])],
    ["messages", () => client.newChat({})],
    ["messages", () => client.newChat({ messages: 7 })],
    ["messages.0", () => client.newChat(["Hello"])],
    ["messages.1.role", () => client.newChat([user, { role: "system", content: "" }])],
    ["messages.0.content", () => client.newChat([{ role: "user" }])],
    ["messages.0.content", () => client.newChat([{ role: "user", content: ["text"] }])],
    ["messages.0.id", () => client.newChat([{ ...user, id: "" }])],
    ["messages.0.tool_call_id", () => client.newChat([{ role: "tool", content: "3" }])],
    [
      "messages.0.tool_calls",
      () => client.newChat([{ role: "assistant", content: "", tool_calls: [{ name: "x" }] }]),
    ],
    ["input", () => client.newChat({ input: null })],
    ["input", () => client.newChat("Hello", { input: {} })],
    ["threadId", () => client.newChat("Hello", { threadId: "a/b" })],
    ["runId", () => client.newChat("Hello", { runId: "x".repeat(129) })],
    ["assistantId", () => client.newChat("Hello", { assistantId: "" })],
    ["multitaskStrategy", () => client.newChat("Hello", { multitaskStrategy: "wait" })],
    ["options", () => client.newChat("Hello", { options: [] })],
    ["option", () => client.newChat("Hello", { option: 1 })],
    ["checkpointId", () => client.newChat("Hello", { checkpointId: "c" })],
    ["onTxt", () => client.newChat("Hello", { onTxt: () => {} })],
    ["onText", () => client.newChat("Hello", { onText: "x" })],
    ["threadId", () => client.resumeChat("t-1", { threadId: "t-2" })],
    ["onEnd", () => client.resumeChat("t-1", { onEnd: 1 })],
    ["runID", () => client.attach("t-1", { runID: "r" })],
    ["onGap", () => client.attach("t-1", { onGap: {} })],
    ["threadId", () => client.cancel({})],
    ["runId", () => client.cancel({ runId: "a b" })],
    ["threadId", () => client.resumeChat("")],
    ["resume", () => client.resumeChat("t-1", { messages: "a", resume: 1 })],
    ["checkpointId", () => client.resumeChat("t-1", { checkpointId: 7 })],
    ["update", () => client.resumeChat("t-1", { messages: "a", update: {} })],
    ["goto", () => client.resumeChat("t-1", { goto: "node" })],
    ["goto", () => client.resumeChat("t-1", { resume: 1, goto: [""] })],
    ["threadId", () => client.attach("a b")],
    ["runId", () => client.attach("t-1", { runId: "a b" })],
    ["after", () => client.attach("t-1", { after: 7 })],
    ["after.seq", () => client.attach("t-1", { after: { epoch: "e", seq: -1 } })],
    ["after.epoch", () => client.attach("t-1", { after: { seq: 7 } })],
    ["saved", () => client.attach("t-1", { saved: {} })],
    [
      "saved",
      () =>
        client.attach("t-1", {
          saved: { version: 1, threadId: "t-2", position: { epoch: "e", seq: 1 }, view: {} },
        }),
    ],
  ];
  for (const [field, ask] of wrong) {
    await assert.rejects(
      ask,
      (error) => error instanceof InvalidRequest && error.field === field,
      `${field}: ${ask}`,
    );
  }
  assert.deepEqual(socket.sent, []);
  assert.equal(client.threads.size, 0);
});

test("what JSON cannot hold is named with its path, and not sent", async () => {
  const { client, socket } = fakeClient();
  socket.accept();
  const cycle = {};
  cycle.itself = [cycle];
  let deep = [];
  for (let level = 0; level < 5_000; level++) deep = [deep];
  const wrong = [
    ["", NaN],
    [".a.1", { a: [1, Infinity] }],
    [".a.0", { a: [undefined] }],
    [".0", new Array(1)],
    [".f", { f: () => {} }],
    [".s", { s: Symbol("x") }],
    ["", 10n],
    [".n", { n: 2 ** 53 }],
    [".itself.0", cycle],
    [".0".repeat(100), deep],
    [".m", { m: new Map() }],
    [".0", [new Set()]],
    ["", new (class Order {})()],
    [".d", { d: new Date(NaN) }],
    [".0", ["\ud800"]],
    ["", { toJSON: () => NaN }],
  ];
  const asks = [
    ["input", (value) => client.newChat({ input: value })],
    ["resume", (value) => client.resumeChat("t-1", { resume: value })],
    ["update", (value) => client.resumeChat("t-1", { resume: 1, update: value })],
    ["options.k", (value) => client.newChat("Hello", { options: { k: value } })],
    ["messages.0.k", (value) => client.newChat([{ ...user, k: value }])],
  ];
  for (const [path, value] of wrong) {
    for (const [field, ask] of asks) {
      const named = (error) =>
        error instanceof InvalidRequest &&
        (value === deep ? error.field.startsWith(`${field}.0.0`) : error.field === field + path);
      await assert.rejects(ask(value), named, `${field}${path}`);
    }
  }
  assert.deepEqual(socket.sent, []);
});

test("what JSON can hold is sent as it is", async () => {
  const { client, socket } = fakeClient();
  socket.accept();
  const when = new Date(0);
  const input = { a: [1.5, true, null, "ü🕐", 1e300], none: undefined, when, bare: Object.create(null) };
  void client.newChat({ input });
  await settle();
  assert.deepEqual(socket.sent[0].input, {
    a: [1.5, true, null, "ü🕐", 1e300],
    when: "1970-01-01T00:00:00.000Z",
    bare: {},
  });
});

test("new_chat, as it is on the wire", async () => {
  const { client, socket } = fakeClient();
  socket.accept();
  void client.newChat("Hello", {
    threadId: "t-1",
    runId: "r-1",
    assistantId: "other",
    multitaskStrategy: "reject",
    options: { language: "en" },
    onText: () => {},
  });
  void client.newChat({ input: { count: 0 } });
  await settle();
  const [first, second] = socket.sent;
  assert.deepEqual(first, {
    id: 1,
    type: "new_chat",
    run_id: "r-1",
    assistant_id: "other",
    messages: [user],
    thread_id: "t-1",
    options: { language: "en", multitask_strategy: "reject", text: "delta" },
  });
  assert.match(
    second.run_id,
    /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/,
  );
  assert.deepEqual(second.input, { count: 0 });
});

test("makes ids without crypto.randomUUID, which pages over plain HTTP have not", async () => {
  const { randomUUID } = crypto;
  Object.defineProperty(crypto, "randomUUID", { value: undefined, configurable: true });
  try {
    const { client, socket } = fakeClient();
    socket.accept();
    void client.newChat("Hello");
    await settle();
    assert.match(
      socket.sent[0].run_id,
      /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/,
    );
  } finally {
    Object.defineProperty(crypto, "randomUUID", { value: randomUUID, configurable: true });
  }
});

test("resume_chat, as it is on the wire", async () => {
  const { client, socket } = fakeClient();
  socket.accept();
  void client.resumeChat("t-1", { runId: "a", messages: [user], checkpointId: "cp-1" });
  void client.resumeChat("t-1", { runId: "b", resume: null, update: { a: 1 }, goto: ["x"] });
  void client.resumeChat("t-1", { runId: "c" });
  await settle();
  const options = { text: "delta" };
  assert.deepEqual(socket.sent, [
    {
      id: 1,
      type: "resume_chat",
      run_id: "a",
      thread_id: "t-1",
      messages: [user],
      checkpoint_id: "cp-1",
      options,
    },
    {
      id: 2,
      type: "resume_chat",
      run_id: "b",
      thread_id: "t-1",
      resume: null,
      update: { a: 1 },
      goto: ["x"],
      options,
    },
    { id: 3, type: "resume_chat", run_id: "c", thread_id: "t-1", options },
  ]);
});

test("what is asked for before the connection is open is sent when it is", async () => {
  const { client, socket } = fakeClient();
  const starting = client.newChat("Hello", { runId: "r-1" });
  await settle();
  assert.deepEqual(socket.sent, []);
  socket.accept();
  socket.answer("new_chat", standing({ run_id: "r-1", status: "running" }));
  const run = await starting;
  assert.equal(run.threadId, "t-1");
  assert.equal(run.thread, client.threads.get("t-1"));
});

test("a refusal says code, field and whether to try again", async () => {
  const { client, socket } = fakeClient();
  socket.accept();
  const starting = client.newChat("Hello");
  const refusal = { code: "thread_busy", message: "the thread has an active run", retryable: true };
  socket.answer("new_chat", refusal, "error");
  await assert.rejects(starting, (error) => {
    assert(error instanceof RequestRefused);
    assert.deepEqual(
      [error.code, error.message, error.retryable, error.field],
      ["thread_busy", "the thread has an active run", true, null],
    );
    return true;
  });
});

test("answers interrupts of a run, and stops it", async () => {
  const { socket, run } = await running();
  socket.say(
    logged(1, "interrupt", { id: "i-1", value: "ok?", ordinal: 0 }),
    logged(2, "end", { status: "interrupted" }),
  );
  const result = await run.result();
  assert.equal(result.status, "interrupted");
  assert.deepEqual(
    result.interrupts.map(({ id }) => id),
    ["i-1"],
  );

  const answering = run.answer({ "i-1": "yes" }, { runId: "r-2" });
  await settle();
  socket.answer("attach", standing({ run_id: "r-1", status: "interrupted", head: 2 }));
  const { id, ...asked } = socket.sent.at(-1);
  assert.deepEqual(asked, {
    type: "resume_chat",
    run_id: "r-2",
    thread_id: "t-1",
    resume: { "i-1": "yes" },
    options: { text: "delta" },
  });
  socket.answer("resume_chat", standing({ run_id: "r-2", status: "running" }));
  const next = await answering;

  const cancelling = next.cancel();
  await settle();
  assert.deepEqual(socket.sent.at(-1), { id: id + 1, type: "cancel", run_id: "r-2" });
  socket.answer("cancel", standing({ run_id: "r-2", status: "cancelling" }));
  await cancelling;
  socket.say(logged(3, "end", { status: "cancelled" }, "r-2"));
  assert.equal((await next.result()).status, "cancelled");
  await next.cancel();
  assert.equal(socket.types().filter((type) => type === "cancel").length, 1);
});

test("stopping what has ended meanwhile is no error", async () => {
  const { socket, thread } = await following();
  const cancelling = thread.cancel();
  await settle();
  socket.answer(
    "cancel",
    { code: "not_found", message: "it has ended", retryable: false },
    "error",
  );
  await cancelling;
});

test("detaches: the server is told, iterations end, the thread can be followed anew", async () => {
  const { client, socket, thread } = await following();
  const seen = [];
  const iterating = (async () => {
    for await (const message of thread) seen.push(message.type);
  })();
  socket.say(logged(1, "progress", 1));
  const detaching = thread.detach();
  await settle();
  assert.equal(socket.sent.at(-1).type, "detach");
  socket.say(logged(2, "progress", 2));
  socket.answer("detach", standing({ status: "detached" }));
  await Promise.all([detaching, iterating]);
  assert.deepEqual(seen, ["progress"]);
  assert.equal(client.threads.size, 0);
  assert.notEqual(client.thread("t-1"), thread);
});

const tooFast = (request_id, retry_after_ms) => ({
  type: "error",
  request_id,
  data: { code: "rate_limited", message: "slow down", retryable: true, retry_after_ms },
});

test("a thread that may not be followed is not", async () => {
  const { client, socket } = fakeClient();
  socket.accept();
  const attaching = client.attach("t-1");
  await settle();
  socket.answer(
    "attach",
    { code: "limit_exceeded", message: "too many", retryable: false },
    "error",
  );
  await assert.rejects(attaching, { code: "limit_exceeded" });
  assert.equal(client.threads.size, 0);
});

test("asks again for what came too fast: alone, and when the server says", async () => {
  const { client, clock, socket, errors } = fakeClient();
  socket.accept();
  const first = client.newChat("Hello", { runId: "r-1" });
  const second = client.newChat("Hello", { runId: "r-2", threadId: "t-2" });
  await settle();
  socket.say(tooFast(2, 300), tooFast(1, 500));
  const third = client.newChat("Hello", { runId: "r-3", threadId: "t-3" });
  await clock.advance(499);
  assert.equal(socket.sent.length, 2);
  // One by one: no faster than the shortest time that was told.
  await clock.advance(1);
  assert.equal(socket.sent.length, 3);
  await clock.advance(299);
  assert.equal(socket.sent.length, 3);
  await clock.advance(301);
  assert.deepEqual(
    socket.sent.map(({ id }) => id),
    [1, 2, 2, 1, 3],
  );
  assert.deepEqual(
    errors.map(({ code, retryAfterMs }) => [code, retryAfterMs]),
    [["rate_limited", 300]],
  );
  for (const [id, thread_id] of [
    [1, "t-1"],
    [2, "t-2"],
    [3, "t-3"],
  ])
    socket.say({
      type: "run",
      request_id: id,
      data: standing({ thread_id, run_id: `r-${id}`, status: "running" }),
    });
  await Promise.all([first, second, third]);
});

test("what was refused for its rate waits for no other connection", async () => {
  const { client, clock, sockets } = fakeClient();
  sockets[0].accept();
  void client.newChat("Hello", { runId: "r-1" });
  await settle();
  sockets[0].say(tooFast(1, 60_000));
  sockets[0].drop();
  await clock.advance(1_000);
  sockets[1].accept();
  assert.deepEqual(sockets[1].types(), ["new_chat"]);
  await clock.advance(10_000);
  assert.equal(sockets[1].sent.length, 1);
});

test("after it was closed for its rate it begins slowly", async () => {
  const { client, clock, sockets } = fakeClient();
  sockets[0].accept();
  for (const runId of ["r-1", "r-2"]) void client.newChat("Hello", { runId });
  await settle();
  sockets[0].say(tooFast(1, 200));
  sockets[0].drop(4429);
  await clock.advance(1_000);
  sockets[1].accept();
  assert.deepEqual(sockets[1].types(), []);
  await clock.advance(200);
  assert.equal(sockets[1].sent.length, 1);
  await clock.advance(200);
  assert.equal(sockets[1].sent.length, 2);
});

test("a detach that came too fast is repeated, unless the thread is followed again", async () => {
  for (const again of [false, true]) {
    const { client, clock, socket, thread } = await following();
    const detaching = thread.detach();
    await settle();
    socket.say(tooFast(socket.sent.at(-1).id, 100));
    if (again) client.thread("t-1");
    await clock.advance(1_000);
    assert.deepEqual(
      socket.types(),
      again ? ["attach", "detach", "attach"] : ["attach", "detach", "detach"],
    );
    if (!again) socket.answer("detach", standing({ status: "detached" }));
    await detaching;
  }
});

test("a message that was too long is refused, and not sent again", async () => {
  const { client, clock, sockets } = fakeClient();
  sockets[0].accept();
  const long = assert.rejects(client.newChat("x".repeat(100_000)), { code: "limit_exceeded" });
  const short = client.newChat("Hello", { runId: "r-1" });
  await settle();
  sockets[0].drop(1009);
  await long;
  await clock.advance(1_000);
  sockets[1].accept();
  assert.deepEqual(
    sockets[1].sent.map(({ run_id: id }) => id),
    ["r-1"],
  );
  sockets[1].answer("new_chat", standing({ run_id: "r-1", status: "running" }));
  await short;
});
