// A whole conversation, as `tests.faults` has it, with the AI SDK or AG-UI:
// node converse.mjs aisdk|agui URL THREAD; prints what was said in the end.

import { setTimeout as sleep } from "node:timers/promises";
import { WebSocketChatTransport } from "ai";
import { WebSocket } from "ws";
import { WebSocketAgent } from "../../../examples/agui_websocket/agent.mjs";
import { Chat, parts, texts } from "./chat.mjs";

const [kind, url, id] = process.argv.slice(2);

async function aisdk() {
  const transport = new WebSocketChatTransport({ url: `${url}/aisdk`, webSocket: WebSocket });
  const chat = new Chat({ id, transport });
  const toTheEnd = async () => {
    for (; chat.status === "error"; await sleep(100)) await chat.resumeStream();
  };
  await chat.sendMessage({ text: "go" });
  await toTheEnd();
  const [asked] = parts(chat.last, "data-interrupt");
  await chat.sendMessage(undefined, { body: { resume: { [asked.id]: "yes" } } });
  await toTheEnd();
  transport.close();
  return { question: [asked.data.value], said: chat.messages.slice(1).flatMap(texts) };
}

async function agui() {
  const initialMessages = [{ id: "q", role: "user", content: "go" }];
  let agent;
  const run = async (parameters) => {
    const runId = crypto.randomUUID();
    const before = agent?.messages ?? initialMessages;
    for (;; await sleep(100)) {
      agent = new WebSocketAgent({
        url: `${url}/agui`, WebSocket, threadId: id, initialMessages: before,
      });
      let ended = false;
      const onEvent = ({ event }) => void (ended ||= event.type === "RUN_FINISHED");
      await agent.runAgent({ runId, ...parameters }, { onEvent }).catch(() => {});
      if (ended) return;
    }
  };
  await run();
  const asked = agent.pendingInterrupts;
  await run({ resume: [{ interruptId: asked[0].id, status: "resolved", payload: "yes" }] });
  const said = agent.messages.filter((it) => it.role === "assistant").map((it) => it.content);
  return { question: asked.map((it) => it.message), said };
}

console.log(JSON.stringify(await { aisdk, agui }[kind]()));
