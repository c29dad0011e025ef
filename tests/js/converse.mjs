// A whole conversation, as `tests.faults` has it: node converse.mjs URL THREAD; prints what it saw.

import { WebSocket as PackagedWebSocket } from "ws";

import { connect } from "../../langgraph_ws/static/client.js";

const [url, threadId] = process.argv.slice(2);
const client = connect(url, {
  WebSocket: globalThis.WebSocket ?? PackagedWebSocket,
  reconnect: { delayMs: 50, maxDelayMs: 300, maxAttempts: null },
});
const thread = await client.attach(threadId);
const run = await thread.newChat("go");
console.log(run.runId);
await run.result();
const second = await thread.answer("yes");
const { status, text } = await second.result();
const { runs, messages } = JSON.parse(JSON.stringify(thread.view));
console.log(JSON.stringify({ status, text, runs, messages }));
await client.close();
