// `@langchain/langgraph-sdk`: what a program that uses it sees, over the transport in $TRANSPORT.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Client } from "@langchain/langgraph-sdk";
import { WebSocket } from "ws";
import {
  AFTER, BEFORE, TRANSPORT, URL_OF_AGENT, all, openGate, proxied, said, soon, transport, until, user,
} from "./helpers.mjs";

const connect = (apiUrl = URL_OF_AGENT) => new Client({ apiUrl, apiKey: null });
const client = connect();
const HALF = `slow: ${BEFORE}`;
const WHOLE = HALF + AFTER;

/** Run a scenario with a thread's stream, which is closed afterwards. */
function scenario(name, graph, run, { threadId, using = client } = {}) {
  test(name, () => withThread(graph, run, { threadId, using }));
}

async function withThread(graph, run, { threadId, using = client } = {}) {
  const options = { assistantId: graph, ...transport, reconnectDelayMs: () => 20 };
  const thread = threadId
    ? using.threads.stream(threadId, options)
    : using.threads.stream(options);
  try {
    return await run(thread);
  } finally {
    await thread.close();
  }
}

// The SDK ends all loops when the end of the run comes in, even those that have seen nothing yet. So
// a run that may be short is started when they have begun.

/** Texts of the messages of a run, each with what it is about, once the run is over. */
async function messages(thread) {
  const found = await soon(all(thread.messages), "the end of the messages");
  return Promise.all(
    found.map(async (message) => {
      const deltas = await soon(all(message.text), "the end of a text");
      const text = await soon(Promise.resolve(message.text), "a text");
      assert.equal(deltas.join(""), text);
      return { id: message.id, node: message.node, depth: message.namespace.length, text };
    }),
  );
}

const texts = async (thread) => (await messages(thread)).map((message) => message.text);

/** The SDK hands out a tool call when it starts and again when it ends. */
async function toolCalls(thread) {
  const made = new Map();
  for (const call of await soon(all(thread.toolCalls))) made.set(call.callId, call);
  return [...made.values()];
}

/** What has been said of a message so far, as it is read. */
function reading(thread) {
  const read = { texts: [] };
  (async () => {
    for await (const message of thread.messages) {
      const place = read.texts.push("") - 1;
      (async () => {
        for await (const delta of message.text) read.texts[place] += delta;
      })();
    }
  })();
  return read;
}

const stateOf = (thread) => client.threads.getState(thread.threadId);
const saidIn = async (thread) => said((await stateOf(thread)).values);
const answers = (thread) => thread.interrupts.map((each) => each.payload);

// --- one run ---

scenario("a message streams and is in the state under its id", "chat", async (thread) => {
  const spoken = messages(thread);
  const { run_id: runId } = await thread.run.start({ input: user("hi") });
  assert.ok(runId);
  const [message] = await spoken;
  assert.equal(message.text, "Turn 1: hi");
  assert.equal(message.node, "model");
  const output = await soon(thread.output);
  assert.deepEqual(said(output), ["hi", "Turn 1: hi"]);
  assert.equal(output.messages[1].id, message.id);
});

scenario("a message that a node wrote itself appears", "whole", async (thread) => {
  const spoken = texts(thread);
  await thread.run.start({ input: user("hi") });
  assert.deepEqual(await spoken, ["Written, not streamed."]);
});

scenario("reasoning and text are told apart", "thinking", async (thread) => {
  const spoken = all(thread.messages);
  await thread.run.start({ input: user("hi") });
  const [message] = await soon(spoken);
  assert.equal(await soon(Promise.resolve(message.reasoning)), "Let me think.");
  assert.equal(await soon(Promise.resolve(message.text)), "I have thought.");
});

scenario("two nodes that stream at once stay two messages", "twins", async (thread) => {
  const spoken = messages(thread);
  await thread.run.start({ input: user("hi") });
  const found = (await spoken).map(({ node, text }) => [node, text]).sort();
  assert.deepEqual(found, [
    ["left", "left  speaks, word by word"],
    ["right", "right speaks, word by word"],
  ]);
});

