import type { MessagePort } from "node:worker_threads";
import type { Config, Login } from "../config/options.js";
import type { TraceContext } from "../core/channels.js";
import type { LogFields, LogLevel } from "../core/log.js";
import type { Make } from "./crossing.js";

// The messages between the manager, its threads and their helpers: types only. The room `link` holds all that crosses
// threads; it may import core and config. Read on from here:
// - crossing.ts: how values cross; small-copy.ts and lone-crossing.ts prepare them, uncloneable.ts tells what cannot cross;
// - error-serialization.ts: how errors cross;
// - ledger.ts: numbers of each thread in shared memory;
// - sync-area.ts and sync-codec.ts: the calls of redthread/sync between a thread and its helper.

/** The `workerData` of every thread of a manager. */
export interface ThreadData {
  readonly redthread: {
    readonly config: Config & { readonly tasks: string };
    readonly ledger: SharedArrayBuffer;
    readonly gate: SharedArrayBuffer;
    /** The memory of the near cache. */
    readonly near?: { readonly words: SharedArrayBuffer; readonly log: SharedArrayBuffer } | undefined;
    /** Logins come over the link, and nothing connects before the first login. */
    readonly hasProvider: boolean;
    /** A task's `taskId` is this prefix and the task's number. */
    readonly taskPrefix: string;
  };
}

/** The one endless task of a thread, as piscina passes it on. */
export interface Serve {
  readonly serve: number;
  readonly row: number;
}

/** The first message of a thread, over its parentPort: the manager's end of the link. */
export interface Hello {
  readonly hello: number;
  readonly port: MessagePort;
}

/**
 * Tasks as one flat list: id, name, input, context and the `Make` of both for each task, because structured cloning costs time
 * for every object and every key. Measured with 16 tasks per message: 1.1 µs per task instead of 2.4 µs.
 */
export type TaskList = readonly unknown[];

/** A flat list as well: id, value and `Make` of each result, or id, `ErrorData` and `Make` of each failure. */
export type ResultList = readonly unknown[];

export type CancelReason = "timeout" | "aborted" | "shutdown";

/** Over the link, from the manager. */
export type ToThread =
  | {
      readonly type: "tasks";
      readonly tasks: TaskList;
      /** Trace contexts by the ids of their tasks. Absent if no task has one. */
      readonly traces?: Readonly<Record<number, TraceContext>>;
    }
  /** A message of the thread could not be read: the thread is to say which tasks it still runs. */
  | { readonly type: "audit" }
  | { readonly type: "cancel"; readonly id: number; readonly reason: CancelReason; readonly why: string | undefined }
  | LoginMessage
  /** The answer to `keeperWanted`: the thread's port to the keeper's host and the memory of the keeper's numbers, or why there is none. */
  | { readonly type: "keeper"; readonly port: MessagePort; readonly ledger: SharedArrayBuffer }
  | { readonly type: "keeperFailed"; readonly error: ErrorData }
  | { readonly type: "exit" }
  | { readonly type: "close"; readonly closeMs: number; readonly graceMs: number };

/** Over the link, from a thread. */
export type FromThread =
  | { readonly type: "ready" }
  | { readonly type: "failed"; readonly error: ErrorData }
  | ResultsMessage
  | ReportMessage
  /** The message with tasks of this number cannot be read; none of them has begun. */
  | { readonly type: "unreadable"; readonly message: number }
  | AuditedMessage
  | { readonly type: "logs"; readonly records: readonly LogRecord[]; readonly dropped: number }
  /** The thread wants a newer login than the version `refused`. */
  | { readonly type: "loginWanted"; readonly refused: number }
  /** The thread has started a helper for its synchronous calls: the helper's own link, and their shared memory. */
  | { readonly type: "helper"; readonly port: MessagePort; readonly area: SharedArrayBuffer }
  /** The thread's first lock needs the keeper. */
  | { readonly type: "keeperWanted" }
  | { readonly type: "closed" };

export interface ResultsMessage {
  readonly type: "results";
  readonly done: ResultList;
  readonly failed: ResultList;
  /** How long the thread's loop was busy since the last such message. */
  readonly busyMs: number;
  /** Whether each task ended without waiting, so that no two of them ran at the same time. Undefined if it was not measured. */
  readonly areImmediate: boolean | undefined;
}

/** A report of a running task to its caller. */
export interface ReportMessage {
  readonly type: "report";
  readonly id: number;
  readonly value: unknown;
  readonly make: Make;
}

/** The answer to `audit`. It follows all results so far. */
export interface AuditedMessage {
  readonly type: "audited";
  /** Tasks whose results are still to come. */
  readonly running: readonly number[];
  /** The number of messages with tasks that the thread has taken. Tasks of later messages are not missing. */
  readonly taken: number;
  /** The number of messages with results that it has sent. */
  readonly answered: number;
}

/** The `workerData` of a helper. */
export interface HelperData {
  readonly area: SharedArrayBuffer;
  /** Carries replies that are larger than the area. */
  readonly replies: MessagePort;
  /** The calling thread's id, for the names of connections. */
  readonly threadId: number;
  /** Absent if no manager started the calling thread. */
  readonly managed?: ManagedHelper;
}

/** `row` is the calling thread's row in the ledger and in the gate. The helper has fields and a row of its own beside it. */
export interface ManagedHelper extends Omit<ThreadData["redthread"], "config" | "taskPrefix"> {
  readonly config: Config;
  readonly row: number;
  readonly port: MessagePort;
}

/** From the calling thread: null if the request is in the area, a request that is too large for the area, or the order to close. */
export type ToHelperFromCaller = null | Uint8Array<ArrayBuffer> | { readonly closeMs: number };

export interface SyncOpen {
  readonly timeoutMs?: number;
}

export interface SyncOpened {
  readonly client: number;
  readonly timeoutMs: number;
  readonly closeMs: number;
}

/** Logins, for every thread that opens connections. */
export type LoginMessage =
  | { readonly type: "login"; readonly login: Login }
  | { readonly type: "loginFailed"; readonly error: ErrorData };

/** From the manager, over the helper's own link. */
export type ToHelper = LoginMessage | { readonly type: "end" };

/** From a helper, to the manager. */
export type FromHelper = Extract<FromThread, { type: "logs" } | { type: "loginWanted" }>;

export interface LogRecord {
  readonly level: LogLevel;
  readonly message: string;
  readonly fields: LogFields;
  /** The number of the task that logged it. */
  readonly job?: number;
  /** What all lines of that task say; records of one message share it. */
  readonly bound?: LogFields;
}

/** A failure as data, because structured cloning loses parts of an error. A thrown value that is no error is `thrown`. */
export type ErrorData =
  | { readonly thrown: unknown }
  | {
      readonly name: string;
      readonly message: string;
      readonly stack?: string;
      readonly fields: Readonly<Record<string, unknown>>;
      /** The names of its class and its superclasses. Causes have none. */
      readonly classes?: readonly string[];
      /** Whether it is a DOMException, as the default reason of an AbortSignal is. */
      readonly isDom?: boolean;
      readonly cause?: ErrorData;
      readonly errors?: readonly ErrorData[];
    };
