/**
 * What a conversation is made of: the turns of a thread, and those that the server has lost.
 *
 * @module
 */

/** @import { MessageView, RunView, ThreadView } from "./client.js" */

/**
 * What belongs to one run, or what was said before any run that is known. What the server has lost
 * is `gone`: a loss stands below it.
 *
 * @typedef {{key: string, run: RunView | null, messages: readonly MessageView[], last: boolean,
 *   gone?: boolean}} Turn
 */
/**
 * Where the server lost its memory: whether a run was lost with it, and what that had been asked;
 * and whether the server still knows what was said before.
 *
 * @typedef {{key: string, running: boolean, asked: string, known: boolean, last: boolean}} Loss
 */

const ACTIVE = new Set(["running", "cancelling", "queued"]);

/**
 * Whether a run has yet to end.
 *
 * @param {string} status
 */
export function isActive(status) {
  return ACTIVE.has(status);
}

/**
 * The checkpoint to go on from with another message in the place of this one; null: there is none.
 *
 * @param {MessageView} message
 * @param {ThreadView | undefined} view
 */
export function editPoint(message, view) {
  const run = view?.runs.find(({ runId }) => runId === message.runId);
  return run === undefined ? null : (run.checkpointId ?? beginning(run));
}

/**
 * The checkpoint at the beginning of a thread, if it is this run that began it: other input takes
 * the place of the one that it holds.
 *
 * @param {RunView} run
 */
function beginning({ checkpointId, checkpoints }) {
  if (checkpointId !== null) return null;
  const first = checkpoints.find(({ namespace }) => !namespace?.length);
  return first?.source === "input" ? first.checkpoint_id : null;
}

/**
 * @param {ThreadView} view
 * @returns {Turn[]}
 */
function turnsOf(view) {
  const shown = view.branch;
  const known = new Set(view.runs.map(({ runId }) => runId));
  const past = shown.filter(({ runId }) => runId === null || !known.has(runId));
  /** @type {Turn[]} */
  const turns = past.length > 0 ? [{ key: "past", run: null, messages: past, last: false }] : [];
  for (const run of view.runs) {
    const messages = shown.filter(({ runId }) => runId === run.runId);
    // A run none of whose messages is on this branch was left behind by a fork.
    const left = messages.length === 0 && run.messages.length > 0;
    if (run.status === "queued" || left) continue;
    turns.push({ key: run.runId, run, messages, last: run === view.run });
  }
  // The branch goes back to the checkpoint that the first turn began with, but not to its words.
  const again = turns.findLastIndex((turn) => replacesFirst(turn, turns[0]));
  return again < 0 ? turns : turns.slice(again);
}

/**
 * Whether a turn has taken the place of the first one of its thread.
 *
 * @param {Turn} turn
 * @param {Turn} first
 */
function replacesFirst({ run, messages }, first) {
  if (run === null || run.checkpointId === null || first.run === null) return false;
  const asks = messages.some(({ role }) => role === "user");
  return asks && run.checkpointId === beginning(first.run);
}

/**
 * A turn as it stands when the server has lost it.
 *
 * @param {Turn} turn
 * @returns {Turn}
 */
function lost({ run, messages, ...turn }) {
  const ended = messages.map((message) => ({
    ...message,
    text: message.text,
    reasoning: message.reasoning,
    status: message.status === "open" ? /** @type {const} */ ("failed") : message.status,
  }));
  if (run === null) return { ...turn, run, messages: ended };
  const { toolCalls, text } = run;
  const status = isActive(run.status) ? /** @type {const} */ ("lost") : run.status;
  return { ...turn, run: { ...run, status, messages: ended, toolCalls, text }, messages: ended };
}

/** The turns to show. What was shown stays when the server loses it. */
export class Turns {
  /** @type {(Turn | Loss)[]} */
  #lost = [];
  /** What the view still holds that it is about to lose. @type {Turn[]} */
  #losing = [];

  /** Another conversation is shown from now on. */
  forget() {
    this.#lost = [];
    this.#losing = [];
  }

  /**
   * The server has lost the log: the view is going to be replaced.
   *
   * @param {ThreadView} view
   */
  losing(view) {
    this.#losing = turnsOf(view).map(lost);
  }

  /**
   * The view was replaced.
   *
   * @param {ThreadView} view
   */
  replaced(view) {
    const turns = this.#losing.filter(({ run }) => run === null || run.runId !== view.run?.runId);
    this.#losing = [];
    const count = this.#lost.length;
    for (const turn of turns)
      this.#lost.push({ ...turn, key: `${count} ${turn.key}`, last: false, gone: true });
    const stopped = turns.find(({ run }) => run?.status === "lost");
    const known = view.messages.length > 0;
    if (turns.length === 0 || (known && stopped === undefined)) return;
    const asked = stopped?.messages.findLast(({ role }) => role === "user")?.text ?? "";
    const running = stopped !== undefined;
    this.#lost.push({ key: `${count} loss`, running, asked, known, last: true });
  }

  /**
   * @param {ThreadView | null} view null: nothing was said yet
   * @returns {(Turn | Loss)[]}
   */
  of(view) {
    if (view === null) return [];
    const lost = this.#lost.flatMap((one) => ("run" in one ? one.messages : []));
    const said = new Set(lost.map(({ id }) => id));
    // What the server knows of the lost turns is shown already.
    const turns = turnsOf(view)
      .map((turn) =>
        turn.run === null
          ? { ...turn, messages: turn.messages.filter(({ id }) => !said.has(id)) }
          : turn,
      )
      .filter(({ run, messages }) => run !== null || messages.length > 0);
    const last = turns.length === 0;
    return [...this.#lost.map((one) => ("run" in one ? one : { ...one, last })), ...turns];
  }
}