scenario("every superstep is a snapshot of the state", "steps", async (thread) => {
  const values = all(thread.values);
  await thread.run.start({ input: { log: ["begin"], total: 0 } });
  const snapshots = await soon(values);
  assert.deepEqual(snapshots.map((values) => values.log), [
    ["begin"],
    ["begin", "one"],
    ["begin", "one", "two"],
    ["begin", "one", "two", "three"],
  ]);
  assert.deepEqual(await soon(thread.output), snapshots.at(-1));
});

scenario("all channels have their events", "counter", async (thread) => {
  const channels = [
    ...["values", "updates", "messages", "tools", "lifecycle", "input", "checkpoints", "tasks"],
    "custom",
  ];
  const events = await thread.subscribe(channels);
  await thread.run.start({ input: user("hi") });
  const seen = await soon(all(events));
  const methods = new Set(seen.map((event) => event.method));
  assert.deepEqual(methods, new Set(channels.filter((name) => !["input", "custom"].includes(name))));
  const ids = seen.map((event) => event.event_id);
  assert.equal(new Set(ids).size, ids.length);
  assert.deepEqual(seen.map((event) => event.seq), seen.map((event) => event.seq).sort((a, b) => a - b));
});

scenario("custom events come under their names", "custom", async (thread) => {
  const progress = all(thread.extensions.progress);
  const metrics = thread.extensions.metrics;
  await thread.run.start({ input: user("hi") });
  assert.deepEqual(await soon(progress), [{ percent: 0 }, { percent: 50 }, { percent: 100 }]);
  assert.equal(await soon(Promise.resolve(metrics)), 7);
});

// --- tools ---

scenario("a tool has its input and its output", "counter", async (thread) => {
  const made = toolCalls(thread);
  await thread.run.start({ input: user("hi") });
  const [call, ...more] = await made;
  assert.equal(more.length, 0);
  assert.deepEqual([call.name, call.callId, call.input.to], ["count_up", "call_count_up", 3]);
  assert.equal(await soon(call.output), "counted to 3");
});

scenario("the output of a tool streams", "counter", async (thread) => {
  const events = await thread.subscribe(["tools"]);
  await thread.run.start({ input: user("hi") });
  const data = (await soon(all(events))).map((event) => event.params.data);
  const deltas = data.filter((each) => each.event === "tool-output-delta");
  assert.deepEqual(deltas.map((each) => each.delta), ["1 ", "2 ", "3 "]);
});

scenario("tools that run at once are told apart, and one may fail", "parallel", async (thread) => {
  const spoken = texts(thread);
  const made = toolCalls(thread);
  await thread.run.start({ input: user("hi") });
  const calls = await made;
  assert.deepEqual(calls.map((call) => call.callId).sort(), ["call_1", "call_2", "call_divide"]);
  const [first, second, failed] = calls;
  assert.equal(await soon(first.output), "2");
  assert.equal(await soon(second.output), "counted to 2");
  await assert.rejects(soon(failed.output), /division by zero/);
  assert.deepEqual(await spoken, [
    "Let me see.",
    "Results: 2, counted to 2, failed: division by zero",
  ]);
});

scenario("the arguments of tool calls come with their message", "parallel", async (thread) => {
  const spoken = all(thread.messages);
  await thread.run.start({ input: user("hi") });
  const [message] = await soon(spoken);
  const calls = await soon(Promise.resolve(message.toolCalls));
  assert.deepEqual(calls.map((call) => [call.name, call.args]), [
    ["add", { a: 1, b: 1 }],
    ["count_up", { to: 2 }],
    ["divide", { a: 1, b: 0 }],
  ]);
});

// --- subgraphs ---

