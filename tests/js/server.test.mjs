// The client and the real server: everything that a run can say, and every way to lose it.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { WebSocket as PackagedWebSocket } from "ws";

import {
  ConnectionFailedError,
  RequestRefused,
  RunFailedError,
  connect,
} from "../../langgraph_ws/static/client.js";
import { startDemo, startServer } from "./processes.mjs";

const WORDS = Array.from({ length: 400 }, (_, number) => `word${number}🕐`).join(" ");
const TICKS = 3_000;
/** Node 22 has a WebSocket of its own, as browsers do; Node 20 with `--experimental-websocket`. */
const BUILT_IN = globalThis.WebSocket !== undefined;
const WebSocket = globalThis.WebSocket ?? PackagedWebSocket;
const LIMIT = { timeout: 60_000 };

/** @type {Awaited<ReturnType<typeof startServer>>} */
let server;
const clients = new Set();

before(async () => {
  server = await startServer();
});

after(async () => {
  await Promise.all([...clients].map((client) => client.close()));
  await server.stop();
});

/** A client that is closed after the tests. */
function open(url, options = {}) {
  const client = connect(url, {
    WebSocket,
    reconnect: { delayMs: 20, maxDelayMs: 200 },
    ...options,
  });
  clients.add(client);
  return client;
}

/** The view of a thread, without what differs between those who look at it. */
function seen(thread) {
  const { runs, messages, toolCalls, interrupts } = JSON.parse(JSON.stringify(thread.view));
  for (const message of messages) delete message.version;
  return { runs, messages, toolCalls, interrupts };
}

/** Wait until the view of a thread fits. */
async function until(thread, fits) {
  if (fits(thread.view)) return;
  await new Promise((resolve) => {
    const unsubscribe = thread.subscribe((view) => {
      if (!fits(view)) return;
      unsubscribe();
      resolve();
    });
  });
}

