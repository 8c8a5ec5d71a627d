import type { MessagePort } from "node:worker_threads";
import type { Config } from "../config/options.js";
import type { ErrorData, FromHelper, LoginMessage } from "../link/protocol.js";

// The messages around the keeper: its host starts it, and each thread with locks has a port of its own to it.

/** The `workerData` of a keeper. */
export interface KeeperData {
  readonly config: Config;
  /** The gate's memory of the manager. Absent if no manager started the host's thread. */
  readonly gate?: SharedArrayBuffer;
  /** Logins come from the host, and nothing connects before the first login. */
  readonly hasProvider: boolean;
  /** The memory of a `KeeperLedger`. */
  readonly ledger: SharedArrayBuffer;
}

/** What a thread with locks gets. */
export interface KeeperEnd {
  /** To a keeper that is connected. */
  readonly port: MessagePort;
  /** The memory of a `KeeperLedger`. */
  readonly ledger: SharedArrayBuffer;
}

/** From the host. */
export type ToKeeper =
  | LoginMessage
  /** A thread that will have locks. */
  | { readonly type: "attach"; readonly port: MessagePort }
  | { readonly type: "close"; readonly closeMs: number };

/** To the host. */
export type FromKeeper =
  | FromHelper
  | { readonly type: "ready" }
  | { readonly type: "failed"; readonly error: ErrorData };

/** From a thread with locks. */
export type FromOwner =
  /** The memory of more locks. */
  | { readonly type: "table"; readonly buffer: SharedArrayBuffer }
  /** The keeper looks at no table any more, and a lock was begun. */
  | { readonly type: "wake" }
  /** The thread closes its locks, and then this link. */
  | { readonly type: "closing" }
  /** A waiter has tried in vain and waits for its turn: the lock lasts `ttlLeftMs`. */
  | { readonly type: "wait"; readonly id: number; readonly key: string | Uint8Array; readonly ttlLeftMs: number }
  /** The waiter has left, without the lock or with it (for `ttlMs`). */
  | { readonly type: "leave"; readonly id: number; readonly key: string | Uint8Array; readonly ttlMs?: number };

/** To a thread with locks. */
export type ToOwner =
  /** This lock was lost. The memory says it already; the message aborts its signal. */
  | { readonly type: "lost"; readonly table: number; readonly record: number }
  /** The waiter is to try now. */
  | { readonly type: "turn"; readonly id: number };
