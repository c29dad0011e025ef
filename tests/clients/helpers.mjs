// What the tests of the JavaScript clients share: the server that they are told of, and waiting.

import { mkdirSync, writeFileSync } from "node:fs";
import net from "node:net";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { WebSocket } from "ws";

export const URL_OF_AGENT = process.env.SERVER;
export const TRANSPORT = process.env.TRANSPORT ?? "websocket";
export const BEFORE = "Before the gate. ";
export const AFTER = "After the gate.";

const PATIENCE_MS = 20_000;

/** Options of the SDK for the transport that is tested; Node 20 has no WebSocket of its own. */
export const transport = {
  transport: TRANSPORT,
  ...(TRANSPORT === "websocket" && { webSocketFactory: (url) => new WebSocket(url) }),
};

/** An input of one message. */
export const user = (content) => ({ messages: [{ role: "user", content }] });

/** The texts of a state's messages. */
export const said = (state) => state.messages.map((message) => message.content);

/** Let the nodes of a thread pass a gate. */
export function openGate(threadId, name) {
  mkdirSync(process.env.GATES, { recursive: true });
  writeFileSync(join(process.env.GATES, `${threadId}.${name}`), "");
}

/** Wait until something holds; it may be asynchronous. */
export async function until(condition, what = () => condition) {
  for (const end = Date.now() + PATIENCE_MS; Date.now() < end; await sleep(5)) {
    const found = await condition();
    if (found) return found;
  }
  throw new Error(`this did not come about: ${typeof what === "function" ? what() : what}`);
}

/** What a promise comes to, or an error after a while. */
export async function soon(promise, what = "it") {
  const gone = new AbortController();
  const late = sleep(PATIENCE_MS, undefined, { signal: gone.signal }).then(() => {
    throw new Error(`${what} did not come about`);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    gone.abort();
    late.catch(() => {});
  }
}

/** All that an iterable has. */
export async function all(iterable) {
  const items = [];
  for await (const item of iterable) items.push(item);
  return items;
}

/** A proxy in front of the server, whose connections can be reset. */
export async function proxied(run) {
  const { port, pathname } = new URL(URL_OF_AGENT);
  const open = new Set();
  const server = net.createServer((socket) => {
    const upstream = net.connect(Number(port), "127.0.0.1");
    open.add(socket);
    for (const [from, to] of [[socket, upstream], [upstream, socket]]) {
      from.on("error", () => to.destroy());
      from.on("close", () => to.destroy());
      from.pipe(to);
    }
    socket.on("close", () => open.delete(socket));
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  try {
    return await run({
      url: `http://127.0.0.1:${server.address().port}${pathname}`,
      /** Reset what is open; how many that were. */
      cut() {
        const cut = [...open];
        for (const socket of cut) socket.resetAndDestroy();
        return cut.length;
      },
    });
  } finally {
    for (const socket of open) socket.destroy();
    await new Promise((resolve) => server.close(resolve));
  }
}
