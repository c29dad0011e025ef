// `useStream` of `@langchain/react` in a page without a screen: what its component is given.

import assert from "node:assert/strict";
import { after, test } from "node:test";
import { JSDOM } from "jsdom";
import { WebSocket } from "ws";
import {
  AFTER, BEFORE, TRANSPORT, URL_OF_AGENT, openGate, proxied, soon, until, user,
} from "./helpers.mjs";

const dom = new JSDOM("<!doctype html><body></body>", { url: URL_OF_AGENT });
globalThis.window = dom.window;
globalThis.document = dom.window.document;
if (!globalThis.navigator) globalThis.navigator = dom.window.navigator; // Node 21 has one
const { createElement, useEffect } = await import("react");
const { createRoot } = await import("react-dom/client");
const {
  useChannel, useExtension, useMessageMetadata, useMessages, useStream, useToolCalls,
} = await import("@langchain/react");
after(() => dom.window.close());

const HALF = `slow: ${BEFORE}`;
const WHOLE = HALF + AFTER;

/** A component that has `useStream`, on a page of its own until the scenario is over. */
async function page(assistantId, run, { threadId, apiUrl = URL_OF_AGENT, uses } = {}) {
  const view = { renders: [] };
  function View() {
    const stream = useStream({
      apiUrl, assistantId, threadId, apiKey: null, transport: TRANSPORT,
      ...(TRANSPORT === "websocket" && { webSocketFactory: (url) => new WebSocket(url) }),
    });
    view.stream = stream;
    view.used = uses?.(stream);
    const texts = stream.messages.map((message) => message.text);
    useEffect(() => void view.renders.push({ texts, isLoading: stream.isLoading }));
    return null;
  }
  const root = createRoot(document.body.appendChild(document.createElement("div")));
  root.render(createElement(View));
  try {
    await until(() => view.stream && !view.stream.isThreadLoading);
    return await run(view);
  } finally {
    root.unmount();
  }
}

const texts = ({ stream }) => stream.messages.map((message) => message.text);
const shows = (view, ...expected) =>
  until(
    () => !view.stream.isLoading && JSON.stringify(texts(view)) === JSON.stringify(expected),
    () => `${JSON.stringify(expected)}; instead ${JSON.stringify(texts(view))}`,
  );
const settled = (view) => until(() => !view.stream.isLoading, "the end of loading");
const asked = ({ stream }) => stream.interrupts.map((each) => each.value);

/** Runs a scenario on a page that has just been opened. */
const scenario = (name, assistantId, run, options) =>
  test(name, () => page(assistantId, run, options));

/** Submit without waiting for the run. */
function submit(view, content, options) {
  view.stream.submit(user(content), options).catch((error) => (view.failure = error));
}

/** Submit a message that makes the run wait, and wait until it does. */
async function submitSlow(view, before = []) {
  submit(view, "slow");
  await until(() => texts(view).at(-1) === HALF);
  assert.equal(view.stream.isLoading, true);
  assert.deepEqual(texts(view), [...before, "slow", HALF]);
}

// --- one run ---

scenario("a message streams, and the page knows when", "chat", async (view) => {
  assert.equal(view.stream.isLoading, false);
  await soon(view.stream.submit(user("hi")));
  await shows(view, "hi", "Turn 1: hi");
  const loading = view.renders.map((each) => each.isLoading);
  assert.ok(loading.includes(true));
  const answers = view.renders.map((each) => each.texts[1]).filter(Boolean);
  answers.reduce((former, later) => (assert.ok(later.startsWith(former), later), later), "");
  assert.equal(view.stream.error, undefined);
  assert.equal(view.stream.values.messages.length, 2);
});

scenario("turns follow one another", "chat", async (view) => {
  const expected = [];
  for (const [place, text] of ["a", "b", "c"].entries()) {
    await soon(view.stream.submit(user(text)));
    expected.push(text, `Turn ${place + 1}: ${text}`);
    await shows(view, ...expected);
  }
});

scenario("a message that a node wrote itself appears", "whole", async (view) => {
  await soon(view.stream.submit(user("hi")));
  await shows(view, "hi", "Written, not streamed.");
});

scenario("two nodes that stream at once stay two messages", "twins", async (view) => {
  const expected = ["left  speaks, word by word", "right speaks, word by word"];
  await soon(view.stream.submit(user("hi")));
  await until(() => JSON.stringify(texts(view).slice(1).sort()) === JSON.stringify(expected));
  await settled(view);
});

scenario("a state without messages", "steps", async (view) => {
  await soon(view.stream.submit({ log: ["begin"], total: 0 }));
  await until(() => view.stream.values.total === 3 && !view.stream.isLoading);
  assert.deepEqual(view.stream.values.log, ["begin", "one", "two", "three"]);
});

