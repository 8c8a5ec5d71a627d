import type { MessagePort } from "node:worker_threads";
import type { Config } from "../config/options.js";
import type { ErrorData, FromHelper, LoginMessage } from "../link/protocol.js";
import type { NearBuffers } from "../near/near-buffers.js";
import type { Acquired } from "./lock-scripts.js";
import type { Lease } from "./lock-table.js";

// The messages around the keeper: its host starts it, and each thread with locks has a port of its own to it.

/** The `workerData` of a keeper. */
export interface KeeperData {
  readonly config: Config;
  /** The gate's memory of the manager. Absent if no manager started the host's thread. */
  readonly gate?: SharedArrayBuffer;
  /** Why there is no room for locks with replicas, if so. */
  readonly replicasProblem?: string | undefined;
  /** Logins come from the host, and nothing connects before the first login. */
  readonly hasProvider: boolean;
  /** The memory of a `KeeperLedger`. */
  readonly ledger: SharedArrayBuffer;
  readonly near?: KeeperNear | undefined;
}

/** The near cache that a keeper keeps true. */
export interface KeeperNear extends Pick<NearBuffers, "words"> {
  /** Of this keeper; see `NearMemory.nextGeneration`. */
  readonly generation: number;
}

/** What a thread with locks gets. */
export interface HostEnd {
  /** To the keeper's host, which gives it a port to each keeper. */
  readonly port: MessagePort;
  /** The memory of a `KeeperLedger`. */
  readonly ledger: SharedArrayBuffer;
}

/** From the host. */
export type ToKeeper = LoginMessage | ToKeeperOfOwners | { readonly type: "close"; readonly closeMs: number };

/** From the host, about the threads with locks. */
export type ToKeeperOfOwners =
  | AttachMessage
  /** The owner has told the host of more memory. The owner's own message may be lost with the last keeper. */
  | (TableMessage & { readonly owner: number })
  /** The owner has ended. It may never have taken its port. */
  | { readonly type: "gone"; readonly owner: number; readonly isClosing: boolean };

/** A thread with locks, and the memory of its locks so far. Only the host gives out numbers of owners. */
export interface AttachMessage {
  readonly type: "attach";
  readonly owner: number;
  readonly port: MessagePort;
  readonly tables: readonly SharedArrayBuffer[];
}

/** The memory of more locks. The number tells a table that is told of twice. */
export interface TableMessage {
  readonly type: "table";
  readonly table: number;
  readonly buffer: SharedArrayBuffer;
}

/** To the host, from the keeper. */
export type FromKeeper =
  | FromHelper
  | { readonly type: "ready" }
  | { readonly type: "failed"; readonly error: ErrorData };

/** To the host, from a thread with locks. */
export type ToHost =
  /** The thread needs a keeper that is connected, and waits for it. */
  | { readonly type: "wanted" }
  | TableMessage
  /** The thread closes its locks, and then this link. */
  | { readonly type: "closing" };

/** From the host, to a thread with locks. */
export type FromHost =
  /** A keeper is connected: the first one, or the next one after its end. */
  | { readonly type: "keeper"; readonly port: MessagePort }
  /** The keeper has ended. Its port may be silent about it: a port that was sent to a dead thread closes no other end. */
  | { readonly type: "ended" }
  /** The answer to `wanted`: why there is no keeper. */
  | { readonly type: "failed"; readonly error: ErrorData };

/** A lock that replicas have to acknowledge: the keeper acquires it. */
export interface ReplicatedLease extends Pick<Lease, "kind" | "key" | "token" | "ttlMs" | "replicas"> {
  readonly limit: number;
  /** The name of its holder. */
  readonly holder: string;
}

/** From a thread with locks, to the keeper. */
export type FromOwner =
  | TableMessage
  /** The keeper looks at no table any more, and a lock was begun. */
  | { readonly type: "wake" }
  /** The thread closes its locks, and then this link. */
  | { readonly type: "closing" }
  /** A waiter has tried in vain and waits for its turn: the lock lasts `ttlLeftMs`. */
  | { readonly type: "wait"; readonly id: number; readonly key: string | Uint8Array; readonly ttlLeftMs: number }
  /** The waiter has left, without the lock or with it (for `ttlMs`). */
  | { readonly type: "leave"; readonly id: number; readonly key: string | Uint8Array; readonly ttlMs?: number }
  /** The record of the lock was begun before. */
  | { readonly type: "acquire"; readonly id: number; readonly lease: ReplicatedLease };

/** To a thread with locks. */
export type ToOwner =
  /** This lock was lost. The memory says it already; the message aborts its signal. */
  | { readonly type: "lost"; readonly table: number; readonly record: number }
  /** The waiter is to try now. */
  | { readonly type: "turn"; readonly id: number }
  /** What became of an acquire. */
  | { readonly type: "acquired"; readonly id: number; readonly answer: Acquired }
  | { readonly type: "acquireFailed"; readonly id: number; readonly error: ErrorData };
