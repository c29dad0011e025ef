// Threads and runs over connections that break: nothing twice, nothing lost, nothing started twice.

import assert from "node:assert/strict";
import { test } from "node:test";

import {
  ConnectionFailedError,
  DetachedError,
  RunFailedError,
  isKnown,
} from "../../langgraph_ws/static/client.js";
import {
  began,
  delta,
  fakeClient,
  following,
  gap,
  logged,
  running,
  settle,
  snapshot,
  standing,
} from "./fakes.mjs";

const ended = (seq, status = "completed", runId = "r-1") => logged(seq, "end", { status }, runId);
const final = (seq, text, runId = "r-1") =>
  logged(seq, "final", { text, sources: [], execution_time_ms: 1 }, runId);

/** Break the connection, and accept the next one. */
async function reconnect({ sockets, clock }, code = 1006) {
  sockets.at(-1).drop(code);
  await clock.advance(1_000);
  sockets.at(-1).accept();
  return sockets.at(-1);
}

test("a run, from its beginning to its result", async () => {
  const calls = [];
  const record =
    (name) =>
    (...values) =>
      calls.push([name, ...values]);
  const at = (seq) => ({ run_id: "r-1", seq });
  const text = (seq, delta, offset, text) => ({
    ...at(seq),
    message_id: "m-1",
    index: 0,
    node: "agent",
    delta,
    offset,
    text,
  });
  const progress = { name: "progress", data: { percent: 40 } };
  const { socket, run } = await running(
    { onText: record("client.onText"), onEnd: record("client.onEnd") },
    {
      onText: record("onText"),
      onSources: record("onSources"),
      onFinal: record("onFinal"),
      onEnd: record("onEnd"),
      onWorkflowStep: record("onWorkflowStep"),
      onCustom: record("onCustom"),
    },
  );
  const source = { id: "s-1", title: "Pregel" };
  socket.say(
    began(1),
    logged(2, "workflow_step", { step: "agent", status: "started", task_id: "x" }),
    delta(3, "Hel", 0),
    delta(4, "lo", 3),
    logged(5, "progress", { percent: 40 }),
    logged(6, "custom", { name: "end", data: 1 }),
    logged(7, "sources", { sources: [source], added: 1 }),
    logged(8, "message", {
      message_id: "m-1",
      role: "assistant",
      content: [{ type: "text", text: "Hello" }],
      status: "finished",
    }),
    final(9, "Hello"),
    ended(10),
  );
  const result = await run.result();
  assert.equal(result.status, "completed");
  assert.equal(result.text, "Hello");
  assert.equal(result.final.execution_time_ms, 1);
  assert.deepEqual(calls, [
    ["onWorkflowStep", "agent", { ...at(2), step: "agent", status: "started", task_id: "x" }],
    ["onText", "Hel", text(3, "Hel", 0, "Hel")],
    ["client.onText", "Hel", text(3, "Hel", 0, "Hel")],
    ["onText", "Hello", text(4, "lo", 3, "Hello")],
    ["client.onText", "Hello", text(4, "lo", 3, "Hello")],
    ["onCustom", "progress", { percent: 40 }, { ...at(5), ...progress }],
    ["onCustom", "end", 1, { ...at(6), name: "end", data: 1 }],
    ["onSources", [source], { ...at(7), sources: [source], added: 1 }],
    ["onFinal", { ...at(9), text: "Hello", sources: [], execution_time_ms: 1 }],
    ["onEnd", "completed", { ...at(10), status: "completed" }],
    ["client.onEnd", "completed", { ...at(10), status: "completed" }],
  ]);
  assert.equal(run.status, "completed");
  assert.equal(run.text, "Hello");
  assert.deepEqual(run.sources, [source]);
  assert.deepEqual(
    run.steps.map(({ step, status }) => [step, status]),
    [["agent", "finished"]],
  );
  assert.equal(run.messages.length, 1);
});