describe("the demo", LIMIT, () => {
  test("a question: reasoning, tool, sources, steps, text", async () => {
    const texts = [];
    const progress = [];
    const client = open(server.url("/demo"));
    const run = await client.newChat("What is a superstep?", {
      onText: (text, { message_id: id }) => texts.push([id, text]),
      onCustom: (name, data) => progress.push([name, data.percent]),
    });
    const types = new Set();
    for await (const { type } of run) types.add(type);
    const result = await run.result();
    assert.equal(result.status, "completed");
    assert.match(result.text, /A superstep is one tick of a LangGraph graph/);
    assert.equal(result.final.text, result.text);
    for (const type of [
      "run",
      "reasoning",
      "text",
      "tool_call",
      "tool_result",
      "sources",
      "workflow_step",
      "message",
      "final",
      "end",
    ]) {
      assert(types.has(type), type);
    }
    assert.deepEqual(progress, [
      ["progress", 50],
      ["progress", 100],
    ]);
    const lasts = new Map(texts);
    assert.equal([...lasts.values()].at(-1), result.text);
    for (const [index, [id, text]] of texts.entries()) {
      const previous = texts.slice(0, index).findLast(([other]) => other === id);
      assert(text.startsWith(previous?.[1] ?? ""));
    }
    const { view } = run.thread;
    assert.deepEqual(
      view.messages.map(({ role }) => role),
      ["user", "assistant", "assistant"],
    );
    const [call] = run.toolCalls;
    assert.equal(call.name, "search_documents");
    assert.deepEqual(call.args, JSON.parse(call.arguments));
    assert.equal(call.result.status, "success");
    assert.match(run.messages[1].reasoning, /I should look that up/);
    assert(run.sources.some(({ title }) => title === "Supersteps"));
    assert(run.steps.every(({ status }) => status === "finished"));
    assert.equal(view.status, "completed");
  });

  test("an interrupt, and its answer", async () => {
    const client = open(server.url("/demo"));
    const run = await client.newChat("approve");
    const { status, interrupts } = await run.result();
    assert.equal(status, "interrupted");
    assert.deepEqual(interrupts[0].value.options, ["yes", "no"]);
    await assert.rejects(run.answer({ [interrupts[0].id.replace(/./g, "0")]: "yes" }), {
      code: "stale_interrupt",
    });
    const next = await run.answer({ [interrupts[0].id]: "yes" });
    assert.match((await next.result()).text, /Sent!/);
    assert.deepEqual(run.thread.view.interrupts, []);
    assert.deepEqual(
      run.thread.view.runs.map((known) => known.status),
      ["interrupted", "completed"],
    );
  });

  test("stopping", async () => {
    const client = open(server.url("/demo"));
    const run = await client.newChat("long");
    await until(run.thread, () => run.text.length > 20);
    await run.cancel();
    assert.equal((await run.result()).status, "cancelled");
    assert.equal(run.messages.at(-1).status, "cancelled");
    await run.cancel();
  });

  test("a failure, and going on after it", async () => {
    const errors = [];
    const client = open(server.url("/demo"), { onError: (error) => errors.push(error) });
    const run = await client.newChat("fail");
    await assert.rejects(run.result(), { name: "RunFailedError", code: "graph_failed" });
    assert.deepEqual(
      errors.map(({ name }) => name),
      ["RunFailedError"],
    );
    const next = await run.thread.resumeChat();
    assert.match((await next.result()).text, /I got over it/);
  });

  test("two nodes at once, and two runs at once", async () => {
    const client = open(server.url("/demo"));
    const runs = await Promise.all([client.newChat("both"), client.newChat("both")]);
    for (const run of runs) {
      await run.result();
      const texts = run.messages.slice(1).map(({ text }) => text);
      assert.deepEqual(texts.map((text) => text.slice(0, 8)).sort(), ["I am the", "I am the"]);
      assert(
        texts.some((text) => text.endsWith("interleaved.")) &&
          texts.some((text) => text.endsWith("mixed up.")),
      );
    }
  });

  test("runs that wait for each other", async () => {
    const client = open(server.url("/demo"));
    const first = await client.newChat("long");
    const second = await first.thread.newChat("both");
    const third = await first.thread.newChat("help");
    assert.equal(second.status, "queued");
    await third.cancel();
    assert.equal((await third.result()).status, "cancelled");
    await first.cancel();
    assert.equal((await second.result()).status, "completed");
    assert.deepEqual(
      first.thread.view.runs.map(({ runId }) => runId),
      [first.runId, second.runId],
    );
    await assert.rejects(
      (async () => {
        const busy = await first.thread.newChat("long");
        try {
          await first.thread.newChat("help", { multitaskStrategy: "reject" });
        } finally {
          await busy.cancel();
        }
      })(),
      { name: "RequestRefused", code: "thread_busy" },
    );
  });

  test("a rollback makes void what was said", async () => {
    const client = open(server.url("/demo"));
    const first = await client.newChat("long");
    await until(first.thread, () => first.text.length > 20);
    const second = await first.thread.newChat("both", { multitaskStrategy: "rollback" });
    assert.equal((await first.result()).status, "cancelled");
    assert.equal((await second.result()).status, "completed");
    const { view } = first.thread;
    assert.deepEqual(
      view.runs.map(({ runId }) => runId),
      [second.runId],
    );
    assert.equal(view.messages[0].text, "both");
  });

  test("editing: a fork leaves behind what came after", async () => {
    const client = open(server.url("/demo"));
    const run = await client.newChat("help");
    await run.result();
    const { thread } = run;
    const wrong = await thread.newChat("What is a thread?");
    await wrong.result();
    const edited = await thread.resumeChat({
      messages: "both",
      checkpointId: wrong.view.checkpointId,
    });
    await edited.result();
    const asked = thread.view.branch.filter(({ role }) => role === "user").map(({ text }) => text);
    assert.deepEqual(asked, ["help", "both"]);
    await assert.rejects(thread.resumeChat({ messages: "x", checkpointId: "nonsense" }), {
      code: "no_checkpoint",
    });
  });

  test("what is refused", async () => {
    const client = open(server.url("/demo"));
    await assert.rejects(client.newChat({ input: { messages: [] }, assistantId: "other" }), {
      code: "unknown_graph",
    });
    await assert.rejects(client.resumeChat("nothing-there"), { code: "nothing_to_continue" });
    await assert.rejects(client.attach("t", { runId: "nobody-knows" }), RequestRefused);
    await assert.rejects(client.newChat("x".repeat(100_000)), {
      code: "limit_exceeded",
    });
    assert.equal((await (await client.newChat("both")).result()).status, "completed");
  });

  test("a second client sees the same, live and late", async () => {
    const first = await open(server.url("/demo")).newChat("What is a checkpoint?");
    const live = await open(server.url("/demo")).attach(first.threadId);
    await first.result();
    await until(live, (view) => view.status === "completed");
    const late = await open(server.url("/demo")).attach(first.threadId);
    await until(late, (view) => view.status === "completed");
    assert.deepEqual(seen(live), seen(first.thread));
    assert.deepEqual(seen(late), seen(first.thread));
    const next = await late.newChat("both");
    await next.result();
    await until(live, (view) => view.run.runId === next.runId && view.status === "completed");
    assert.deepEqual(seen(live), seen(late));
  });

  test("the reload of a page in the middle of a run", async () => {
    const watching = open(server.url("/demo"));
    const page = open(server.url("/demo"));
    const run = await page.newChat("long");
    const whole = await watching.attach(run.threadId);
    await until(run.thread, () => run.text.length > 100);
    const kept = JSON.stringify(run.thread.save());
    const positioned = run.thread.position;
    await page.close();

    const saved = JSON.parse(kept);
    const [restored, positionOnly] = await Promise.all([
      open(server.url("/demo")).attach(saved.threadId, { saved }),
      open(server.url("/demo")).attach(saved.threadId, { after: positioned }),
    ]);
    const done = (view) => view.status === "completed";
    await Promise.all([whole, restored, positionOnly].map((thread) => until(thread, done)));
    assert.deepEqual(seen(restored), seen(whole));
    assert.equal(positionOnly.view.run.text, whole.view.run.text);
  });

  test("more conversations than a connection may follow at once", async () => {
    const client = open(server.url("/demo"));
    const runs = [];
    for (let number = 0; number < 40; number++) {
      const run = await client.newChat("fail", { onError: () => {} });
      await assert.rejects(run.result(), { code: "graph_failed" });
      runs.push(run);
    }
    assert.equal(client.threads.size, 0);
    const next = await runs[0].thread.resumeChat();
    assert.match((await next.result()).text, /I got over it/);
    assert.equal(next.thread, runs[0].thread);
    assert.deepEqual(
      next.thread.view.runs.map(({ status }) => status),
      ["failed", "completed"],
    );
  });

  test("more than the server takes at once", async () => {
    const errors = [];
    const client = open(server.url("/hurried"), { onError: (error) => errors.push(error) });
    for (let round = 0; round < 2; round++) {
      const runs = await Promise.all(Array.from({ length: 30 }, () => client.newChat("Hi")));
      for (const run of runs) assert.equal((await run.result()).text, "Hello");
    }
    // How often depends on how fast the answers came.
    assert.deepEqual([...new Set(errors.map(({ code }) => code))], ["rate_limited"]);
    assert.equal(client.threads.size, 0);
  });

  test("a URL at which nothing is served", async () => {
    const client = open(server.url("/nothing"), { reconnect: { maxAttempts: 1, delayMs: 5 } });
    await assert.rejects(client.opened, ConnectionFailedError);
    if (!BUILT_IN) assert.match(client.state.reason, /404: nothing is served at this URL/);
  });

  test("detaching, while the run goes on", async () => {
    const client = open(server.url("/demo"));
    const run = await client.newChat("both");
    const { threadId } = run;
    await run.thread.detach();
    const again = await client.attach(threadId);
    await until(again, (view) => view.status === "completed");
    assert.equal(again.view.messages.length, 3);
  });
});

