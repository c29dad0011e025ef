// A chat of the AI SDK, without React, and what is read of its messages.

import { AbstractChat } from "ai";

class State {
  status = "ready";
  error = undefined;
  messages = [];
  pushMessage = (message) => { this.messages = [...this.messages, message]; };
  popMessage = () => { this.messages = this.messages.slice(0, -1); };
  replaceMessage = (at, message) => { this.messages = this.messages.with(at, message); };
  snapshot = (thing) => structuredClone(thing);
}

/** A chat as `useChat` has it, without React. */
export class Chat extends AbstractChat {
  constructor(options) {
    super({ ...options, state: new State() });
  }

  get last() {
    return this.messages.at(-1);
  }
}

/** The parts of a message that have a type. */
export const parts = (message, type) => message.parts.filter((part) => part.type === type);

/** What a message says, part by part. */
export const texts = (message) => parts(message, "text").map((part) => part.text);
