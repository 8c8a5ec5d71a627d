import {
  ended,
  executed,
  isDeaf,
  ran,
  type Rules,
  served,
  sortOf,
  type State,
  subscribed,
  withMaybe,
} from "./session-server.js";
import type { Answer } from "./session-server.js";
import { KINDS, type Call, type Kind } from "./session-steps.js";

/** The outcome of one command: the server's answer, or the error of redthread. */
export type Outcome = Answer | { readonly is: "not-sent" | "unknown" | "refused"; readonly error: Error };

/** The outcome of a pipeline: of each command, or of the whole. */
export type PipelineOutcome = { readonly each: readonly Outcome[] } | { readonly whole: Outcome };

export interface Context extends Rules {
  readonly role: "owned" | "shared" | "dedicated";
  readonly hasPrefix: boolean;
  /** The connection may be lost at any moment. */
  readonly mayLose: boolean;
  /** A command may be given up although the connection is up and the server executes it. */
  readonly mayLinger: boolean;
  /**
   * Acts of the same turn that began before this one, from one of these states. Their outcome was not known when this
   * act was judged.
   */
  readonly earlier: readonly Kind[];
  readonly atFirst: readonly State[];
}

type Judgement = "must" | "may" | "no";

const EXEC: Call = { kind: "exec", name: "exec", args: [], n: 0, shouts: false, token: "" };
const ENDS: ReadonlySet<Kind> = new Set(["exec", "discard", "unwatch"]);

/*
 * What redthread documents, beside what the server does:
 *
 * - `outcome: "not-sent"` and `"refused"`: nothing was done. `"unknown"`: the connection is gone, and it may have run there.
 * - The next connection is in the database of the last SELECT that was acknowledged, has the subscriptions that were, and
 *   is logged in as configured. It has no MULTI and no WATCH; if there was one, everything up to the transaction's end
 *   is not sent.
 * - A pipeline, and a transaction, goes as a whole or not at all.
 */

/** The states that this outcome of a command can lead to; none if the outcome is impossible. */
export function after(state: State, call: Call, outcome: Outcome, context: Context): State[] {
  const starts = context.mayLose ? lossesOf(state) : [state];
  return unique(
    starts.flatMap((start) => {
      const judged = judge(start, call, context);
      const mayRefuse = [start, ...context.atFirst].some((one) => judge(one, call, context) !== "no");
      if (outcome.is === "refused") return mayRefuse ? [start] : [];
      if (outcome.is === "not-sent" && context.mayLose) return notSent(start, [call], context);
      return judged === "must" ? [] : notRefused(start, call, outcome, context);
    }),
  );
}

export function afterPipeline(
  state: State,
  calls: readonly Call[],
  outcome: PipelineOutcome,
  context: Context,
): State[] {
  const starts = context.mayLose ? lossesOf(state) : [state];
  return unique(
    starts.flatMap((start) => {
      const judged = judgeAll(start, calls, context);
      const together = outcomeOfAll(outcome);
      const mayRefuse = [start, ...context.atFirst].some((one) => judgeAll(one, calls, context) !== "no");
      if (together === "refused") return mayRefuse ? [start] : [];
      if (together === "not-sent" && (context.mayLose || judged !== "must")) return notSent(start, calls, context);
      if (judged === "must") return [];
      if (together === "torn" || "whole" in outcome) return [];
      return outcome.each.reduce<State[]>(
        (states, one, i) => unique(states.flatMap((each) => stepsOf(each, calls[i]!, one, context))),
        [start],
      );
    }),
  );
}

/** Whether no part of it was written; a part alone must not be written. */
function outcomeOfAll(outcome: PipelineOutcome): "refused" | "not-sent" | "torn" | "written" {
  const all = "whole" in outcome ? [outcome.whole] : outcome.each;
  const [first] = all;
  if (first && (first.is === "refused" || first.is === "not-sent"))
    return all.every(({ is }) => is === first.is) ? first.is : "torn";
  return all.some(({ is }) => is === "refused" || is === "not-sent") ? "torn" : "written";
}

/** The outcome of `multi()`, which reports EXEC only. */
export function afterTransaction(state: State, calls: readonly Call[], outcome: Outcome, context: Context): State[] {
  const starts = context.mayLose ? lossesOf(state) : [state];
  return unique(
    starts.flatMap((start) => {
      const judged = judgeTransaction(start, calls, context);
      const mayRefuse = [start, ...context.atFirst].some((one) => judgeTransaction(one, calls, context) !== "no");
      if (outcome.is === "refused") return mayRefuse ? [start] : [];
      if (outcome.is === "not-sent" && (context.mayLose || judged !== "must"))
        return notSent(start, calls, context).map(withoutBreak);
      if (judged === "must") return [];
      if (start.isBroken && !(start.gone && outcome.is === "unknown")) return [];
      return transacted(start, calls, outcome, context);
    }),
  );
}