test("iterating gives every message, from run to end, even when it begins late", async () => {
  const { socket, run } = await running();
  socket.say(began(1), delta(2, "a", 0));
  const seen = [];
  const iterating = (async () => {
    for await (const message of run) {
      seen.push(isKnown(message) && message.type === "text" ? message.data.text : message.type);
    }
  })();
  await settle();
  socket.say(delta(3, "b", 1), logged(4, "tick", 1));
  await settle();
  socket.say(ended(5), began(6, "r-2"));
  await iterating;
  assert.deepEqual(seen, ["run", "a", "ab", "tick", "end"]);
});

test("what nobody takes is dropped beyond a limit, and said to be so", async () => {
  const { socket, run } = await running({ buffer: 3 });
  for (let seq = 1; seq <= 10; seq++) socket.say(logged(seq, "tick", seq));
  socket.say(ended(11));
  const seen = [];
  for await (const message of run) seen.push(message.data);
  assert.deepEqual(seen, [{ count: 8 }, 9, 10, { status: "completed" }]);
  assert.equal(run.thread.position.seq, 11);
});

test("a failed run throws, and onError hears of it once", async () => {
  const { socket, run, errors } = await running();
  const failure = {
    code: "graph_failed",
    message: "The graph failed.",
    error_id: "4a1b",
    retryable: true,
  };
  socket.say(logged(1, "error", failure), ended(2, "failed"));
  await assert.rejects(run.result(), (error) => {
    assert(error instanceof RunFailedError);
    assert.deepEqual(
      [error.code, error.errorId, error.retryable, error.runId],
      ["graph_failed", "4a1b", true, "r-1"],
    );
    return true;
  });
  assert.equal(errors.length, 1);
  assert(errors[0] instanceof RunFailedError);
});

test("what a callback throws reaches onError, and ends nothing", async () => {
  const { socket, run, errors } = await running(
    {},
    {
      onText: () => {
        throw new Error("sync");
      },
      onEnd: async () => {
        throw new Error("async");
      },
    },
  );
  socket.say(delta(1, "a", 0), ended(2));
  await run.result();
  await settle();
  assert.deepEqual(
    errors.map(({ message }) => message),
    ["sync", "async"],
  );
});

test("an onError that throws ends nothing either", async (context) => {
  const logs = context.mock.method(console, "error", () => {});
  const { socket, run } = await running({
    onError: () => {
      throw new Error("onError");
    },
  });
  socket.say("{", ended(1));
  assert.equal((await run.result()).status, "completed");
  assert.equal(logs.mock.callCount(), 1);
});

test("a repetition is ignored", async () => {
  const { socket, run } = await running();
  socket.say(
    began(1),
    delta(2, "a", 0),
    delta(2, "a", 0),
    began(1),
    delta(3, "b", 1),
    delta(3, "b", 1),
  );
  assert.equal(run.text, "ab");
});

test("a jump in seq is no loss", async () => {
  const { socket, run } = await running();
  socket.say(began(1), delta(50, "a", 0), ended(99));
  assert.equal((await run.result()).text, "a");
});

test("without an answer, the same run is asked for again", async () => {
  const fake = fakeClient();
  fake.socket.accept();
  const starting = fake.client.newChat("Hello");
  await settle();
  const [asked] = fake.sockets[0].sent;
  const socket = await reconnect(fake);
  assert.deepEqual(socket.sent, [asked]);
  socket.answer("new_chat", standing({ run_id: asked.run_id, status: "running" }));
  const run = await starting;
  assert.equal(run.runId, asked.run_id);
});

test("after an answer, the thread is followed from where it was", async () => {
  const fake = await running();
  fake.socket.say(began(1), delta(2, "Hel", 0));
  const socket = await reconnect(fake);
  const { id, ...asked } = socket.sent[0];
  assert.deepEqual(asked, {
    type: "attach",
    thread_id: "t-1",
    after: 2,
    epoch: "e-1",
    options: { text: "delta" },
  });
  assert.equal(socket.sent.length, 1);
  socket.answer("attach", standing({ run_id: "r-1", status: "running", head: 3 }));
  socket.say(delta(3, "lo", 3), final(4, "Hello"), ended(5));
  assert.equal((await fake.run.result()).text, "Hello");
});

