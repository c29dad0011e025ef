// A chat with a graph that `attach_websocket(app, graph, protocols=["aisdk"])` serves at /ws.

import { useChat } from "@ai-sdk/react";
import { WebSocketChatTransport } from "ai";
import React, { useState } from "react";
import { createRoot } from "react-dom/client";

const query = new URLSearchParams(location.search);
const transport = new WebSocketChatTransport({ url: query.get("url") ?? "/ws/aisdk" });
const id = query.get("chat") ?? crypto.randomUUID();

function Chat() {
  const [text, setText] = useState("");
  const { messages, sendMessage, regenerate, stop, status, error } =
    useChat({ id, transport, resume: true });
  // The answer to an interrupt goes on with the message that asks.
  const answer = (asked, value) => sendMessage(undefined, { body: { resume: { [asked]: value } } });
  const send = (event) => {
    event.preventDefault();
    sendMessage({ text });
    setText("");
  };
  return (
    <main>
      {messages.map((message) => (
        <article key={message.id} className={message.role}>
          {message.parts.map((part, at) => <Part key={at} part={part} answer={answer} />)}
        </article>
      ))}
      {error && <p role="alert">{error.message}</p>}
      <form onSubmit={send}>
        <input aria-label="Message" value={text} onChange={(it) => setText(it.target.value)} />
        <button>Send</button>
        <button type="button" onClick={stop}>Stop</button>
        <button type="button" onClick={() => regenerate()}>Again</button>
        <output>{status}</output>
      </form>
    </main>
  );
}

function Part({ part, answer }) {
  if (part.type === "text") return <p>{part.text}</p>;
  if (part.type === "reasoning") return <details><summary>Thoughts</summary>{part.text}</details>;
  if (part.type === "dynamic-tool") return <code>{`${part.toolName}: ${part.state}`}</code>;
  if (part.type === "source-url") return <a href={part.url}>{part.title ?? part.url}</a>;
  if (part.type !== "data-interrupt" || part.data.status !== "pending") return null;
  const { question, options } = part.data.value;
  const choices = options.map((it) => <button key={it} onClick={() => answer(part.id, it)}>{it}</button>);
  return <fieldset><legend>{question}</legend>{choices}</fieldset>;
}

createRoot(document.getElementById("root")).render(<Chat />);
