import { AsyncLocalStorage } from "node:async_hooks";
import { channel, tracingChannel, type Channel, type TracingChannel } from "node:diagnostics_channel";
import type { LockLoss } from "./errors.js";
import { errorCode } from "./log.js";
import type { ClientRole } from "./names.js";
import { monotonic } from "./clock.js";

// The messages on `node:diagnostics_channel`: plain objects of ids, names, durations and codes, never an argument, a key, a
// reply or a result. Each thread has its own registry of channels, so a subscriber hears the thread in which it subscribed.
// A channel is a name, not a resource: no message is built without a subscriber.

/** W3C trace context: the header fields of the same names. */
export interface TraceContext {
  readonly traceparent: string;
  readonly tracestate?: string;
}

/** The fields that a tracing channel's message gets at the end. */
interface Ended {
  /** From `start` to the outcome; set with `asyncStart`. */
  durationMs?: number;
  /** The error's `code`, else its name; set with `error`. */
  code?: string;
}

/** `redthread:task`, on the main thread: an accepted task of `run` or `map`, until its caller has the outcome. */
export interface TaskMessage extends Ended {
  /** `manager.id`. */
  readonly manager: number;
  /** The `taskId` of the task's context. */
  readonly taskId: string;
  readonly task: string;
  /** The number of the input of `map`, from 0. */
  readonly index?: number;
  /** From `start` until the task was sent to a thread. If it was sent more than once, the last time counts. */
  waitMs?: number;
  /** The thread to which it was sent. */
  threadId?: number;
  /** A subscriber of `start` may set it: it travels to the thread with the task. */
  trace?: TraceContext;
}

/** `redthread:execution`, in a thread: a task's function, until its promise has settled. */
export interface ExecutionMessage extends Ended {
  readonly taskId: string;
  readonly task: string;
  readonly threadId: number;
  /** The context that a subscriber of `redthread:task` set. */
  readonly trace?: TraceContext;
  /** A subscriber of `start` may set this function to run the task in. It must call `run` at once and return its value. */
  around?: (run: () => unknown) => unknown;
}

/** `redthread:acquire`, in a thread: from the request for a dedicated client until the client is there. */
export interface AcquireMessage extends Ended {
  readonly threadId: number;
}

/** `redthread:lease`, in a thread: from the handing out of a dedicated client until its holder gives it back. */
export interface LeaseMessage extends Ended {
  readonly threadId: number;
}

/** `redthread:lock`, in the thread that holds the lock. Each lock that was `acquired` ends as `released` or as `lost`. */
export interface LockMessage {
  readonly event: "acquired" | "released" | "lost";
  readonly threadId: number;
  /** With `acquired`: since it was asked for. */
  readonly waitMs?: number;
  /** With `released` and `lost`: from its acquire until it was released, or until it was last known to be held. */
  readonly heldMs?: number;
  /** With `lost`. */
  readonly reason?: LockLoss;
}

/** `redthread:connection`, in the thread that owns the connection. `closed` is the end of its client. */
export interface ConnectionMessage {
  readonly event: "connected" | "lost" | "closed";
  /** The connection's name on the server. */
  readonly name: string;
  readonly role: ClientRole;
  readonly threadId: number;
  /** With `connected`: the time since the client began to connect, with waits and failed attempts. */
  readonly durationMs?: number;
  /** With `lost`: the reason, if the socket gave one. */
  readonly code?: string;
}

/** `redthread:breaker`, in the thread whose attempt to connect opened or closed the breaker of the whole process. */
export interface BreakerMessage {
  readonly event: "opened" | "closed";
}

/**
 * `redthread:thread`, on the main thread. `started`: the thread has sent its first message; `ready`: it takes tasks; `failed`: it
 * could not start; `recycled`: it was worn and replaced; `closed`: the shutdown ended it; `died`: it ended for another reason.
 */
export interface ThreadMessage {
  readonly event: "started" | "ready" | "failed" | "recycled" | "closed" | "died";
  /** `manager.id`. */
  readonly manager: number;
  /** -1 if the thread ended before it could tell. */
  readonly threadId: number;
  /** With `failed` and `died`. */
  readonly code?: string;
}

/** `redthread:rotation`, on the main thread: the primary client was replaced. */
export interface RotationMessage {
  /** How long the new one took to connect. */
  readonly durationMs: number;
  /** How long the old one had served. */
  readonly ageMs: number;
}

export const taskChannel = tracingChannel<unknown, TaskMessage>("redthread:task");
export const executionChannel = tracingChannel<unknown, ExecutionMessage>("redthread:execution");
export const acquireChannel = tracingChannel<unknown, AcquireMessage>("redthread:acquire");
export const leaseChannel = tracingChannel<unknown, LeaseMessage>("redthread:lease");
export const lockChannel = channel("redthread:lock") as Channel<unknown, LockMessage>;
export const connectionChannel = channel("redthread:connection") as Channel<unknown, ConnectionMessage>;
export const breakerChannel = channel("redthread:breaker") as Channel<unknown, BreakerMessage>;
export const threadChannel = channel("redthread:thread") as Channel<unknown, ThreadMessage>;
export const rotationChannel = channel("redthread:rotation") as Channel<unknown, RotationMessage>;

/**
 * Runs work that is no part of the task that causes it, such as a PING of redthread. The snapshot is taken when redthread loads,
 * because `wire.ts` may load within a request.
 */
export const outside = AsyncLocalStorage.snapshot();

/** Set while ioredis publishes `ioredis:command` for each command of a pipeline, which is written at once. */
export const pipelined: { commands?: readonly { readonly name: string }[] | undefined } = {};

/**
 * Publishes one message on a tracing channel: start, end, error if it failed, asyncStart, asyncEnd. Node's own
 * `tracePromise` does the same, but would publish the result and the error themselves.
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