test("after an answer and nothing else, the thread is followed from its beginning", async () => {
  const fake = await running();
  const socket = await reconnect(fake);
  const { id, ...asked } = socket.sent[0];
  assert.deepEqual(asked, { type: "attach", thread_id: "t-1", options: { text: "delta" } });
});

test("many cuts: everything once", async () => {
  const fake = await running();
  let socket = fake.socket;
  const seen = [];
  const iterating = (async () => {
    for await (const message of fake.run) if (message.type === "tick") seen.push(message.data);
  })();
  for (let seq = 1; seq <= 30; seq++) {
    socket.say(logged(seq, "tick", seq));
    if (seq % 3 !== 0) continue;
    socket = await reconnect(fake, 1011);
    assert.equal(socket.sent[0].after, seq);
    socket.answer("attach", standing({ run_id: "r-1", status: "running", head: seq }));
    socket.say(logged(seq - 1, "tick", seq - 1), logged(seq, "tick", seq));
  }
  socket.say(ended(31));
  await iterating;
  assert.deepEqual(
    seen,
    Array.from({ length: 30 }, (_, index) => index + 1),
  );
});

test("a gap and a snapshot replace the view, and texts go on from it", async () => {
  const told = [];
  const fake = await running({
    onGap: ({ reason }) => told.push(reason),
    onSnapshot: ({ seq }) => told.push(seq),
  });
  fake.socket.say(began(1), delta(2, "lost", 0, { message_id: "m-0" }));
  const socket = await reconnect(fake);
  socket.answer("attach", standing({ run_id: "r-1", status: "running", head: 100 }));
  socket.say(
    gap(),
    snapshot({
      run: { run_id: "r-1", status: "running" },
      messages: [
        {
          message_id: "u",
          role: "user",
          content: [{ type: "text", text: "Hello" }],
          status: "finished",
        },
      ],
      open: [
        {
          message_id: "m-1",
          role: "assistant",
          node: "agent",
          blocks: [{ index: 0, kind: "text", text: "One 🕐" }],
        },
      ],
    }),
    delta(101, " two", 5),
  );
  const { view } = fake.run.thread;
  assert.deepEqual(told, ["trimmed", 100]);
  assert.deepEqual(
    view.messages.map(({ id, text }) => [id, text]),
    [
      ["u", "Hello"],
      ["m-1", "One 🕐 two"],
    ],
  );
  assert.equal(fake.run.text, "One 🕐 two");
  assert.equal(view.status, "running");
  assert.deepEqual(fake.run.thread.position, { epoch: "e-1", seq: 101, runId: "r-1" });
});

test("a new epoch counts only with its snapshot", async () => {
  const fake = await running();
  fake.socket.say(began(1), delta(2, "a", 0));
  let socket = await reconnect(fake);
  socket.answer("attach", standing({ status: "idle", epoch: "e-2", head: 70 }));
  socket = await reconnect(fake);
  assert.deepEqual([socket.sent[0].after, socket.sent[0].epoch], [2, "e-1"]);
  socket.answer("attach", standing({ status: "idle", epoch: "e-2", head: 70 }));
  socket.say(gap({ reason: "epoch", epoch: "e-2" }), snapshot({ epoch: "e-2", seq: 70 }));
  assert.deepEqual(fake.run.thread.position, { epoch: "e-2", seq: 70, runId: null });
});

test("a run that went away with the log of its thread is lost", async () => {
  const fake = await running();
  fake.socket.say(began(1));
  const socket = await reconnect(fake);
  socket.answer("attach", standing({ epoch: "e-2" }));
  socket.say(gap({ reason: "unknown", epoch: "e-2" }), snapshot({ epoch: "e-2", seq: 0 }));
  await assert.rejects(fake.run.result(), { name: "RunFailedError", code: "lost" });
  // The thread was followed for its sake alone.
  assert.deepEqual(socket.types(), ["attach", "detach"]);
});