scenario("a subgraph has its messages and its subgraphs", "nested", async (thread) => {
  const spoken = messages(thread);
  await thread.run.start({ input: user("slow") });
  const [research] = await soon(first(thread.subgraphs));
  assert.equal(research.name, "research");
  const half = texts(research);
  const [writer] = await soon(first(research.subgraphs));
  assert.equal(writer.name, "writer");
  const deep = texts(writer);
  await soon(thread.subscribe(["values"])); // all that was asked for before has begun by then
  openGate(thread.threadId, "down");
  openGate(thread.threadId, "up");
  assert.deepEqual(await deep, ["Deep down."]);
  assert.deepEqual(await half, ["Deep down.", "Half way up."]);
  assert.deepEqual((await spoken).map(({ depth, text }) => [depth, text]), [
    [2, "Deep down."],
    [1, "Half way up."],
    [0, "On top."],
  ]);
});

/** The first item of an iterable, alone in a list: some of the SDK's handles are thenable. */
async function first(iterable) {
  for await (const item of iterable) return [item];
  return [];
}

// --- interrupts ---

scenario("an interrupt is answered", "ask", async (thread) => {
  await thread.run.start({ input: user("hi") });
  await soon(thread.output);
  assert.equal(thread.interrupted, true);
  assert.deepEqual(answers(thread), [{ question: "Send hi?" }]);
  const [{ interruptId, namespace }] = thread.interrupts;
  await thread.input.respond({ interrupt_id: interruptId, namespace, response: "yes" });
  await until(async () => (await saidIn(thread)).length === 2);
  assert.deepEqual(await saidIn(thread), ["hi", "You said yes."]);
});

scenario("two interrupts are answered at once", "ask_twice", async (thread) => {
  await thread.run.start({ input: { log: [] } });
  await soon(thread.output);
  assert.deepEqual(answers(thread).sort(), ["left", "right"]);
  const responses = thread.interrupts.map(({ interruptId, namespace, payload }) => ({
    interrupt_id: interruptId, namespace, response: payload.toUpperCase(),
  }));
  await thread.respondInput({ responses });
  await until(async () => (await stateOf(thread)).next.length === 0);
  assert.deepEqual((await stateOf(thread)).values.log, ["left=LEFT", "right=RIGHT"]);
});

scenario("an interrupt in a subgraph is answered", "ask_below", async (thread) => {
  await thread.run.start({ input: user("hi") });
  await soon(thread.output);
  const [{ interruptId, namespace, payload }] = thread.interrupts;
  assert.equal(payload, "From below?");
  assert.match(namespace[0], /^below:/);
  await thread.input.respond({ interrupt_id: interruptId, namespace, response: "yes" });
  await until(async () => (await saidIn(thread)).at(-1) === "You said yes.");
});

test("a pending interrupt is there for who comes later", async () => {
  const threadId = await withThread("ask", async (thread) => {
    await thread.run.start({ input: user("hi") });
    await soon(thread.output);
    return thread.threadId;
  });
  await withThread("ask", async (later) => {
    later.startLifecycleWatcher();
    await until(() => later.interrupts.length === 1);
    const [{ interruptId, namespace }] = later.interrupts;
    await later.input.respond({ interrupt_id: interruptId, namespace, response: "yes" });
    await until(async () => (await saidIn(later)).at(-1) === "You said yes.");
  }, { threadId });
});

// --- failure, cancellation, several runs ---

scenario("a failure is told, and what was said before it", "failing", async (thread) => {
  const events = await thread.subscribe(["lifecycle"]);
  const spoken = all(thread.messages);
  await thread.run.start({ input: user("slow") });
  const read = reading(thread);
  await until(() => read.texts[0] === BEFORE.slice(0, 8));
  openGate(thread.threadId, "slow");
  const last = (await soon(all(events))).at(-1).params.data;
  assert.equal(last.event, "failed");
  assert.ok(last.error);
  const [message] = await soon(spoken);
  assert.equal(await soon(Promise.resolve(message.text)), BEFORE.slice(0, 8));
  assert.ok(message.assembled.error.message);
});

scenario("a message after a cancel is not lost", "gated", async (thread) => {
  const { run_id: runId } = await thread.run.start({ input: user("slow") });
  const read = reading(thread);
  await until(() => read.texts[0] === HALF);
  await client.runs.cancel(thread.threadId, runId);
  const [message] = await soon(all(thread.messages));
  assert.ok(await until(() => message.assembled.error));
  await thread.run.start({ input: user("again") });
  await until(async () => (await saidIn(thread)).at(-1) === "Quick answer to again.");
  assert.deepEqual(await saidIn(thread), ["slow", "again", "Quick answer to again."]);
});

