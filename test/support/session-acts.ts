import type { RedisHandle } from "../../src/commands/ioredis.js";
import type { Outcome, PipelineOutcome } from "./session-reference.js";
import type { Act, Call } from "./session-steps.js";

/** No act may end like this: the run fails. */
export class Violation extends Error {}

type Methods = Record<string, (...args: unknown[]) => unknown>;

/** Begins an act in this turn; rejects with a `Violation` only. `isImpatient`: commands may be late. */
export async function begin(
  redis: RedisHandle,
  how: Act["how"],
  calls: readonly Call[],
  isImpatient: boolean,
): Promise<Outcome | PipelineOutcome> {
  const outcomeOf = (error: unknown): Outcome => judge(error, isImpatient);
  try {
    if (how === "single") return { is: "reply", value: await invoke(redis, calls[0]!) };
    if (how === "transaction") {
      const multi = redis.multi();
      for (const call of calls) invoke(multi, call);
      return { is: "reply", value: await multi.exec() };
    }
    const entries = await pipelineOf(redis, calls).exec();
    return { each: (entries ?? []).map(([error, value]) => (error ? outcomeOf(error) : { is: "reply", value })) };
  } catch (error) {
    const outcome = outcomeOf(error);
    return how === "pipeline" ? { whole: outcome } : outcome;
  }
}

function pipelineOf(redis: RedisHandle, calls: readonly Call[]): ReturnType<RedisHandle["pipeline"]> {
  const pipeline = redis.pipeline();
  let isOpen = false;
  for (const [i, call] of calls.entries()) {
    // `exec()` of a pipeline ends it, unless a `multi()` is open; therefore a lone EXEC or MULTI has to be called by
    // name.
    const hasEnd = !call.shouts && closes(calls.slice(i + 1));
    if (call.kind === "multi" && hasEnd && !isOpen) {
      (pipeline as unknown as Methods)["multi"]!();
      isOpen = true;
    } else if (call.kind === "exec" && isOpen) {
      void pipeline.exec();
      isOpen = false;
    } else if (call.kind === "multi" || call.kind === "exec")
      pipeline.call(call.shouts ? call.name.toUpperCase() : call.name);
    else invoke(pipeline, call);
  }
  return pipeline;
}

function closes(calls: readonly Call[]): boolean {
  return calls.find(({ kind }) => kind === "exec" || kind === "multi")?.kind === "exec";
}

function invoke(on: object, { name, args, shouts, kind }: Call): unknown {
  const methods = on as Methods;
  if (kind === "multi") return methods["multi"]!({ pipeline: false });
  if (kind !== "script" && kind !== "disconnect" && (shouts || !(name in on)))
    return methods["call"]!(name.toUpperCase(), ...args);
  return methods[name]!(...args);
}

function judge(error: unknown, isImpatient: boolean): Outcome {
  if (!(error instanceof Error)) throw new Violation(`rejected with ${String(error)}`);
  const { code, outcome } = error as { code?: unknown; outcome?: unknown };
  if (error.name === "ReplyError") return { is: "error", error };
  const isOurs = typeof code === "string" && code.startsWith("REDTHREAD_");
  if (code === "REDTHREAD_NEEDS_DEDICATED" && outcome === "not-sent") return { is: "refused", error };
  const isNamed = "command" in error && "reason" in error;
  if (code === "REDTHREAD_COMMAND_REFUSED" && outcome === "refused" && isNamed) return { is: "refused", error };
  if (isOurs && outcome === "not-sent") return { is: "not-sent", error };
  // The server answers, or is gone: no reply is late, except for impatient callers.
  const isLate = code === "REDTHREAD_COMMAND_TIMEOUT" && !isImpatient;
  if (isOurs && outcome === "unknown" && !isLate) return { is: "unknown", error };
  throw new Violation(
    `rejected with ${error.name}: ${error.message} (code ${String(code)}, outcome ${String(outcome)})`,
  );
}