test("a run that ended unseen is known to have ended from the snapshot", async () => {
  const fake = await running();
  fake.socket.say(began(1));
  const socket = await reconnect(fake);
  socket.answer("attach", standing({ run_id: "r-1", status: "completed", head: 100 }));
  const message = {
    message_id: "m",
    role: "assistant",
    content: [{ type: "text", text: "Done" }],
    status: "finished",
  };
  socket.say(gap(), snapshot({ run: { run_id: "r-1", status: "completed" }, messages: [message] }));
  const result = await fake.run.result();
  assert.deepEqual([result.status, result.text, result.final], ["completed", "Done", null]);
});

test("how a run ended that the snapshot says nothing of is asked for", async () => {
  const fake = await running();
  fake.socket.say(began(1));
  const socket = await reconnect(fake);
  socket.answer("attach", standing({ run_id: "r-2", status: "running", head: 100 }));
  socket.say(gap(), snapshot({ run: { run_id: "r-2", status: "running" } }));
  const [, one, again] = socket.sent;
  assert.deepEqual([one.type, one.run_id, one.after], ["attach", "r-1", undefined]);
  assert.deepEqual([again.type, again.run_id, again.after], ["attach", undefined, 100]);
  // What the server shows of that one run lies before the position, but says how it ended.
  socket.say({
    type: "run",
    request_id: one.id,
    data: standing({ run_id: "r-1", status: "completed", head: 100 }),
  });
  socket.say(
    snapshot({ seq: 47, run: { run_id: "r-2", status: "running" } }),
    final(48, "Done"),
    ended(49),
  );
  socket.say({
    type: "run",
    request_id: again.id,
    data: standing({ run_id: "r-2", status: "running", head: 100 }),
  });
  const result = await fake.run.result();
  assert.deepEqual([result.status, result.text], ["completed", "Done"]);
  assert.equal(fake.run.thread.position.seq, 100);
});

test("a run that nobody knows any more is lost; one that is still queued goes on", async () => {
  const fake = await running();
  const starting = fake.client.newChat("Next", { threadId: "t-1", runId: "r-2" });
  await settle();
  fake.socket.answer("new_chat", standing({ run_id: "r-2", status: "queued", place: 1 }));
  const queued = await starting;
  fake.socket.say(began(1));
  assert.equal(queued.status, "queued");
  assert.equal(queued.view.place, 1);
  assert.equal(fake.run.thread.view.status, "running");
  const socket = await reconnect(fake);
  socket.answer("attach", standing({ run_id: "r-3", status: "running", head: 100 }));
  socket.say(gap(), snapshot({ run: { run_id: "r-3", status: "running" } }));
  const asked = socket.sent.slice(1);
  assert.deepEqual(
    asked.map(({ run_id: id }) => id),
    ["r-1", undefined, "r-2", undefined],
  );
  socket.say({
    type: "error",
    request_id: asked[0].id,
    data: { code: "not_found", message: "no such run", retryable: false },
  });
  socket.say({
    type: "run",
    request_id: asked[1].id,
    data: standing({ run_id: "r-3", status: "running", head: 100 }),
  });
  socket.say({
    type: "run",
    request_id: asked[2].id,
    data: standing({ run_id: "r-2", status: "queued", place: 1, head: 100 }),
  });
  socket.say({
    type: "run",
    request_id: asked[3].id,
    data: standing({ run_id: "r-3", status: "running", head: 100 }),
  });
  await assert.rejects(fake.run.result(), { code: "lost" });
  socket.say(
    ended(101, "completed", "r-3"),
    began(102, "r-2"),
    final(103, "Next!", "r-2"),
    ended(104, "completed", "r-2"),
  );
  assert.equal((await queued.result()).text, "Next!");
});

