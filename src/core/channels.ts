import { AsyncLocalStorage } from "node:async_hooks";
import { channel, tracingChannel, type Channel, type TracingChannel } from "node:diagnostics_channel";
import { errorCode } from "./log.js";
import type { ClientRole } from "./names.js";
import { monotonic } from "./clock.js";

// What redthread tells `node:diagnostics_channel`: plain objects of ids, names, durations and codes, never an argument,
// a key, a reply or a result. Each thread has its own registry of channels: who subscribes in it hears that thread.
// A channel is a name, not a resource; nothing is built for one that nobody listens to.

/** W3C trace context: the header fields of the same names. */
export interface TraceContext {
  readonly traceparent: string;
  readonly tracestate?: string;
}

/** What a tracing channel's message holds once what it traces has ended. */
interface Ended {
  /** From `start` to the outcome; set with `asyncStart`. */
  durationMs?: number;
  /** Of what it failed with: the error's `code`, else its name; set with `error`. */
  code?: string;
}

/** `redthread:task`, on the main thread: an accepted task of `run` or `map`, until its caller hears of its outcome. */
export interface TaskMessage extends Ended {
  /** `manager.id`. */
  readonly manager: number;
  /** As in the task's context. */
  readonly taskId: string;
  readonly task: string;
  /** Of `map`: which of its inputs, from 0. */
  readonly index?: number;
  /** From `start` until it was sent to a thread, for the last time if more than once. */
  waitMs?: number;
  /** Where it was sent. */
  threadId?: number;
  /** A subscriber of `start` may set it: it travels to the thread with the task. */
  trace?: TraceContext;
}

/** `redthread:execution`, in a thread: a task's function, until what it returned has settled. */
export interface ExecutionMessage extends Ended {
  readonly taskId: string;
  readonly task: string;
  readonly threadId: number;
  /** What a subscriber of `redthread:task` set. */
  readonly trace?: TraceContext;
  /** A subscriber of `start` may set it: the task then runs in there. It must call `run` at once and give its value. */
  around?: (run: () => unknown) => unknown;
}

/** `redthread:acquire`, in a thread: somebody asks for a dedicated client, until it is there. */
export interface AcquireMessage extends Ended {
  readonly threadId: number;
}

/** `redthread:lease`, in a thread: from a dedicated client's being handed out until its holder gives it back. */
export interface LeaseMessage extends Ended {
  readonly threadId: number;
}

/** `redthread:connection`, in the thread whose connection it is. `closed` is the end of its client. */
export interface ConnectionMessage {
  readonly event: "connected" | "lost" | "closed";
  /** The connection's name on the server. */
  readonly name: string;
  readonly role: ClientRole;
  readonly threadId: number;
  /** Of `connected`: since the client began to connect, its waits and vain attempts included. */
  readonly durationMs?: number;
  /** Of `lost`: why, as far as the socket said. */
  readonly code?: string;
}

/** `redthread:breaker`, in the thread whose attempt to connect opened or closed it; it is the whole process's. */
export interface BreakerMessage {
  readonly event: "opened" | "closed";
}

/**
 * `redthread:thread`, on the main thread. `started`: it has said hello; `ready`: it takes tasks; `failed`: it could not
 * start; `recycled`: it was worn, and replaced; `closed`: the shutdown's doing; `died`: anything else.
 */
export interface ThreadMessage {
  readonly event: "started" | "ready" | "failed" | "recycled" | "closed" | "died";
  /** `manager.id`. */
  readonly manager: number;
  /** -1 if it did not come so far as to say. */
  readonly threadId: number;
  /** Of `failed` and `died`. */
  readonly code?: string;
}

/** `redthread:rotation`, on the main thread: the primary client was replaced. */
export interface RotationMessage {
  /** How long the new one took to connect. */
  readonly durationMs: number;
  /** Since when the old one had served. */
  readonly ageMs: number;
}

export const taskChannel = tracingChannel<unknown, TaskMessage>("redthread:task");
export const executionChannel = tracingChannel<unknown, ExecutionMessage>("redthread:execution");
export const acquireChannel = tracingChannel<unknown, AcquireMessage>("redthread:acquire");
export const leaseChannel = tracingChannel<unknown, LeaseMessage>("redthread:lease");
export const connectionChannel = channel("redthread:connection") as Channel<unknown, ConnectionMessage>;
export const breakerChannel = channel("redthread:breaker") as Channel<unknown, BreakerMessage>;
export const threadChannel = channel("redthread:thread") as Channel<unknown, ThreadMessage>;
export const rotationChannel = channel("redthread:rotation") as Channel<unknown, RotationMessage>;

/** Runs what is no part of the task that causes it, as a PING of ours. Taken as redthread loads: `wire.ts` may load within a request. */
export const outside = AsyncLocalStorage.snapshot();

/** Set while ioredis tells `ioredis:command` of each command of a pipeline, which is written at once. */
export const pipelined: { commands?: readonly { readonly name: string }[] | undefined } = {};

/**
 * One message on its way through a tracing channel: start, end, error if it failed, asyncStart, asyncEnd. As Node's own
 * `tracePromise`, which would also hand out the result and the error themselves.
 */
export class Trace<Message extends Ended> {
  readonly message: Message;
  readonly #channel: TracingChannel<unknown, Message>;
  readonly #startedAt = monotonic();

  constructor(traced: TracingChannel<unknown, Message>, message: Message) {
    this.#channel = traced;
    this.message = message;
  }

  get elapsedMs(): number {
    return monotonic() - this.#startedAt;
  }

  start<T>(begin: () => T): T {
    const { start, end } = this.#channel;
    try {
      return start.runStores(this.message, begin);
    } finally {
      end.publish(this.message);
    }
  }

  done(): void {
    this.message.durationMs = this.elapsedMs;
    this.#end();
  }

  failed(error: unknown): void {
    this.message.durationMs = this.elapsedMs;
    this.message.code = errorCode(error);
    this.#channel.error.publish(this.message);
    this.#end();
  }

  /** From the call of `begin` until its promise settles. */
  async during<T>(begin: () => Promise<T>): Promise<T> {
    let value: T;
    try {
      value = await this.start(begin);
    } catch (error) {
      this.failed(error);
      throw error;
    }
    this.done();
    return value;
  }

  #end(): void {
    this.#channel.asyncStart.publish(this.message);
    this.#channel.asyncEnd.publish(this.message);
  }
}