test("cut connections lose nothing and double nothing", LIMIT, async (context) => {
  context.diagnostic(`seed ${server.seed}`);
  let connections = 0;
  const client = open(server.cut("/ticks"), {
    reconnect: { delayMs: 1, maxDelayMs: 5, maxAttempts: null },
    buffer: 1_000_000,
    onState: ({ status }) => (connections += status === "open" ? 1 : 0),
  });
  const texts = [];
  const run = await client.newChat("go", { onText: (text) => texts.push(text) });
  const ticks = [];
  const types = [];
  for await (const message of run) {
    types.push(message.type);
    if (message.type === "tick") ticks.push(message.data);
  }
  assert.deepEqual(
    ticks,
    Array.from({ length: TICKS }, (_, number) => number),
  );
  assert.equal((await run.result()).text, WORDS);
  assert.equal(texts.at(-1), WORDS);
  for (const [index, text] of texts.entries()) assert(text.startsWith(texts[index - 1] ?? ""));
  assert.equal(types.filter((type) => type === "run").length, 1);
  assert(!types.includes("gap"));
  assert(connections > 1, `${connections} connections`);
  const late = await open(server.url("/ticks")).attach(run.threadId);
  await until(late, (view) => view.status === "completed");
  assert.equal(late.view.runs.length, 1, "it was started once");
  assert.deepEqual(seen(late), seen(run.thread));
});