test("starting again with the id of a run that has ended gives its result", async () => {
  const { client, socket } = await following();
  const starting = client.newChat("Hello", { threadId: "t-1", runId: "r-1" });
  await settle();
  socket.answer("new_chat", standing({ run_id: "r-1", status: "completed", head: 2 }));
  const run = await starting;
  socket.say(began(1), ended(2));
  assert.equal((await run.result()).status, "completed");
  const again = client.newChat("Hello", { threadId: "t-1", runId: "r-1" });
  await settle();
  socket.answer("new_chat", standing({ run_id: "r-1", status: "completed", head: 2 }));
  assert.equal((await (await again).result()).status, "completed");
});

test("follows several threads, whose messages come mixed", async () => {
  const fake = fakeClient();
  fake.socket.accept();
  for (const name of ["a", "b"]) {
    fake.client.thread(`t-${name}`);
    fake.socket.answer("attach", standing({ thread_id: `t-${name}`, epoch: name }));
    fake.socket.say(began(1, `r-${name}`, { thread_id: `t-${name}` }));
  }
  fake.socket.say(
    delta(2, "A", 0, { message_id: "m-a" }, "r-a"),
    delta(2, "B", 0, { message_id: "m-b" }, "r-b"),
    delta(3, "B", 1, { message_id: "m-b" }, "r-b"),
    ended(9, "cancelled", "somebody-else-in-a-queue"),
  );
  const texts = [...fake.client.threads.values()].map((thread) => thread.view.run.text);
  assert.deepEqual(texts, ["A", "BB"]);
  assert.deepEqual(
    [...fake.client.threads.values()].map(({ position }) => position.seq),
    [2, 3],
  );
  const socket = await reconnect(fake);
  assert.deepEqual(
    socket.sent.map((asked) => [asked.thread_id, asked.after, asked.epoch]),
    [
      ["t-a", 2, "a"],
      ["t-b", 3, "b"],
    ],
  );
});

test("goes on from a position that was kept, with the whole text though its beginning is unknown", async () => {
  const texts = [];
  const after = { epoch: "e-1", seq: 7, runId: "r-1" };
  const { socket, thread } = await following({ onText: (text) => texts.push(text) }, { after });
  const { id, ...asked } = socket.sent[0];
  assert.deepEqual(asked, {
    type: "attach",
    thread_id: "t-1",
    after: 7,
    epoch: "e-1",
    options: { text: "full" },
  });
  socket.say(logged(8, "text", { message_id: "m-1", index: 0, text: "Hello" }));
  socket.say(logged(9, "text", { message_id: "m-1", index: 2, text: "Hello world" }));
  assert.deepEqual(texts, ["Hello", "Hello world"]);
  assert.deepEqual(
    thread.view.messages[0].blocks.map(({ text }) => text),
    ["Hello", " world"],
  );
});

test("a text whose beginning was not seen is shown when it is whole", async () => {
  const texts = [];
  const { socket, thread } = await following({ onText: (text) => texts.push(text) });
  socket.say(delta(5, "llo", 2), delta(6, "!", 5));
  assert.deepEqual(texts, []);
  assert.equal(thread.view.messages[0].partial, true);
  socket.say(
    logged(7, "message", {
      message_id: "m-1",
      role: "assistant",
      content: [{ type: "text", text: "Hello!" }],
      status: "finished",
    }),
  );
  assert.equal(thread.view.messages[0].text, "Hello!");
  assert.equal(thread.view.messages[0].partial, false);
});

test("what was saved goes on where it was, with its view", async () => {
  const first = await following();
  first.socket.say(began(1), delta(2, "Hel", 0));
  const saved = JSON.parse(JSON.stringify(first.thread.save()));
  const { client, socket, thread } = await following({}, { saved });
  const { id, ...asked } = socket.sent[0];
  assert.deepEqual(asked, {
    type: "attach",
    thread_id: "t-1",
    after: 2,
    epoch: "e-1",
    options: { text: "delta" },
  });
  client.thread("t-2");
  socket.say(delta(3, "lo", 3));
  assert.equal(thread.view.messages[0].text, "Hello");
  assert.equal(thread.view.status, "running");
});

