// The AI SDK's chat over its `WebSocketChatTransport`, unmodified: what a page shows of a graph.

import assert from "node:assert/strict";
import { test } from "node:test";
import {
  WebSocketChatTransport, lastAssistantMessageIsCompleteWithApprovalResponses,
  safeValidateUIMessages,
} from "ai";
import { WebSocket } from "ws";
import { Chat, parts, texts } from "./chat.mjs";
import { SERVER, letGoOn, until } from "./helpers.mjs";

const open = (graph) =>
  new WebSocketChatTransport({ url: `${SERVER}/${graph}/aisdk`, webSocket: WebSocket });

/** Runs a scenario with a chat; what that has in the end must be valid. */
function scenario(name, graph, run, options) {
  test(name, async () => {
    const transport = open(graph);
    const errors = [];
    const chat = new Chat({ transport, onError: (error) => errors.push(error.message), ...options });
    try {
      await run(chat, transport, errors);
      if (chat.messages.length) {
        const { success, error } = await safeValidateUIMessages({ messages: chat.messages });
        assert.ok(success, error?.message);
      }
    } finally {
      transport.close();
    }
  });
}

const finished = (message) =>
  message.parts.every((part) => !["streaming", "input-streaming"].includes(part.state));

scenario("a conversation", "talk", async (chat) => {
  await chat.sendMessage({ text: "one" });
  assert.deepEqual(texts(chat.last), ["Heard 1: one"]);
  await chat.sendMessage({ text: "two" });
  assert.deepEqual(texts(chat.last), ["Heard 3: two"]);
  assert.equal(chat.messages.length, 4);
  assert.equal(chat.status, "ready");
  assert.ok(finished(chat.last));
});

scenario("regenerating and editing", "talk", async (chat) => {
  await chat.sendMessage({ text: "one" });
  await chat.sendMessage({ text: "two" });
  await chat.regenerate();
  assert.deepEqual(texts(chat.last), ["Heard 3: two"]);
  await chat.sendMessage({ text: "edited", messageId: chat.messages[0].id });
  assert.deepEqual(chat.messages.map(texts), [["edited"], ["Heard 1: edited"]]);
});

scenario("thoughts, parallel tools, a tool that fails, sources, usage", "search", async (chat) => {
  await chat.sendMessage({ text: "weather?" });
  assert.deepEqual(parts(chat.last, "reasoning").map((part) => part.text), ["Hm."]);
  const [rome, atlantis] = parts(chat.last, "dynamic-tool");
  assert.deepEqual([rome.state, rome.input, rome.output],
    ["output-available", { city: "Rome" }, "Sunny in Rome"]);
  assert.deepEqual([atlantis.state, atlantis.input], ["output-error", { city: "Atlantis" }]);
  assert.deepEqual(parts(chat.last, "source-url").map((part) => part.url), ["https://e.com"]);
  assert.deepEqual(texts(chat.last), ["Let me see.", "Done."]);
  assert.equal(chat.last.metadata.usage.total_tokens, 5);
  assert.ok(parts(chat.last, "data-workflow-step").every((part) => part.data.status === "finished"));
  assert.ok(finished(chat.last));
});

scenario("two nodes that write at once", "both", async (chat) => {
  await chat.sendMessage({ text: "both" });
  assert.deepEqual(texts(chat.last).sort(), ["Left it is.", "Right it is."]);
});

scenario("two interrupts at once, answered in one message", "ask", async (chat) => {
  await chat.sendMessage({ text: "go" });
  const asked = parts(chat.last, "data-interrupt");
  const resume = Object.fromEntries(asked.map(({ id, data }) => [id, data.value.question + "!"]));
  await chat.sendMessage(undefined, { body: { resume } });
  assert.equal(chat.messages.length, 2);
  assert.deepEqual(texts(chat.last).sort(), ["a: a!", "b: b!"]);
  assert.ok(parts(chat.last, "data-interrupt").every(({ data }) => data.status === "answered"));
});