/** The connection stays as it is, or it is lost by now. */
export function lossesOf(state: State): State[] {
  return unique([state, lost(state)]);
}

export function unique(states: readonly State[]): State[] {
  return [...new Map(states.map((state) => [JSON.stringify(state), state])).values()];
}

function stepsOf(state: State, call: Call, outcome: Outcome, context: Context): State[] {
  const starts = context.mayLose ? lossesOf(state) : [state];
  return starts.flatMap((start) => notRefused(start, call, outcome, context));
}

function notRefused(state: State, call: Call, outcome: Outcome, context: Context): State[] {
  if (outcome.is === "not-sent") return notSent(state, [call], context);
  if (outcome.is === "unknown") {
    if (!context.mayLose || (state.isBroken && !state.gone)) return [];
    return [...unknown(state, call, context), ...(context.mayLinger ? [ran(state, call, context)] : [])];
  }
  if (outcome.is === "refused" || state.isBroken) return [];
  const next = outcome.is === "reply" || outcome.is === "error" ? served(state, call, outcome, context) : undefined;
  return next ? [next] : [];
}

function notSent(state: State, calls: readonly Call[], context: Context): State[] {
  const isOver = calls.some(({ kind }) => ENDS.has(kind));
  if (!(state.isBroken || context.mayLose || calls.some(({ kind }) => isDeaf(state, kind, context)))) return [];
  return [isOver ? withoutBreak(state) : state];
}

function withoutBreak(state: State): State {
  return { ...state, isBroken: false };
}

function lost(state: State): State {
  const isBroken = state.isBroken || state.queue !== undefined || state.watched.length > 0;
  return { ...ended(state), isBroken };
}

// Before a byte is written

function judge(state: State, { kind, shouts }: Call, context: Context): Judgement {
  const { role, earlier } = context;
  const group = KINDS[kind];
  if (group === "refused" || (group === "ending" && role !== "owned")) return "must";
  if (role === "shared") return group === "plain" ? "no" : "must";
  if (kind === "monitor" && (shouts || state.isMonitoring || earlier.includes("monitor"))) return "may";
  if (state.isMonitoring) return "must";
  if (isOutsideOnly(kind) && state.queue) return "must";
  // The server would have to be asked for the positions of its keys, which is impossible inside of a MULTI.
  if (kind === "bad" && context.hasPrefix && (state.queue || earlier.includes("multi"))) return "may";
  const isInDoubt = isOutsideOnly(kind) && earlier.some((one) => one === "multi" || ENDS.has(one));
  return isInDoubt || earlier.includes("monitor") || mayBeDeaf(state, kind, context) ? "may" : "no";
}

function judgeAll(state: State, calls: readonly Call[], context: Context): Judgement {
  const isShared = context.role === "shared";
  let isInside = !isShared && state.queue !== undefined;
  const isOpen = isInside || context.earlier.includes("multi");
  let isBegunBefore = isOpen;
  let verdict: Judgement = "no";
  for (const [i, call] of calls.entries()) {
    const { kind } = call;
    const before: Kind[] = isOpen ? ["multi"] : [];
    const earlier = [...context.earlier, ...before, ...calls.slice(0, i).map((one) => one.kind)];
    if (isShared && (kind === "multi" || kind === "exec" || kind === "discard")) {
      if (isInside === (kind === "multi") || kind === "discard") verdict = "may"; // at worst it fails, which does no harm
    } else if (isShared && isInside && KINDS[kind] === "blocking") verdict = "may";
    else {
      const inside = { ...state, queue: isInside ? [] : undefined };
      const isNever = kind === "monitor" || KINDS[kind] === "ending";
      const judged = isNever ? "must" : judge(inside, call, { ...context, earlier });
      if (judged === "must") return "must";
      if (judged === "may") verdict = "may";
    }
    // Its list of answers would belong to commands that the pipeline does not have.
    if (kind === "exec" && isBegunBefore) verdict = "may";
    if (kind === "exec" || kind === "discard") isBegunBefore = false;
    if (kind === "multi") isInside = true;
    if (kind === "exec" || kind === "discard") isInside = false;
  }
  return isShared && isInside ? "must" : verdict;
}