test("a thread of which nothing is known yet cannot be saved", () => {
  const { client } = fakeClient();
  const thread = client.thread("t-1");
  assert.equal(thread.save(), null);
  assert.equal(thread.position, null);
});

test("a run alone can be followed, and all of its thread after that", async () => {
  const { client, socket } = fakeClient();
  socket.accept();
  const thread = client.thread("t-1", { runId: "r-1" });
  assert.equal(socket.sent[0].run_id, "r-1");
  socket.answer("attach", standing({ run_id: "r-1", status: "running" }));
  socket.say(began(5), ended(6));
  assert.equal(client.thread("t-1"), thread);
  const { id, ...asked } = socket.sent[1];
  assert.deepEqual(asked, {
    type: "attach",
    thread_id: "t-1",
    after: 6,
    epoch: "e-1",
    options: { text: "delta" },
  });
});

test("a thread that cannot be followed again is given up, or tried again when that may help", async () => {
  for (const retryable of [false, true]) {
    const fake = await following();
    fake.socket.say(began(1));
    const socket = await reconnect(fake);
    socket.answer("attach", { code: "internal_error", message: "something", retryable }, "error");
    assert.equal(fake.client.threads.size, retryable ? 1 : 0);
    assert.equal(fake.client.state.status, retryable ? "reconnecting" : "open");
  }
});

test("a run whose thread is detached, or whose connection is given up, ends for those who wait", async () => {
  const detached = await running();
  void detached.run.thread.detach();
  await assert.rejects(detached.run.result(), DetachedError);
  await assert.rejects(
    (async () => {
      for await (const message of detached.run) assert.fail(message.type);
    })(),
    DetachedError,
  );

  const gone = await running();
  gone.socket.drop(4403);
  await assert.rejects(gone.run.result(), ConnectionFailedError);
  await assert.rejects(
    (async () => {
      for await (const message of gone.run.thread) assert.fail(message.type);
    })(),
    ConnectionFailedError,
  );
});

test("an unanswered detach needs no answer once the connection is lost; a cancel does", async () => {
  const fake = await following();
  const detaching = fake.thread.detach();
  const other = fake.client.thread("t-2");
  const cancelling = other.cancel();
  await settle();
  const socket = await reconnect(fake);
  await detaching;
  assert.deepEqual(socket.types(), ["attach", "cancel"]);
  socket.answer("cancel", standing({ status: "cancelling" }));
  await cancelling;
});

test("a thread is let go when the last run that was started on it has ended", async () => {
  const { client, socket, run } = await running();
  const { thread } = run;
  const second = client.newChat("Next", { threadId: "t-1", runId: "r-2" });
  await settle();
  socket.say(began(1), delta(2, "Hello", 0), ended(3));
  await run.result();
  // The other is about to start.
  assert.equal(client.threads.get("t-1"), thread);
  socket.answer("new_chat", standing({ run_id: "r-2", status: "running", head: 3 }));
  const next = await second;
  socket.say(began(4, "r-2"), ended(5, "completed", "r-2"));
  await next.result();
  assert.equal(client.threads.size, 0);
  assert.deepEqual(socket.types(), ["new_chat", "new_chat", "detach"]);
  // It can still be looked at.
  assert.equal(run.text, "Hello");
  assert.deepEqual(
    thread.view.runs.map(({ status }) => status),
    ["completed", "completed"],
  );
  assert.equal(thread.position.seq, 5);
});

test("a thread that was let go is followed again for what is asked of it", async () => {
  const { client, socket, run } = await running();
  socket.say(began(1), ended(2, "interrupted"));
  await run.result();
  const answering = run.answer("yes", { runId: "r-2" });
  await settle();
  assert.deepEqual(socket.types(), ["new_chat", "detach", "attach", "resume_chat"]);
  const { after, epoch } = socket.sent[2];
  assert.deepEqual({ after, epoch }, { after: 2, epoch: "e-1" });
  socket.answer("attach", standing({ head: 2 }));
  socket.answer("resume_chat", standing({ run_id: "r-2", status: "running", head: 2 }));
  const next = await answering;
  assert.equal(next.thread, run.thread);
  assert.equal(client.threads.get("t-1"), run.thread);
  const seen = [];
  const iterating = (async () => {
    for await (const { type } of run.thread) seen.push(type);
  })();
  socket.say(began(3, "r-2"), ended(4, "completed", "r-2"));
  await next.result();
  await iterating;
  assert.deepEqual(seen, ["run", "end"]);
  assert.equal(client.threads.size, 0);
  assert.equal(run.thread.view.runs.length, 2);
});

