// The view of a thread: what messages add up to.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { began, delta, following, logged, snapshot, standing } from "./fakes.mjs";

/** What the server's own tests have pinned that it sends. */
const transcript = (name) =>
  readFileSync(new URL(`../transcripts/${name}.jsonl`, import.meta.url), "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));

/** A view after these messages. */
async function viewOf(messages, attach = {}) {
  const { socket, thread, errors } = await following({}, attach);
  socket.say(...messages);
  assert.deepEqual(
    errors.filter(({ name }) => name !== "RunFailedError"),
    [],
  );
  return thread.view;
}

const plain = (value) => JSON.parse(JSON.stringify(value));
const text = (said) => [{ type: "text", text: said }];

/** The story up to the rollback that its second run begins with. */
const story = (name) => transcript(name).filter(({ run_id: id }) => id === "r-1");

test("says everything that a run has said", async () => {
  const view = await viewOf(story("chat_delta"));
  const [run] = view.runs;
  assert.equal(view.status, "interrupted");
  assert.deepEqual(
    [run.runId, run.graph, run.checkpointId, run.startedAt],
    ["r-1", "chat", "cp-0", 1760000000000],
  );
  assert.deepEqual(
    view.messages.map(({ id, role, status, text: said }) => [id, role, status, said]),
    [
      ["m-0", "user", "finished", "What?"],
      ["m-final", "assistant", "finished", "A superstep is one tick 🕐."],
      ["m-2", "assistant", "finished", "one two three"],
      ["m-3", "assistant", "failed", "eins zwei"],
    ],
  );
  const [, message, nested] = view.messages;
  assert.equal(message.reasoning, "Look it up.");
  assert.deepEqual(
    message.blocks.map(({ index, kind }) => [index, kind]),
    [
      [0, "reasoning"],
      [1, "text"],
      [2, "tool_call"],
      [3, "tool_call"],
      [4, "text"],
      [5, "media"],
    ],
  );
  assert.equal(message.blocks[5].content.url, "https://example.com/tick.png");
  assert.deepEqual(
    [message.node, message.taskId, message.usage.total_tokens],
    ["agent", "task-1", 15],
  );
  assert.deepEqual(nested.namespace, ["sub:task-1"]);

  const [call, bad] = view.toolCalls;
  assert.equal(message.blocks[2].toolCall, call);
  assert.deepEqual(plain(call), {
    id: "c-1",
    runId: "r-1",
    messageId: "m-final",
    name: "search",
    namespace: [],
    status: "finished",
    arguments: '{"query": "superstep"}',
    args: { query: "superstep" },
    error: null,
    result: {
      status: "success",
      input: { query: "superstep" },
      output: ["1 hit"],
      content: "3 hits",
      artifact: null,
    },
  });
  assert.deepEqual([bad.arguments, bad.error, bad.result.status], ["{", "no JSON", "error"]);

  assert.deepEqual(
    view.sources.map(({ id }) => id),
    ["s1", "s2"],
  );
  assert.deepEqual(
    view.steps.map(({ step, status, durationMs }) => [step, status, durationMs]),
    [
      ["agent", "interrupted", null],
      ["inner", "finished", 12],
    ],
  );
  assert.deepEqual(
    view.interrupts.map(({ value }) => value),
    [{ question: "Send it?" }],
  );
  assert.deepEqual(
    run.checkpoints.map(({ checkpoint_id: id }) => id),
    ["cp-2", "cp-1"],
  );
});

test("is the same however the texts come: new or whole, each or merged", async () => {
  const views = [];
  for (const name of ["chat_delta", "chat_delta_waiting", "chat_full", "chat_full_waiting"]) {
    const { runs, messages, toolCalls, interrupts } = plain(await viewOf(story(name)));
    for (const message of messages) delete message.version;
    views.push({ runs, messages, toolCalls, interrupts });
  }
  for (const view of views) assert.deepEqual(view, views[0]);
});

test("is the same when it was saved and restored after any message", async () => {
  const messages = transcript("chat_delta");
  const whole = await following();
  for (const [index, message] of messages.entries()) {
    whole.socket.say(message);
    const { threadId, position, view } = whole.thread.save();
    const saved = JSON.parse(JSON.stringify({ version: 1, threadId, position, view }));
    const { socket, thread } = await following({}, { saved });
    socket.say(...messages.slice(index + 1));
    const rest = await following();
    rest.socket.say(...messages);
    const [one, other] = [thread, rest.thread].map((each) => plain(each.view));
    for (const each of [one, other]) {
      delete each.version;
      for (const said of each.messages) delete said.version;
      // Which interrupts wait is told anew by the answer to `attach`.
      delete each.interrupts;
    }
    assert.deepEqual(one, other, `after ${message.type} ${message.seq}`);
  }
});

test("shows the state where the application does", async () => {
  const view = await viewOf([
    logged(1, "state", { values: { a: 1 } }),
    logged(2, "state", { values: { b: 2 }, node: "agent" }),
    logged(3, "state", { values: { c: 3 }, namespace: ["sub:x"] }),
  ]);
  assert.deepEqual(view.values, { a: 1 });
});

test("offsets count code points", async () => {
  const view = await viewOf([
    delta(1, "🕐é", 0),
    delta(2, "🕑", 2),
    delta(3, "!", 3),
    delta(4, "2x", 2),
  ]);
  assert.equal(view.messages[0].text, "🕐é2x");
});

test("what has changed has a higher version", async () => {
  const { socket, thread } = await following();
  socket.say(delta(1, "a", 0), delta(2, "b", 0, { message_id: "m-2" }));
  const [first, second] = thread.view.messages;
  const before = [first.version, second.version];
  socket.say(delta(3, "c", 1, { message_id: "m-2" }));
  assert.equal(first.version, before[0]);
  assert(second.version > before[1]);
  assert.equal(second.version, thread.view.version);
});

test("a run that was rolled back is gone, with all it said", async () => {
  const messages = [{ message_id: "u", role: "user", content: text("Hi") }];
  const view = await viewOf([
    began(1, "r-1", { messages }),
    delta(2, "void", 0),
    logged(3, "tool_call", {
      message_id: "m-1",
      index: 1,
      status: "started",
      tool_call_id: "c-1",
      name: "x",
    }),
    logged(4, "end", { status: "cancelled" }),
    began(5, "r-2"),
    logged(6, "rolled_back", { run_id: "r-1" }, "r-2"),
    delta(7, "new", 0, { message_id: "m-2" }, "r-2"),
  ]);
  assert.deepEqual(
    view.runs.map(({ runId }) => runId),
    ["r-2"],
  );
  assert.deepEqual(
    view.messages.map(({ text: said }) => said),
    ["new"],
  );
  assert.deepEqual(view.toolCalls, []);
});

test("after another attempt, what the tasks that run again have said is gone", async () => {
  const whole = (seq, id, task) =>
    logged(seq, "message", {
      message_id: id,
      role: "assistant",
      content: text(id),
      status: "finished",
      task_id: task,
    });
  const step = (seq, status, task) =>
    logged(seq, "workflow_step", { step: task, status, task_id: task });
  const view = await viewOf([
    began(1),
    step(2, "started", "first"),
    whole(3, "kept", "first"),
    step(4, "finished", "first"),
    step(5, "started", "second"),
    whole(6, "void", "second"),
    whole(7, "other", "third"),
    delta(8, "void too", 0, { message_id: "open", task_id: "second" }),
    logged(9, "attempt", { attempt: 2, rerun_task_ids: ["second"], rollback_to: 4 }),
  ]);
  assert.deepEqual(
    view.messages.map(({ id }) => id),
    ["kept", "other"],
  );
  assert.deepEqual(
    view.steps.map((known) => known.step),
    ["first"],
  );
  assert.equal(view.run.attempt, 2);
});

test("what is open when its run ends, ends with it", async () => {
  for (const [status, expected] of [
    ["cancelled", "cancelled"],
    ["lost", "failed"],
  ]) {
    const view = await viewOf([
      began(1),
      logged(2, "workflow_step", { step: "agent", status: "started", task_id: "x" }),
      delta(3, "a", 0),
      logged(4, "end", { status }),
    ]);
    assert.equal(view.messages[0].status, expected);
    assert.equal(view.steps[0].status, expected);
  }
});

test("runs stand in the order in which they began, queued ones apart", async () => {
  const { socket, thread } = await following();
  const { view } = thread;
  socket.say(began(1));
  void thread.newChat("2", { runId: "r-2" }).catch(() => {});
  void thread.newChat("3", { runId: "r-3" }).catch(() => {});
  await null;
  for (const [place, asked] of socket.sent.slice(-2).entries()) {
    const data = standing({ run_id: asked.run_id, status: "queued", place: place + 1, head: 1 });
    socket.say({ type: "run", request_id: asked.id, data });
  }
  assert.deepEqual(
    [view.run.runId, ...view.queued.map(({ runId }) => runId)],
    ["r-1", "r-2", "r-3"],
  );
  socket.say(
    logged(2, "end", { status: "cancelled" }, "r-2"),
    logged(3, "end", { status: "completed" }),
  );
  assert.deepEqual([view.run.runId, view.status], ["r-1", "completed"]);
  assert.deepEqual(
    view.queued.map(({ runId }) => runId),
    ["r-3"],
  );
  socket.say(began(4, "r-3"));
  assert.deepEqual([view.run.runId, view.status, view.queued.length], ["r-3", "running", 0]);
});

test("a fork leaves behind what it does not build on", async () => {
  const turn = (seq, runId, said, from, saved) => [
    began(seq, runId, {
      checkpoint_id: from,
      messages: [{ message_id: said, role: "user", content: text(said) }],
    }),
    logged(
      seq + 1,
      "checkpoint",
      { checkpoint_id: saved, parent_id: from, step: 1, source: "loop" },
      runId,
    ),
    logged(seq + 2, "end", { status: "completed" }, runId),
  ];
  const { socket, thread } = await following();
  const said = () => thread.view.branch.map(({ id }) => id);
  socket.say(...turn(1, "r-1", "one", null, "c-1"), ...turn(11, "r-2", "two", "c-1", "c-2"));
  assert.deepEqual(said(), ["one", "two"]);
  socket.say(
    ...turn(21, "r-3", "two, edited", "c-1", "c-3"),
    ...turn(31, "r-4", "three", "c-3", "c-4"),
  );
  assert.deepEqual(said(), ["one", "two, edited", "three"]);
  assert.equal(thread.view.messages.length, 4);
});

test("a fork from a checkpoint of before it was followed leaves its sibling behind", async () => {
  const { socket, thread } = await following();
  const turn = (seq, runId) =>
    began(seq, runId, {
      checkpoint_id: "unknown",
      messages: [{ message_id: runId, role: "user", content: text("Hi") }],
    });
  socket.say(turn(1, "r-1"), logged(2, "end", { status: "completed" }), turn(3, "r-2"));
  assert.deepEqual(
    thread.view.branch.map(({ id }) => id),
    ["r-2"],
  );
});

test("a snapshot replaces everything, and what tools have said stands with their calls", async () => {
  const call = { type: "tool_call", id: "c-1", name: "search", args: { query: "x" } };
  const view = await viewOf([
    began(1),
    delta(2, "gone", 0, { message_id: "gone" }),
    logged(3, "interrupt", { id: "i-0", value: 0 }),
    snapshot({
      run: { run_id: "r-9", status: "running" },
      messages: [
        { message_id: "u", role: "user", content: text("Hi"), status: "finished" },
        { message_id: "a", role: "assistant", content: [call], status: "finished" },
        {
          message_id: "t",
          role: "tool",
          content: text("3 hits"),
          metadata: { tool_call_id: "c-1" },
          status: "finished",
        },
      ],
      open: [
        {
          message_id: "m-9",
          role: "assistant",
          node: "agent",
          task_id: "task",
          blocks: [
            {
              index: 0,
              kind: "reasoning",
              text: "",
              block: { type: "reasoning", reasoning: "Hm." },
            },
            { index: 1, kind: "text", text: "So far" },
            { index: 2, kind: "tool_call", text: '{"q', tool_call_id: "c-9", name: "search" },
          ],
        },
      ],
      interrupts: [{ id: "i-1", value: "ok?" }],
      sources: [{ id: "s-1" }],
      values: { a: 1 },
    }),
    logged(
      101,
      "tool_call",
      { message_id: "m-9", index: 2, status: "arguments", delta: '": 1}', offset: 3 },
      "r-9",
    ),
    logged(
      102,
      "tool_call",
      {
        message_id: "m-9",
        index: 2,
        status: "finished",
        tool_call_id: "c-9",
        name: "search",
        args: { q: 1 },
      },
      "r-9",
    ),
  ]);
  assert.deepEqual(
    view.messages.map(({ id, runId }) => [id, runId]),
    [
      ["u", "r-9"],
      ["a", "r-9"],
      ["m-9", "r-9"],
    ],
  );
  assert.deepEqual(
    view.toolCalls.map(({ id, result }) => [id, result?.content]),
    [
      ["c-1", "3 hits"],
      ["c-9", undefined],
    ],
  );
  assert.deepEqual([view.toolCalls[1].arguments, view.toolCalls[1].args], ['{"q": 1}', { q: 1 }]);
  assert.equal(view.messages[2].reasoning, "Hm.");
  assert.deepEqual(
    view.interrupts.map(({ id }) => id),
    ["i-1"],
  );
  assert.deepEqual([view.sources, view.values, view.steps], [[{ id: "s-1" }], { a: 1 }, []]);
});

test("a tool that no message asked for is shown, too", async () => {
  const view = await viewOf([
    began(1),
    logged(2, "tool_result", {
      tool_call_id: "c-1",
      name: "search",
      status: "started",
      input: { q: 1 },
    }),
    logged(3, "tool_result", {
      tool_call_id: "c-1",
      name: "search",
      status: "error",
      content: "The tool failed.",
    }),
  ]);
  const [call] = view.run.toolCalls;
  assert.deepEqual([call.name, call.messageId, call.result.status], ["search", null, "error"]);
});

test("a position without its run: the only run that may be meant", async () => {
  const { client, socket, thread } = await following({}, { after: { epoch: "e-1", seq: 5 } });
  client.thread("t-2");
  socket.answer("attach", standing({ thread_id: "t-2" }));
  socket.say(logged(6, "text", { message_id: "m-1", index: 0, text: "Hi" }, "r-7"));
  assert.equal(thread.view.messages[0].text, "Hi");
});