scenario("turns follow one another", "chat", async (thread) => {
  for (const [place, text] of ["a", "b", "c"].entries()) {
    const events = await thread.subscribe(["lifecycle"]);
    await thread.run.start({ input: user(text) });
    await soon(all(events));
    await until(async () => (await saidIn(thread)).at(-1) === `Turn ${place + 1}: ${text}`);
  }
  assert.deepEqual(await saidIn(thread), ["a", "Turn 1: a", "b", "Turn 2: b", "c", "Turn 3: c"]);
});

for (const [strategy, expected] of Object.entries({
  enqueue: ["slow", WHOLE, "b", "Quick answer to b."],
  interrupt: ["slow", "b", "Quick answer to b."],
  rollback: ["b", "Quick answer to b."],
})) {
  scenario(`a second message: ${strategy}`, "gated", async (thread) => {
    await thread.submitRun({ input: user("slow") });
    const read = reading(thread);
    await until(() => read.texts[0] === HALF);
    await thread.submitRun({ input: user("b"), multitaskStrategy: strategy });
    openGate(thread.threadId, "slow");
    await until(async () => (await saidIn(thread)).at(-1) === "Quick answer to b.");
    assert.deepEqual(await saidIn(thread), expected);
  });
}

scenario("a second message is refused where that is asked for", "gated", async (thread) => {
  await thread.submitRun({ input: user("slow") });
  const read = reading(thread);
  await until(() => read.texts[0] === HALF);
  const second = thread.submitRun({ input: user("b"), multitaskStrategy: "reject" });
  await assert.rejects(soon(second), /run/i);
  openGate(thread.threadId, "slow");
  await until(async () => (await saidIn(thread)).at(-1) === WHOLE);
});

scenario("a turn is edited from the checkpoint before it", "chat", async (thread) => {
  for (const text of ["a", "b"]) {
    await thread.submitRun({ input: user(text) });
    await until(async () => (await saidIn(thread)).at(-1)?.endsWith(`: ${text}`));
  }
  const history = await client.threads.getHistory(thread.threadId);
  const before = history.find(
    (state) => state.next.length === 0 && state.values.messages.length === 2,
  );
  await thread.submitRun({ input: user("c"), forkFrom: before.checkpoint.checkpoint_id });
  await until(async () => (await saidIn(thread)).at(-1) === "Turn 2: c");
  assert.deepEqual(await saidIn(thread), ["a", "Turn 1: a", "c", "Turn 2: c"]);
});

// --- state, agents, injection ---

scenario("state, checkpoints and forks by command", "chat", async (thread) => {
  await thread.run.start({ input: user("a") });
  await soon(thread.output);
  await until(async () => (await stateOf(thread)).next.length === 0);
  if (TRANSPORT === "sse") thread.startLifecycleWatcher();
  const { values, checkpoint } = await soon(thread.state.get({ namespace: [] }));
  assert.deepEqual(said(values), ["a", "Turn 1: a"]);
  const { checkpoints } = await soon(thread.state.listCheckpoints({}));
  assert.equal(checkpoints[0].id, checkpoint.id);
  assert.deepEqual(checkpoints.map((each) => each.step), [1, 0, -1]);
  const forked = await soon(thread.state.fork({ checkpoint_id: checkpoint.id, input: user("b") }));
  assert.equal(forked.thread_id, thread.threadId);
  await until(async () => (await saidIn(thread)).at(-1) === "Turn 2: b");
});

scenario("the tree of agents", "nested", async (thread) => {
  await thread.run.start({ input: user("hi") });
  await soon(thread.output);
  const { tree } = await soon(thread.agent.getTree());
  assert.equal(tree.status, "completed");
  assert.deepEqual(tree.children.map((child) => child.graph_name), ["research"]);
});