function judgeTransaction(state: State, calls: readonly Call[], context: Context): Judgement {
  if (state.isMonitoring || calls.some(({ kind }) => isOutsideOnly(kind) || KINDS[kind] === "refused")) return "must";
  if (calls.some(({ kind }) => KINDS[kind] === "ending")) return "must";
  if (context.role === "shared" && calls.some(({ kind }) => kind === "select")) return "must";
  const isOdd = calls.some(({ kind }) => KINDS[kind] !== "plain");
  if (context.role === "shared" && isOdd) return "may";
  return context.earlier.includes("monitor") || mayBeDeaf(state, "exec", context) ? "may" : "no";
}

/** A queued subscription or MONITOR would have an answer that cannot be matched. */
function isOutsideOnly(kind: Kind): boolean {
  return KINDS[kind] === "subscription" || kind === "monitor";
}

function mayBeDeaf(state: State, kind: Kind, context: Context): boolean {
  const isSubscribing = context.earlier.some((one) => KINDS[one] === "subscription");
  return isDeaf(isSubscribing ? subscribed(state, "subscribe", ["any"]) : state, kind, context);
}

// The connection is lost

function unknown(before: State, call: Call, { forbidden }: Context): State[] {
  const { kind } = call;
  const gone = before.gone ?? before.queue ?? "outside";
  const state = { ...lost(before), gone };
  switch (kind) {
    case "exec": {
      const isFailing = before.isDirty || before.isAborted || gone === "outside";
      const over: State = { ...withMaybe(state, isFailing ? [] : gone), gone: "outside" };
      return gone === "outside" ? [over, withoutBreak(over)] : [withoutBreak(over)];
    }
    case "discard": {
      const over: State = { ...state, gone: "outside" };
      return gone === "outside" ? [over, withoutBreak(over)] : [withoutBreak(over)];
    }
    case "watch":
    case "unwatch":
      return [withoutBreak(state), { ...state, isBroken: true }];
    case "multi":
      return [withoutBreak(state), { ...state, isBroken: true }].flatMap((one) => {
        const open: State = { ...one, gone: gone === "outside" ? [] : gone };
        return forbidden === "multi" ? [one, open] : [open];
      });
    case "push":
    case "script":
      return [gone === "outside" ? withMaybe(state, [call]) : { ...state, gone: [...gone, call] }];
    case "monitor":
      return [state, { ...state, isMonitoring: true }];
    default:
      return KINDS[kind] === "subscription" ? partlySubscribed(state, call) : [state];
  }
}

/** The turn is over: later commands are written to another connection. */
export function settled(state: State): State[] {
  return [{ ...state, gone: undefined }];
}

/** Each of its channels has its own answer, in their order. */
function partlySubscribed(state: State, { kind, args }: Call): State[] {
  const channels = args.length > 0 ? args.map(String) : state.subscribed[sortOf(kind)];
  return [state, ...channels.map((_, i) => subscribed(state, kind, channels.slice(0, i + 1)))];
}

// multi()

function transacted(state: State, calls: readonly Call[], outcome: Outcome, context: Context): State[] {
  const kinds = new Set(calls.map(({ kind }) => kind));
  const queue = calls.filter(({ kind }) => kind !== "watch" && kind !== "multi"); // also failed ones, at their places
  const isAborted = kinds.has("bad") || (context.nestingAborts && (kinds.has("watch") || kinds.has("multi")));
  const isForbidden = context.forbidden !== undefined && kinds.has(context.forbidden);
  const blindly = (from: State): State[] =>
    calls.reduce<State[]>((states, call) => unique(states.flatMap((one) => [one, ran(one, call, context)])), [from]);
  if (outcome.is === "unknown" && context.mayLose) {
    const gone = withoutBreak({ ...lost(state), gone: state.gone ?? "outside" });
    if (context.forbidden === "multi") return blindly(gone);
    const over = withMaybe(gone, state.isDirty || isAborted ? [] : queue);
    return context.mayLinger ? [over, ran({ ...state, queue, isAborted }, EXEC, context)] : [over];
  }
  if (outcome.is === "reply") {
    if (isAborted) return [];
    if (state.isDirty) return outcome.value === null ? [ended(state)] : [];
    const next = Array.isArray(outcome.value) && executed({ ...state, queue }, outcome.value, context);
    return next ? [next] : [];
  }
  if (outcome.is !== "error" && outcome.is !== "unknown") return [];
  const { message, outcome: said } = outcome.error as Error & { outcome?: unknown };
  if (message.startsWith("EXECABORT") && (isAborted || isForbidden || context.forbidden === "exec"))
    return [ended(state)];
  if (mayBeDeaf(state, "exec", context) && message.includes("Can't execute")) return [ended(state)];
  // Without its MULTI its commands have run, each by itself.
  return context.forbidden === "multi" && said === "unknown" ? blindly(state) : [];
}
