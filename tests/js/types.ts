// How client.d.ts looks to those who use it. Nothing here runs: `tsc` has to accept it.

import {
  ChatError,
  RequestRefused,
  RunFailedError,
  connect,
  isKnown,
  type Client,
  type Message,
  type Run,
  type RunStatus,
  type SavedThread,
  type ThreadView,
  type WebSocketConstructor,
} from "../../langgraph_ws/static/client.js";

type Equal<A, B> =
  (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
const is = <_ extends true>(): void => {};

// The WebSocket of browsers is one that `connect` takes.
const own: WebSocketConstructor = WebSocket;

const client: Client = connect("/ws", {
  WebSocket: own,
  token: async () => "token",
  reconnect: { delayMs: 500, maxAttempts: null },
  onText: (text, message) => {
    is<Equal<typeof text, string>>();
    is<Equal<typeof message.delta, string | undefined>>();
    is<Equal<typeof message.run_id, string>>();
  },
  onCustom: async (name, data, message) => {
    is<Equal<typeof name, string>>();
    is<Equal<typeof data, unknown>>();
    is<Equal<typeof message.seq, number>>();
  },
  onEnd: (status, { run_id }) => {
    is<Equal<typeof status, RunStatus>>();
    is<Equal<typeof run_id, string>>();
  },
  onRolledBack: ({ superseded }) => console.log(superseded),
  onState: (state) => {
    if (state.status === "reconnecting") is<Equal<typeof state.delayMs, number>>();
    // @ts-expect-error: only a connection that waits to reconnect has a delay
    state.delayMs;
  },
});
connect(new URL("wss://example.com/ws"), { reconnect: false });

// @ts-expect-error: an unknown option
connect("/ws", { tokens: "x" });
// @ts-expect-error: a role that clients may not speak in
void client.newChat([{ role: "system", content: "" }]);
// @ts-expect-error: an unknown strategy
void client.newChat("Hello", { multitaskStrategy: "wait" });
// @ts-expect-error: a view is not written to
client.thread("t-1").view.messages[0]!.status = "open";
void client.cancel({ threadId: "t-1" });
// @ts-expect-error: a run or a thread
void client.cancel({});
// @ts-expect-error: clients come from `connect`
new Client();

export async function chat(): Promise<string> {
  const run: Run = await client.newChat("Hello", {
    threadId: "t-1",
    onEnd: (status) => console.log(status),
  });
  await client.newChat({ input: { count: 1 } });
  for await (const message of run) {
    is<Equal<typeof message, Message>>();
    if (!isKnown(message)) continue;
    switch (message.type) {
      case "text":
        is<Equal<typeof message.data.text, string | undefined>>();
        break;
      case "end":
        is<
          Equal<typeof message.data.status, (typeof run)["status"] & typeof message.data.status>
        >();
        break;
      case "skipped":
        is<Equal<typeof message.data.count, number>>();
        break;
    }
  }
  try {
    const result = await run.result();
    is<Equal<typeof result.status, "completed" | "interrupted" | "cancelled">>();
    const next = await run.answer({ [result.interrupts[0]!.id]: true });
    await next.cancel();
    return result.text;
  } catch (error) {
    if (error instanceof RunFailedError) return error.code;
    if (error instanceof RequestRefused) return error.field ?? "";
    if (error instanceof ChatError) return error.message;
    throw error;
  }
}

export async function page(kept: SavedThread | null): Promise<void> {
  const thread = await client.attach("t-1", { saved: kept });
  const stop = thread.subscribe((view) => render(view));
  await client.attach("t-2", {
    after: { epoch: "e", seq: 3 },
    onGap: ({ reason }) => console.log(reason),
  });
  localStorage.setItem("thread", JSON.stringify(thread.save()));
  stop();
  await thread.detach();
  await client.close();
}

function render(view: ThreadView): string {
  return view.branch
    .flatMap((message) => message.blocks)
    .map((block) =>
      block.toolCall === null
        ? block.text
        : `${block.toolCall.name}: ${block.toolCall.result?.status}`,
    )
    .join("\n");
}