scenario("an injected message gets its run", "gated", async (thread) => {
  await thread.run.start({ input: user("slow") });
  const read = reading(thread);
  await until(() => read.texts[0] === HALF);
  await thread.input.inject({ namespace: [], message: { role: "user", content: "injected" } });
  openGate(thread.threadId, "slow");
  await until(async () => (await saidIn(thread)).at(-1) === "Quick answer to injected.");
});

// --- who comes late, who comes back ---

scenario("a second viewer sees everything from the start", "gated", async (thread) => {
  await thread.run.start({ input: user("slow") });
  const read = reading(thread);
  await until(() => read.texts[0] === HALF);
  await withThread("gated", async (viewer) => {
    const seen = reading(viewer);
    await until(() => seen.texts[0] === HALF);
    openGate(thread.threadId, "slow");
    await until(() => seen.texts[0] === WHOLE && read.texts[0] === WHOLE);
    assert.deepEqual([seen.texts, read.texts], [[WHOLE], [WHOLE]]);
  }, { threadId: thread.threadId });
});

test("who comes when all is over sees the messages", async () => {
  const threadId = await withThread("nested", async (thread) => {
    await thread.run.start({ input: user("hi") });
    await soon(thread.output);
    return thread.threadId;
  });
  await withThread("nested", async (later) => {
    assert.deepEqual(await texts(later), ["Deep down.", "Half way up.", "On top."]);
  }, { threadId });
});

test("nothing is lost or doubled when the connection is reset", () =>
  proxied(async (proxy) => {
    await withThread("gated", async (thread) => {
      await thread.run.start({ input: user("slow") });
      const read = reading(thread);
      await until(() => read.texts[0] === HALF);
      assert.ok(proxy.cut() > 0);
      openGate(thread.threadId, "slow");
      await until(() => read.texts[0] === WHOLE);
      assert.deepEqual(said(await soon(thread.output)), ["slow", WHOLE]);
      assert.deepEqual(read.texts, [WHOLE]);
    }, { using: connect(proxy.url) });
  }));

scenario("many events all arrive, in order", "flood", async (thread) => {
  const ticks = all(thread.extensions.tick);
  await thread.run.start({ input: user("hi") });
  assert.deepEqual(await soon(ticks), Array.from({ length: 3000 }, (_, number) => number));
});

scenario("a large state arrives", "big", async (thread) => {
  await thread.run.start({ input: user("hi") });
  assert.equal(said(await soon(thread.output))[1].length, 1_100_000);
});

// --- what is refused ---

scenario("a graph that is not there is refused by name", "nowhere", async (thread) => {
  await assert.rejects(soon(thread.run.start({ input: user("hi") })), /assistant_id.*nowhere/);
});

scenario("a channel that is not there is refused", "chat", async (thread) => {
  await thread.run.start({ input: user("hi") });
  await assert.rejects(soon(thread.subscribe(["debug"])), /channels|400/);
});

scenario("an answer to what was not asked is refused", "ask", async (thread) => {
  await thread.run.start({ input: user("hi") });
  await soon(thread.output);
  const wrong = thread.input.respond({ namespace: [], interrupt_id: "wrong", response: 1 });
  await assert.rejects(soon(wrong), /interrupt_id.*wrong/);
});

if (TRANSPORT === "websocket") test("a thread is for its owner alone", async () => {
  const apiUrl = URL_OF_AGENT.replace("/agent", "/private");
  const webSocketFactory = (url) => new WebSocket(url, { headers: { cookie: "key=key-of-ann" } });
  const thread = connect(apiUrl).threads.stream({
    assistantId: "chat", transport: "websocket", webSocketFactory,
  });
  await thread.run.start({ input: user("hi") });
  assert.deepEqual(said(await soon(thread.output)), ["hi", "Turn 1: hi"]);
  await thread.close();
  const state = (key) => new Client({ apiUrl, apiKey: key }).threads.getState(thread.threadId);
  assert.deepEqual(said((await state("key-of-ann")).values), ["hi", "Turn 1: hi"]);
  await assert.rejects(state("key-of-bob"), /404/);
  await assert.rejects(state("nobody"), /401/);
});
