// Real servers, each in a process of its own.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const PYTHON = process.env.PYTHON ?? "python3";
const env = { ...process.env, PYTHONPATH: ROOT, PYTHONUNBUFFERED: "1" };

/** Start Python, and wait for the first line that it prints that matches. */
async function python(args, pattern) {
  const child = spawn(PYTHON, args, { cwd: ROOT, env, stdio: ["pipe", "pipe", "pipe"] });
  let said = "";
  child.stderr.setEncoding("utf8").on("data", (text) => (said += text));
  const exited = once(child, "exit");
  for await (const line of createInterface({ input: child.stdout })) {
    const match = pattern.exec(line);
    if (match === null) continue;
    child.stdout.resume();
    return { child, match, stop: async (signal) => (child.kill(signal), await exited) };
  }
  throw new Error(`the server did not come up:\n${said}`);
}

/** `python -m langgraph_ws`, with the demo graph. */
export async function startDemo(port = 0) {
  const { match, stop } = await python(
    ["-m", "langgraph_ws", "--port", `${port}`],
    /ws:\/\/127\.0\.0\.1:(\d+)\/ws/,
  );
  return { url: match[0], port: Number(match[1]), stop };
}

/** `server.py`; it ends with `stop`, and at the latest with this process. */
export async function startServer() {
  const { child, match } = await python(["tests/js/server.py"], /^\{.*\}$/);
  const { port, proxy, seed } = JSON.parse(match[0]);
  return {
    seed,
    url: (path) => `ws://127.0.0.1:${port}${path}`,
    cut: (path) => `ws://127.0.0.1:${proxy}${path}`,
    openGate: (name) => fetch(`http://127.0.0.1:${port}/gates/${name}`),
    async stop() {
      const exited = once(child, "exit");
      child.stdin.end();
      await exited;
    },
  };
}