scenario("tools that run at once are told apart, and one may fail", "parallel", async (view) => {
  await soon(view.stream.submit(user("hi")));
  await settled(view);
  // Over SSE, `submit` may be over before it is heard that the run has begun.
  await until(() => view.stream.toolCalls.filter((call) => call.status !== "running").length === 3);
  assert.deepEqual(
    view.stream.toolCalls.map(({ id, name, status, output }) => [id, name, status, output]),
    [
      ["call_1", "add", "finished", "2"],
      ["call_2", "count_up", "finished", "counted to 2"],
      // This version puts the message of a tool in the place of its error.
      ["call_divide", "divide", "finished", "failed: division by zero"],
    ],
  );
  await until(() => texts(view).at(-1) === "Results: 2, counted to 2, failed: division by zero");
});

scenario("subgraphs are found, and their messages are there for who asks", "nested", async (view) => {
  submit(view, "slow");
  // This version shows little of what a subgraph said before its hook was there.
  await until(() => view.stream.subgraphs.size > 0 && view.used[0] === "slow");
  openGate(view.stream.threadId, "down");
  await until(() => view.used[2] === "Half way up.");
  assert.deepEqual(view.used, ["slow", "Deep down.", "Half way up."]);
  openGate(view.stream.threadId, "up");
  await settled(view);
  const [research] = view.stream.subgraphs.values();
  assert.deepEqual([research.nodeName, research.status], ["research", "complete"]);
}, {
  uses: (stream) => {
    const [research] = stream.subgraphs.values();
    return useMessages(stream, research ?? { namespace: ["nowhere"] }).map((each) => each.text);
  },
});

scenario("custom events are there for who asks", "custom", async (view) => {
  await soon(view.stream.submit(user("hi")));
  await until(() => view.used.progress?.percent === 100);
  await until(() => view.used.all.length === 5);
}, {
  uses: (stream) => ({
    progress: useExtension(stream, "progress"),
    all: useChannel(stream, ["custom"]),
  }),
});

// --- interrupts ---

scenario("an interrupt is answered", "ask", async (view) => {
  await soon(view.stream.submit(user("hi")));
  await until(() => view.stream.interrupt && !view.stream.isLoading);
  assert.deepEqual(asked(view), [{ question: "Send hi?" }]);
  await soon(view.stream.respond("yes"));
  await shows(view, "hi", "You said yes.");
  assert.equal(view.stream.interrupt, undefined);
});

scenario("two interrupts are answered at once", "ask_twice", async (view) => {
  await soon(view.stream.submit({ log: [] }));
  await until(() => view.stream.interrupts.length === 2);
  const entries = view.stream.interrupts.map(({ id, value }) => [id, value.toUpperCase()]);
  await soon(view.stream.respondAll(Object.fromEntries(entries)));
  await until(() => view.stream.values.log?.length === 2 && !view.stream.isLoading);
  assert.deepEqual(view.stream.values.log, ["left=LEFT", "right=RIGHT"]);
  assert.deepEqual(view.stream.interrupts, []);
});

scenario("an interrupt may follow another", "ask_in_turn", async (view) => {
  await soon(view.stream.submit({ log: [] }));
  await until(() => asked(view)[0] === "first");
  await soon(view.stream.respond(1));
  await until(() => asked(view)[0] === "second");
  assert.equal(view.stream.interrupts.length, 1);
  await soon(view.stream.respond(2));
  await until(() => view.stream.values.log?.length === 2 && !view.stream.isLoading);
  assert.deepEqual(view.stream.values.log, ["first=1", "second=2"]);
});

scenario("an interrupt in a subgraph is answered", "ask_below", async (view) => {
  await soon(view.stream.submit(user("hi")));
  await until(() => view.stream.getThread().interrupts.length === 1 && !view.stream.isLoading);
  assert.equal(view.stream.getThread().interrupts[0].payload, "From below?");
  await soon(view.stream.respond("yes"));
  await shows(view, "hi", "You said yes.");
});

test("a pending interrupt survives a reload, an answered one does not", async () => {
  const threadId = await page("ask", async (view) => {
    await soon(view.stream.submit(user("hi")));
    await until(() => view.stream.interrupt);
    return view.stream.threadId;
  });
  await page("ask", async (view) => {
    await until(() => view.stream.interrupt && texts(view).length > 0);
    assert.deepEqual(texts(view), ["hi"]);
    const { id: interruptId } = view.stream.interrupt;
    await soon(view.stream.respond("yes", { interruptId }));
    await shows(view, "hi", "You said yes.");
  }, { threadId });
  await page("ask", async (view) => {
    await shows(view, "hi", "You said yes.");
    assert.deepEqual(view.stream.interrupts, []);
  }, { threadId });
});

// --- failure and stop ---

scenario("a failure is told, and the next turn works", "failing", async (view) => {
  submit(view, "hi");
  await until(() => view.stream.error && !view.stream.isLoading);
  assert.ok(String(view.stream.error));
  assert.equal(texts(view)[0], "hi");
});

