// A whole conversation, as `tests.faults` has it, with `useStream` of `@langchain/react`:
// node converse.mjs URL THREAD; prints what the page shows in the end.

import { JSDOM } from "jsdom";
import { WebSocket } from "ws";
import { until } from "./helpers.mjs";

const [apiUrl, threadId] = process.argv.slice(2);
const dom = new JSDOM("<!doctype html><body></body>", { url: apiUrl });
globalThis.window = dom.window;
globalThis.document = dom.window.document;
if (!globalThis.navigator) globalThis.navigator = dom.window.navigator; // Node 21 has one
const { createElement } = await import("react");
const { createRoot } = await import("react-dom/client");
const { useStream } = await import("@langchain/react");

const view = {};
function View() {
  view.stream = useStream({
    apiUrl, threadId, assistantId: "agent", apiKey: null,
    transport: "websocket", webSocketFactory: (url) => new WebSocket(url),
    reconnectDelayMs: () => 50,
  });
  return null;
}
const root = createRoot(document.body.appendChild(document.createElement("div")));
root.render(createElement(View));

const asked = () => !view.stream.isLoading && view.stream.interrupts.length > 0;
await until(() => view.stream && !view.stream.isThreadLoading);
const first = view.stream.submit({ messages: [{ role: "user", content: "go" }] });
await until(asked, "the question");
await first;
const question = view.stream.interrupts.map((each) => each.value);
await view.stream.respond("yes");
await until(() => !view.stream.isLoading && view.stream.interrupts.length === 0, "the end");
const { messages, error } = view.stream;
const said = messages.filter(({ type }) => type === "ai").map(({ text }) => text);
console.log(JSON.stringify({ question, error: error ?? null, said }));
root.unmount();
dom.window.close();