test("a thread that was asked for, or is looked at, is not let go", async () => {
  const asked = await running();
  assert.equal(asked.client.thread("t-1"), asked.run.thread);
  asked.socket.say(began(1), ended(2));
  assert.equal(asked.client.threads.size, 1);

  const looked = await running();
  const stop = looked.run.thread.subscribe(() => {});
  looked.socket.say(began(1), ended(2));
  assert.equal(looked.client.threads.size, 1);
  stop();
  assert.equal(looked.client.threads.size, 0);
  const again = looked.run.thread.subscribe(() => {});
  assert.deepEqual(looked.socket.types(), ["new_chat", "detach", "attach"]);
  again();
});

test("a thread on which a run was refused is let go again", async () => {
  const { client, socket, run } = await running();
  socket.say(began(1), ended(2));
  const busy = run.thread.newChat("Next");
  await settle();
  socket.answer("attach", standing({ head: 2 }));
  socket.answer("new_chat", { code: "thread_busy", message: "busy", retryable: true }, "error");
  await assert.rejects(busy, { code: "thread_busy" });
  assert.equal(client.threads.size, 0);
  assert.equal(socket.types().at(-1), "detach");
});

test("a run whose end is learned otherwise ends for callbacks and iterations, too", async () => {
  const ends = [];
  const fake = await running(
    { onEnd: (status, { run_id }) => ends.push(["client", status, run_id]) },
    { onEnd: (status) => ends.push(["run", status]) },
  );
  fake.socket.say(began(1));
  const socket = await reconnect(fake);
  socket.answer("attach", standing({ epoch: "e-2" }));
  socket.say(gap({ reason: "unknown", epoch: "e-2" }), snapshot({ epoch: "e-2", seq: 0 }));
  await assert.rejects(fake.run.result(), { code: "lost", retryable: false });
  assert.deepEqual(ends, [
    ["run", "lost"],
    ["client", "lost", "r-1"],
  ]);
  const types = [];
  for await (const { type } of fake.run) types.push(type);
  assert.deepEqual(types, ["run", "gap", "snapshot", "end"]);
});

test("the run that answers has the callbacks of the one that asked, unless others are given", async () => {
  const calls = [];
  const { socket, run } = await running(
    {},
    { onEnd: (status) => calls.push(status), onCustom: () => calls.push("asked") },
  );
  socket.say(began(1), ended(2, "interrupted"));
  const answering = run.answer("yes", { runId: "r-2", onCustom: () => calls.push("answered") });
  await settle();
  socket.answer("attach", standing({ head: 2 }));
  socket.answer("resume_chat", standing({ run_id: "r-2", status: "running", head: 2 }));
  await answering;
  socket.say(began(3, "r-2"), logged(4, "tick", 1, "r-2"), ended(5, "completed", "r-2"));
  assert.deepEqual(calls, ["interrupted", "answered", "completed"]);
});

test("listeners of a view hear once of what arrives together", async () => {
  let changes = 0;
  const { socket, thread } = await following({ onChange: () => changes++ });
  await settle();
  const before = changes;
  const versions = [];
  const unsubscribe = thread.subscribe((view) => versions.push(view.version));
  socket.say(began(1), delta(2, "a", 0), delta(3, "b", 1));
  await settle();
  assert.equal(versions.length, 1);
  assert.equal(changes, before + 1);
  unsubscribe();
  socket.say(delta(4, "c", 2));
  await settle();
  assert.equal(versions.length, 1);
});
