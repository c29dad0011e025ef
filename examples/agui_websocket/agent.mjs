// An agent for the AG-UI client that runs over a WebSocket: its own `HttpAgent` knows only HTTP.

import { AbstractAgent } from "@ag-ui/client";
import { Observable } from "rxjs";

export class WebSocketAgent extends AbstractAgent {
  /** `url`: the route, as in `ws://localhost:8765/ws/agui`. */
  constructor({ url, WebSocket = globalThis.WebSocket, ...config }) {
    super(config);
    Object.assign(this, { url, WebSocket });
  }

  /** Start a run, or come back to one: the same input is never run twice. */
  run(input) {
    return this.#events(input);
  }

  /** See a thread as it is, and its run to the end (`agent.connectAgent()`). */
  connect({ threadId, runId }) {
    return this.#events({ type: "connect", threadId, runId });
  }

  /** Stop the run. */
  abortRun() {
    this.socket?.send(JSON.stringify({ type: "cancel", threadId: this.threadId }));
  }

  #events(message) {
    return new Observable((events) => {
      const socket = (this.socket = new this.WebSocket(this.url));
      let over = false;
      socket.onopen = () => socket.send(JSON.stringify(message));
      socket.onmessage = ({ data }) => {
        const event = JSON.parse(data);
        events.next(event);
        over = event.type === "RUN_FINISHED" || event.type === "RUN_ERROR";
        if (over) events.complete();
      };
      socket.onclose = ({ code }) => over || events.error(new Error(`closed with ${code}`));
      return () => socket.close(1000);
    });
  }
}
