// The AG-UI client: its own `HttpAgent`, and an agent over the WebSocket; what each builds of a run.

import assert from "node:assert/strict";
import { test } from "node:test";
import { HttpAgent } from "@ag-ui/client";
import { WebSocket } from "ws";
import { WebSocketAgent } from "../../../examples/agui_websocket/agent.mjs";
import { SERVER, letGoOn, until } from "./helpers.mjs";

const AGENTS = {
  HttpAgent: (graph, config) => new HttpAgent({ url: `${SERVER}/${graph}/agui`, ...config }),
  WebSocketAgent: (graph, config) =>
    new WebSocketAgent({ url: `${SERVER}/${graph}/agui`.replace("http", "ws"), WebSocket, ...config }),
};
const onSocket = AGENTS.WebSocketAgent;

/** Runs a scenario with each kind of agent; `warned` has what the client found odd. */
function scenario(name, graph, run) {
  for (const [kind, make] of Object.entries(AGENTS)) {
    test(`${name} (${kind})`, async (context) => {
      const warned = [];
      context.mock.method(console, "warn", (...words) => warned.push(words.join(" ")));
      await run(make(graph), (config) => make(graph, config));
      assert.deepEqual(warned, []);
    });
  }
}

/** Have the agent answer this; its events. */
async function ask(agent, content, parameters) {
  const events = [];
  if (content) agent.addMessage({ id: crypto.randomUUID(), role: "user", content });
  await agent.runAgent(parameters, { onEvent: ({ event }) => void events.push(event) });
  return events;
}

const of = (events, type) => events.filter((event) => event.type === type);
const said = (agent) => agent.messages.filter((it) => it.role === "assistant").map((it) => it.content);

scenario("a conversation", "talk", async (agent) => {
  await ask(agent, "one");
  await ask(agent, "two");
  assert.deepEqual(agent.messages.map((it) => it.content),
    ["one", "Heard 1: one", "two", "Heard 3: two"]);
});

scenario("thoughts, parallel tools, a tool that fails, sources, usage, subagents", "search",
  async (agent) => {
    const events = await ask(agent, "weather?");
    const [, reasoning, calling, ...rest] = agent.messages;
    assert.deepEqual([reasoning.role, reasoning.content], ["reasoning", "Hm."]);
    assert.equal(calling.content, "Let me see.");
    assert.deepEqual(calling.toolCalls.map((it) => JSON.parse(it.function.arguments)),
      [{ city: "Rome" }, { city: "Atlantis" }]);
    assert.deepEqual(rest.map((it) => it.role), ["tool", "tool", "assistant"]);
    const result = rest.find((it) => it.toolCallId === "c1");
    assert.equal(result.content, "Sunny in Rome");
    assert.equal(rest.at(-1).content, "Done.");
    const failed = of(events, "TOOL_CALL_RESULT").find((it) => it.toolCallId === "c2");
    assert.equal(failed.metadata.langgraph.status, "error");
    const [sources] = of(events, "CUSTOM").filter((it) => it.name === "sources");
    assert.equal(sources.value[0].url, "https://e.com");
    assert.equal(of(events, "SUBAGENT_STARTED").length, of(events, "SUBAGENT_FINISHED").length);
    assert.equal(events.at(-1).usage[0].totalTokens, 5);
    assert.deepEqual(events.at(-1).outcome, { type: "success" });
  });

scenario("two nodes that write at once", "both", async (agent) => {
  await ask(agent, "both");
  assert.deepEqual(said(agent).sort(), ["Left it is.", "Right it is."]);
});

scenario("two interrupts at once, answered by their ids", "ask", async (agent) => {
  await ask(agent, "go");
  assert.equal(agent.pendingInterrupts.length, 2);
  const resume = agent.pendingInterrupts.map(({ id, message }) =>
    ({ interruptId: id, status: "resolved", payload: `${message}!` }));
  await ask(agent, undefined, { resume });
  assert.deepEqual(said(agent).sort(), ["a: a!", "b: b!"]);
  assert.deepEqual(agent.pendingInterrupts, []);
});

scenario("a node that fails", "fail", async (agent) => {
  const [error] = of(await ask(agent, "go"), "RUN_ERROR");
  assert.match(error.message, /^The graph failed\. \(error \w+\)$/);
  assert.equal(error.code, "graph_failed");
});

scenario("a second viewer, with the same input", "slow", async (agent, make) => {
  const runId = crypto.randomUUID();
  const sent = ask(agent, "go", { runId });
  await until(() => said(agent)[0] === "Before. ");
  const viewer = make({ threadId: agent.threadId, initialMessages: agent.messages.slice(0, 1) });
  const watched = ask(viewer, undefined, { runId });
  await until(() => said(viewer)[0] === "Before. ");
  await letGoOn(agent.threadId);
  await Promise.all([sent, watched]);
  assert.deepEqual(said(agent), ["Before. ", "After."]);
  assert.deepEqual(viewer.messages, agent.messages);
});

test("coming back in mid-run after the connection broke", async () => {
  const agent = onSocket("slow");
  const runId = crypto.randomUUID();
  const sent = ask(agent, "go", { runId }).catch(() => {});
  await until(() => said(agent)[0] === "Before. ");
  agent.socket.terminate();
  await sent;
  const back = onSocket("slow", {
    threadId: agent.threadId, initialMessages: agent.messages.slice(0, 1),
  });
  const again = ask(back, undefined, { runId });
  await until(() => said(back)[0] === "Before. ");
  await letGoOn(agent.threadId);
  await again;
  assert.deepEqual(said(back), ["Before. ", "After."]);
});

test("cancelling, seen by who has connected to the thread", async () => {
  const agent = onSocket("slow");
  const sent = ask(agent, "go");
  await until(() => said(agent)[0] === "Before. ");
  const viewer = onSocket("slow", { threadId: agent.threadId });
  const ends = [];
  const watched = viewer.connectAgent({}, { onRunFinishedEvent: ({ event }) => void ends.push(event) });
  await until(() => viewer.messages.length === 2);
  assert.deepEqual(viewer.messages.map((it) => it.content), ["go", "Before. "]);
  const socket = new WebSocket(`${SERVER}/slow/agui`.replace("http", "ws"));
  await new Promise((resolve) => socket.once("open", resolve));
  socket.send(JSON.stringify({ type: "cancel", threadId: agent.threadId }));
  const events = await sent;
  await watched;
  socket.close();
  assert.deepEqual(events.at(-1).outcome, { type: "cancelled" });
  assert.deepEqual(ends[0].outcome, { type: "cancelled" });
});

test("bad input names the field, over HTTP", async () => {
  const response = await fetch(`${SERVER}/talk/agui`, { method: "POST", body: "{}" });
  assert.equal(response.status, 422);
  assert.deepEqual(await response.json(),
    { type: "RUN_ERROR", message: "threadId: missing", code: "invalid_field" });
});
