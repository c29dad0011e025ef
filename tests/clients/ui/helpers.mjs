// What the tests of both clients share.

import { setTimeout as sleep } from "node:timers/promises";

export const SERVER = process.env.SERVER;
const PATIENCE_MS = 20_000;

/** Let a thread of the graph `slow` go on. */
export const letGoOn = (threadId) => fetch(`${SERVER}/go-on/${threadId}`, { method: "POST" });

/** Wait until something holds. */
export async function until(condition, what = condition.toString()) {
  for (const end = Date.now() + PATIENCE_MS; Date.now() < end; await sleep(5)) {
    const found = await condition();
    if (found) return found;
  }
  throw new Error(`this did not come about: ${what}`);
}
