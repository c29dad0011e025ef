// Ask a served graph something from a terminal: node talk.mjs ws://localhost:8765/ws/agui "Hi"

import WebSocket from "ws";
import { WebSocketAgent } from "./agent.mjs";

const [url, ...words] = process.argv.slice(2);
const agent = new WebSocketAgent({ url, WebSocket });
agent.addMessage({ id: crypto.randomUUID(), role: "user", content: words.join(" ") });

await agent.runAgent({}, {
  onTextMessageContentEvent: ({ event }) => void process.stdout.write(event.delta),
  onTextMessageEndEvent: () => void console.log(),
  onToolCallStartEvent: ({ event }) => console.log(`· ${event.toolCallName}`),
});
for (const asked of agent.pendingInterrupts ?? []) console.log(`? ${asked.message}`);