test("who outlives the log gets a gap, a snapshot, and the right text", LIMIT, async () => {
  const client = open(server.url("/gated"));
  const run = await client.newChat("outlive");
  for await (const { type } of run) if (type === "waits") break;
  const saved = run.thread.save();
  assert(saved.position.seq > 0 && run.text.length > 0 && run.text.length < WORDS.length);

  const watching = open(server.url("/gated"));
  const passed = [];
  const thread = await watching.attach(run.threadId, {
    onCustom: (name, data) => passed.push(name, data),
  });
  await client.close();
  await server.openGate("outlive-1");
  await until(thread, () => passed.includes(2));

  const gaps = [];
  const late = await open(server.url("/gated")).attach(run.threadId, {
    saved,
    onGap: ({ reason }) => gaps.push(reason),
    onSnapshot: () => gaps.push("snapshot"),
  });
  await until(late, () => gaps.length === 2);
  assert.deepEqual(gaps, ["trimmed", "snapshot"]);
  const open_ = late.view.messages.find(({ status }) => status === "open");
  assert(
    WORDS.startsWith(open_.text) &&
      open_.text.length > saved.view.messages.at(-1).blocks[0].text.length,
  );
  await server.openGate("outlive-2");
  await until(late, (view) => view.status === "completed");
  assert.equal(late.view.run.text, WORDS);
});

test("a token: refused, accepted, expired and renewed while the run goes on", LIMIT, async () => {
  const refused = open(server.url("/token"), { token: "nobody" });
  await assert.rejects(
    refused.opened,
    (error) => error instanceof ConnectionFailedError && error.code === 4401,
  );
  const missing = open(server.url("/token"));
  await assert.rejects(missing.newChat("x"), { code: "unauthorized" });

  const given = [];
  const client = open(server.url("/token"), {
    token: async () => {
      given.push("ann:0.5");
      return given.at(-1);
    },
  });
  const run = await client.newChat("token");
  while (given.length < 3) await sleep(10);
  await server.openGate("token");
  assert.equal((await run.result()).text, "It is open.");
});

test(
  "refusals of the handshake: 401 is final where it can be seen, 503 is not",
  LIMIT,
  async () => {
    for (const [path, status, attempts] of [
      ["/forbidden", 401, BUILT_IN ? 3 : 0],
      ["/full", 503, 3],
    ]) {
      const losses = [];
      const client = open(server.url(path), {
        reconnect: { delayMs: 1, maxAttempts: 3 },
        onError: ({ name, httpStatus }) => losses.push([name, httpStatus]),
      });
      await assert.rejects(client.opened, ConnectionFailedError);
      const seenStatus = BUILT_IN ? null : status;
      assert.deepEqual(losses, [
        ...Array(attempts).fill(["ConnectionLostError", seenStatus]),
        ["ConnectionFailedError", seenStatus],
      ]);
    }
  },
);

test("a server that is told to go away, and another one after it", LIMIT, async () => {
  const first = await startDemo();
  const states = [];
  const client = open(first.url, {
    reconnect: { delayMs: 50, maxDelayMs: 100, maxAttempts: null },
    onState: (state) => states.push(state),
  });
  const run = await client.newChat("long");
  await until(run.thread, () => run.text.length > 20);
  const drained = assert.rejects(
    run.result(),
    (error) => error instanceof RunFailedError && error.code === "drained",
  );
  await first.stop("SIGTERM");
  await drained;
  const second = await startDemo(first.port);
  try {
    client.reconnectNow();
    const { thread } = run;
    await until(thread, (view) => view.run === null);
    assert.equal(states.find(({ status }) => status === "reconnecting").reason, "restart");
    const next = await thread.newChat("both");
    assert.equal((await next.result()).status, "completed");
    await client.close();
  } finally {
    await second.stop("SIGKILL");
  }
});

test(
  "a server that is killed: the run is lost with its log, the client lives on",
  LIMIT,
  async () => {
    const first = await startDemo();
    const client = open(first.url, {
      reconnect: { delayMs: 50, maxDelayMs: 100, maxAttempts: null },
    });
    const run = await client.newChat("long");
    await until(run.thread, () => run.text.length > 20);
    const lost = assert.rejects(
      run.result(),
      (error) => error instanceof RunFailedError && error.code === "lost",
    );
    await first.stop("SIGKILL");
    const second = await startDemo(first.port);
    try {
      await lost;
      assert.equal((await (await client.newChat("both")).result()).status, "completed");
      await client.close();
    } finally {
      await second.stop("SIGKILL");
    }
  },
);