scenario("approvals, sent when all are given", "approve", async (chat, transport) => {
  await chat.sendMessage({ text: "weather?" });
  const asked = parts(chat.last, "dynamic-tool");
  assert.deepEqual(asked.map((part) => part.state), ["approval-requested", "approval-requested"]);
  await chat.addToolApprovalResponse({ id: asked[0].approval.id, approved: true });
  await chat.addToolApprovalResponse({ id: asked[1].approval.id, approved: false });
  await until(() => texts(chat.last).length && chat.status === "ready");
  assert.deepEqual([chat.messages.length, texts(chat.last)], [2, ["approve, reject"]]);
  const viewer = new Chat({ id: chat.id, transport });
  await viewer.resumeStream();
  assert.equal(viewer.last.id, chat.last.id);
  assert.deepEqual(texts(viewer.last), texts(chat.last));
}, { sendAutomaticallyWhen: lastAssistantMessageIsCompleteWithApprovalResponses });

scenario("a node that fails", "fail", async (chat, _transport, errors) => {
  await chat.sendMessage({ text: "go" });
  assert.equal(chat.status, "error");
  assert.match(errors[0], /^The graph failed\. \(error \w+\)$/);
});

scenario("an error before the run", "talk", async (chat, _transport, errors) => {
  await chat.sendMessage({ text: "go" }, { body: { assistantId: "nobody" } });
  assert.equal(chat.status, "error");
  assert.match(errors[0], /^body\.assistantId: no graph is named 'nobody'/);
});

scenario("stopping", "slow", async (chat, transport) => {
  const sent = chat.sendMessage({ text: "go" });
  await until(() => chat.last?.role === "assistant" && texts(chat.last)[0] === "Before. ");
  await chat.stop();
  await sent;
  assert.equal(chat.status, "ready");
  const viewer = new Chat({ id: chat.id, transport });
  await viewer.resumeStream(); // to the end of the cancelled run
  assert.deepEqual(texts(viewer.last), ["Before. "]);
});

scenario("coming back in mid-run after the connection broke", "slow", async (chat, transport) => {
  const sent = chat.sendMessage({ text: "go" });
  await until(() => chat.last?.role === "assistant" && texts(chat.last)[0] === "Before. ");
  const { id } = chat.last;
  transport.close();
  await sent;
  assert.equal(chat.status, "error");
  const resumed = chat.resumeStream();
  await until(() => chat.status === "streaming");
  await letGoOn(chat.id);
  await resumed;
  assert.deepEqual(texts(chat.last), ["Before. ", "After."]);
  assert.deepEqual([chat.messages.length, chat.last.id], [2, id]);
});

scenario("a second viewer", "slow", async (chat) => {
  const sent = chat.sendMessage({ text: "go" });
  await until(() => chat.last?.role === "assistant" && texts(chat.last)[0] === "Before. ");
  const other = open("slow");
  try {
    const viewer = new Chat({ id: chat.id, transport: other });
    const watched = viewer.resumeStream();
    await until(() => viewer.last && texts(viewer.last)[0] === "Before. ");
    await letGoOn(chat.id);
    await Promise.all([sent, watched]);
    assert.deepEqual(viewer.last, chat.last);
  } finally {
    other.close();
  }
});

scenario("two chats on one socket", "slow", async (chat, transport) => {
  const second = new Chat({ transport });
  const sent = [chat.sendMessage({ text: "one" }), second.sendMessage({ text: "two" })];
  await letGoOn(second.id);
  await sent[1];
  assert.deepEqual(texts(second.last), ["Before. ", "After."]);
  await letGoOn(chat.id);
  await sent[0];
  assert.deepEqual(texts(chat.last), ["Before. ", "After."]);
});

scenario("nothing to resume", "talk", async (chat) => {
  await chat.resumeStream();
  assert.deepEqual([chat.status, chat.messages], ["ready", []]);
});
