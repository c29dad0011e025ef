// A chat with `useStream`: streaming, tools, interrupts, stop, and reload in the middle of a run.

import { createRoot } from "react-dom/client";
import { useStream } from "@langchain/react";

const query = new URLSearchParams(location.search);

function Chat() {
  const stream = useStream({
    apiUrl: query.get("api") ?? `${location.origin}/agent`, // what was given to attach_websocket
    assistantId: query.get("graph") ?? "agent",
    transport: "websocket",
    threadId: location.hash.slice(1) || null, // a reload finds its thread again
    onThreadId: (id) => history.replaceState(null, "", `#${id}`),
  });

  function send(event) {
    event.preventDefault();
    const { text } = event.target;
    stream.submit({ messages: [{ role: "user", content: text.value }] });
    text.value = "";
  }

  return (
    <>
      <ol aria-label="Messages">
        {stream.messages.map((message) => (
          <li key={message.id} data-type={message.type}>{message.text}</li>
        ))}
      </ol>
      <ul aria-label="Tools">
        {stream.toolCalls.map(({ id, name, args, status }) => (
          <li key={id}>{`${name}(${JSON.stringify(args)}) ${status}`}</li>
        ))}
      </ul>
      {stream.interrupts.map(({ id, value }) => (
        <fieldset key={id}>
          <legend>{typeof value === "string" ? value : JSON.stringify(value)}</legend>
          <button onClick={() => stream.respond("yes", { interruptId: id })}>Yes</button>
          <button onClick={() => stream.respond("no", { interruptId: id })}>No</button>
        </fieldset>
      ))}
      {stream.error && <p role="alert">{String(stream.error)}</p>}
      <form onSubmit={send}>
        <input name="text" aria-label="Message" autoFocus autoComplete="off" />
        <button>Send</button>
        {stream.isLoading && <button type="button" onClick={() => stream.stop()}>Stop</button>}
      </form>
    </>
  );
}

createRoot(document.getElementById("root")).render(<Chat />);
