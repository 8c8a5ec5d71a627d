import type { MessagePort } from "node:worker_threads";
import type { Config, Login } from "../config/options.js";
import type { TraceContext } from "../core/channels.js";
import type { LogFields, LogLevel } from "../core/log.js";
import type { Make } from "./make.js";

/** What every thread of a manager is born with. */
export interface ThreadData {
  readonly redthread: {
    readonly config: Config & { readonly tasks: string };
    readonly ledger: SharedArrayBuffer;
    readonly gate: SharedArrayBuffer;
    /** Logins come over the link; nobody connects before the first. */
    readonly hasProvider: boolean;
    /** In front of a task's number in what the outside knows as its `taskId`. */
    readonly taskPrefix: string;
  };
}

/** The one endless job of a thread, as piscina hands it over. */
export interface Serve {
  readonly serve: number;
  readonly row: number;
}

/** A thread's first word, over its parentPort: its end of the link. */
export interface Hello {
  readonly hello: number;
  readonly port: MessagePort;
}

/**
 * Tasks as one flat list, of each id, name, input, context and the `Make` of both: structured cloning pays for every object
 * and every key. Measured with 16 tasks a message: 1.1 us a task, against 2.4 us for an object each.
 */
export type TaskList = readonly unknown[];

/** Likewise: id, value and `Make` of each result, or id, `ErrorData` and `Make` of each failure. */
export type ResultList = readonly unknown[];

export type CancelReason = "timeout" | "aborted" | "shutdown";

/** Over the link, from the manager. */
export type ToThread =
  | {
      readonly type: "tasks";
      readonly tasks: TaskList;
      /** By the ids of those tasks that have one; absent where none has. */
      readonly traces?: Readonly<Record<number, TraceContext>>;
    }
  /** A message of the thread could not be read: what does it still run? */
  | { readonly type: "audit" }
  | { readonly type: "cancel"; readonly id: number; readonly reason: CancelReason; readonly why: string | undefined }
  | LoginMessage
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
  /** One newer than the version `refused`. */
  | { readonly type: "loginWanted"; readonly refused: number }
  /** It has started a helper for its synchronous calls: the helper's own link, and the memory they share. */
  | { readonly type: "helper"; readonly port: MessagePort; readonly area: SharedArrayBuffer }
  | { readonly type: "closed" };

export interface ResultsMessage {
  readonly type: "results";
  readonly done: ResultList;
  readonly failed: ResultList;
  /** How long the thread's loop was busy since the last such message. */
  readonly busyMs: number;
  /** Each of them ended as soon as it had begun, waiting for nothing: none was ever beside another one. Undefined where nobody looked. */
  readonly areImmediate: boolean | undefined;
}

/** What a running task says to its caller meanwhile. */
export interface ReportMessage {
  readonly type: "report";
  readonly id: number;
  readonly value: unknown;
  readonly make: Make;
}

/** In answer to `audit`, after all results so far. */
export interface AuditedMessage {
  readonly type: "audited";
  /** Tasks whose results are still to come. */
  readonly running: readonly number[];
  /** Messages with tasks that the thread has taken: what it has not taken yet is not missing. */
  readonly taken: number;
  /** Messages with results that it has sent. */
  readonly answered: number;
}

/** What a helper is born with. */
export interface HelperData {
  readonly area: SharedArrayBuffer;
  /** For replies that are larger than the area. */
  readonly replies: MessagePort;
  /** Of the calling thread, in the names of connections. */
  readonly threadId: number;
  /** Absent where no manager started the calling thread. */
  readonly managed?: ManagedHelper;
}

/** Of the calling thread's ledger row and gate slot; the helper has fields and a slot of its own beside them. */
export interface ManagedHelper extends Omit<ThreadData["redthread"], "config" | "taskPrefix"> {
  readonly config: Config;
  readonly row: number;
  readonly port: MessagePort;
}

/** From the calling thread: look at the area, or here is a request too large for it, or close. */
export type ToHelperFromCaller = null | Uint8Array<ArrayBuffer> | { readonly closeMs: number };

export interface SyncOpen {
  readonly timeoutMs?: number;
}

export interface SyncOpened {
  readonly client: number;
  readonly timeoutMs: number;
  readonly closeMs: number;
}

/** Logins, for whoever opens connections. */
export type LoginMessage =
  | { readonly type: "login"; readonly login: Login }
  | { readonly type: "loginFailed"; readonly error: ErrorData };

/** From the manager, over the helper's own link. */
export type ToHelper = LoginMessage | { readonly type: "end" };

/** To the manager. */
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

/** A failure as data: what structured cloning would lose of an error. A thrown value that is no error is `thrown`. */
export type ErrorData =
  | { readonly thrown: unknown }
  | {
      readonly name: string;
      readonly message: string;
      readonly stack?: string;
      readonly fields: Readonly<Record<string, unknown>>;
      /** The names of its class and of those above it; not of causes. */
      readonly classes?: readonly string[];
      /** It is a DOMException, as each AbortSignal's own reason. */
      readonly isDom?: boolean;
      readonly cause?: ErrorData;
      readonly errors?: readonly ErrorData[];
    };