scenario("a message after a stop is not lost", "gated", async (view) => {
  await submitSlow(view);
  await soon(view.stream.stop());
  await settled(view);
  await soon(view.stream.submit(user("again")));
  await settled(view);
  // This version goes on showing what the stopped run had said, as the last message.
  await shows(view, "slow", "again", "Quick answer to again.", HALF);
  assert.deepEqual(await saved(view), ["slow", "again", "Quick answer to again."]);
});

/** The texts of the messages that the thread has come to. */
async function saved({ stream }) {
  const { values } = await stream.client.threads.getState(stream.threadId);
  return values.messages.map((message) => message.content);
}

// Over SSE this version takes the end of the first run for that of the second; no server can help.
if (TRANSPORT === "websocket") {
  for (const [strategy, before] of Object.entries({ interrupt: ["slow"], rollback: [] })) {
    scenario(`a second message while the first is answered: ${strategy}`, "gated", async (view) => {
      await submitSlow(view);
      await soon(view.stream.submit(user("b"), { multitaskStrategy: strategy }));
      await settled(view);
      assert.deepEqual(await saved(view), [...before, "b", "Quick answer to b."]);
      assert.ok(texts(view).includes("Quick answer to b."), texts(view));
      assert.equal(view.stream.error, undefined);
    });
  }
}

scenario("a second message while the first is answered: enqueue", "gated", async (view) => {
  await submitSlow(view);
  const second = view.stream.submit(user("b"), { multitaskStrategy: "enqueue" });
  openGate(view.stream.threadId, "slow");
  await soon(second);
  await shows(view, "slow", WHOLE, "b", "Quick answer to b.");
});

// --- edit and fork ---

scenario("a turn is edited from the checkpoint before it", "chat", async (view) => {
  for (const text of ["a", "b"]) await soon(view.stream.submit(user(text)));
  await shows(view, "a", "Turn 1: a", "b", "Turn 2: b");
  const { client, threadId } = view.stream;
  const history = await client.threads.getHistory(threadId);
  // This version names the newest parent for every message (later ones: that of its own).
  await until(() => view.used.every((each) => each?.parentCheckpointId));
  assert.deepEqual(
    new Set(view.used.map((each) => each.parentCheckpointId)),
    new Set([history[0].parent_checkpoint.checkpoint_id]),
  );
  const { checkpoint } = history.find(
    ({ next, values }) => next.length === 0 && values.messages.length === 2,
  );
  await soon(view.stream.submit(user("c"), { forkFrom: checkpoint.checkpoint_id }));
  await shows(view, "a", "Turn 1: a", "c", "Turn 2: c");
}, {
  uses: (stream) => [0, 1, 2, 3].map((place) =>
    useMessageMetadata(stream, stream.messages[place]?.id)),
});

// --- who comes late, who comes back ---

test("a reload in mid-run goes on where the run is", async () => {
  const threadId = await page("gated", async (view) => {
    await soon(view.stream.submit(user("first")));
    await shows(view, "first", "Quick answer to first.");
    await submitSlow(view, ["first", "Quick answer to first."]);
    await soon(view.stream.disconnect());
    return view.stream.threadId;
  });
  await page("gated", async (view) => {
    await until(() => texts(view).at(-1) === HALF);
    assert.equal(view.stream.isLoading, true);
    openGate(threadId, "slow");
    await shows(view, "first", "Quick answer to first.", "slow", WHOLE);
  }, { threadId });
});

test("a reload when all is over shows everything, and the next turn works", async () => {
  const threadId = await page("gated", async (view) => {
    await soon(view.stream.submit(user("a")));
    await shows(view, "a", "Quick answer to a.");
    return view.stream.threadId;
  });
  await page("gated", async (view) => {
    await shows(view, "a", "Quick answer to a.");
    await submitSlow(view, ["a", "Quick answer to a."]);
    openGate(threadId, "slow");
    await shows(view, "a", "Quick answer to a.", "slow", WHOLE);
  }, { threadId });
});

scenario("a second viewer sees the same", "gated", async (view) => {
  await submitSlow(view);
  const { threadId } = view.stream;
  await page("gated", async (viewer) => {
    await until(() => texts(viewer).at(-1) === HALF);
    assert.equal(viewer.stream.isLoading, true);
    openGate(threadId, "slow");
    await shows(viewer, "slow", WHOLE);
    await shows(view, "slow", WHOLE);
  }, { threadId });
});

test("nothing is lost or doubled when the connection is reset", () =>
  proxied((proxy) =>
    page("gated", async (view) => {
      await submitSlow(view);
      assert.ok(proxy.cut() > 0);
      openGate(view.stream.threadId, "slow");
      await shows(view, "slow", WHOLE);
    }, { apiUrl: proxy.url })));
