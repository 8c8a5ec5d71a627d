import type { MessagePort } from "node:worker_threads";
import type { AnyClient } from "../clients/open-client.js";
import { Client } from "../connection/client.js";
import { sharedClock } from "../core/clock.js";
import type { Outcome } from "../core/errors.js";
import { errorCode, type Logger } from "../core/log.js";
import { isAhead } from "../core/shared-time.js";
import { sleep, waitAtMost } from "../core/waiting.js";
import { toErrorData } from "../link/error-serialization.js";
import type { KeeperLedger } from "../locks/keeper-ledger.js";
import type {
  AttachMessage,
  FromOwner,
  ReplicatedLease,
  TableMessage,
  ToKeeperOfOwners,
  ToOwner,
} from "../locks/keeper-protocol.js";
import { nodeOf, slotOf } from "../locks/lock-nodes.js";
import { acquire, type Acquired, acquireShared, BATCH, extend, release } from "../locks/lock-scripts.js";
import {
  ACQUIRING,
  FREE,
  HELD,
  isSameUse,
  isOurs,
  type LockRecord,
  LockTable,
  type Loss,
  SHARED,
  stateOf,
} from "../locks/lock-table.js";
import type { LockQueues } from "./lock-queues.js";
import type { ReplicatedWrites } from "./replicated-writes.js";
import { clockSkew } from "./wall-clock.js";

/** A lock is extended when a third of its ttl is over … */
const SHARE = 3;
/** … or half of that third, together with others that are due, so that locks of many ages come to share commands. */
const EARLY_SHARE = 2 * SHARE;
/** The longest pause between two looks. A new lock is seen in time, because the shortest ttl is 500 ms. */
const LOOK_MS = 50;
/** After so many looks without a lock the keeper stops looking. */
const IDLE_LOOKS = 20;
/** The pause after a failed command. */
const RETRY_MS = 100;
/** What a dead thread has sent has come to the server by then. */
const AGAIN_MS = 100;

/** A thread with locks. */
interface Owner {
  /** The host's number of it. */
  readonly id: number;
  readonly port: MessagePort;
  readonly tables: LockTable[];
  /** It lives, and closes its locks by itself: its connections are still in use. */
  isClosing: boolean;
}

type OwnLock = Pick<ReplicatedLease, "kind" | "key" | "token">;

/** A lock at a look. */
interface Seen {
  readonly owner: Owner;
  readonly table: number;
  readonly index: number;
  readonly record: LockRecord;
  readonly stamp: number;
}

/** Extends the locks of all threads, finds the lost ones, and releases the locks of threads that have ended. */
export class Keeper {
  readonly #client: AnyClient;
  readonly #queues: LockQueues;
  readonly #ledger: KeeperLedger;
  readonly #logger: Logger;
  readonly #isCluster: boolean;
  /** Undefined in a Cluster. */
  readonly #replicated: ReplicatedWrites | undefined;
  readonly #wallClock: () => number;
  readonly #owners = new Set<Owner>();
  /** The locks that a command under way extends, each with the stamp of its use. */
  readonly #underWay = new Map<LockRecord, number>();
  readonly #releasing = new Set<Promise<void>>();
  #timer: NodeJS.Timeout | undefined;
  #idleLooks = 0;
  #retryAt = sharedClock();
  #skewMs: number;

  constructor(
    client: AnyClient,
    queues: LockQueues,
    ledger: KeeperLedger,
    logger: Logger,
    wallClock: () => number = Date.now,
    replicated?: ReplicatedWrites,
  ) {
    this.#client = client;
    this.#queues = queues;
    this.#ledger = ledger;
    this.#logger = logger;
    this.#wallClock = wallClock;
    this.#replicated = replicated;
    this.#skewMs = clockSkew(wallClock);
    this.#isCluster = !(client instanceof Client);
  }

  /** From the host. */
  receive(message: ToKeeperOfOwners): void {
    if (message.type === "attach") return this.#attach(message);
    const owner = [...this.#owners].find(({ id }) => id === message.owner);
    if (!owner) return; // the end of its port has told it already
    if (message.type === "table") return this.#add(owner, message);
    owner.isClosing ||= message.isClosing;
    owner.port.close();
    this.#ownerGone(owner);
  }

  #attach({ owner: id, port, tables }: AttachMessage): void {
    const owner: Owner = { id, port, tables: tables.map((buffer) => new LockTable(buffer)), isClosing: false };
    this.#owners.add(owner);
    port.on("message", (message: FromOwner) => {
      if (message.type === "wait") return this.#queues.wait(port, message);
      if (message.type === "leave") return this.#queues.leave(port, message);
      if (message.type === "table") return this.#add(owner, message);
      if (message.type === "acquire") void this.#acquire(owner, message.id, message.lease);
      if (message.type === "closing") owner.isClosing = true;
      this.#wake();
    });
    port.once("close", () => this.#ownerGone(owner));
    if (tables.length > 0) this.#wake(); // locks may be held already
  }

  /** The owner tells of it, and the host, in case that message was lost with the last keeper. */
  #add(owner: Owner, { table, buffer }: TableMessage): void {
    owner.tables[table] ??= new LockTable(buffer);
    this.#wake();
  }

  #wake(): void {
    this.#idleLooks = 0;
    if (this.#timer) return;
    this.#skewMs = clockSkew(this.#wallClock); // in a long sleep the clocks drift apart
    this.#look();
  }

  /** Releases what is left, and closes the connection. Never rejects. */
  async close(ms: number): Promise<void> {
    clearTimeout(this.#timer);
    this.#queues.close();
    for (const owner of this.#owners) this.#ownerGone(owner);
    await this.#replicated?.close(ms / 4); // its last acquires are released then
    await waitAtMost(ms / 4, this.#released());
    await this.#client.close(ms / 2);
  }

  #look(): void {
    const now = sharedClock();
    const jumpMs = Math.abs(this.#skewMs - (this.#skewMs = clockSkew(this.#wallClock)));
    const all = [...this.#seen()];
    const least = Math.min(...all.map(({ record }) => record.ttlMs));
    this.#count(all, now);
    const replicated = all.filter(({ record }) => record.replicas > 0);
    this.#replicated?.look(Math.min(...replicated.map(({ record }) => record.ttlMs)));
    const due: Seen[] = [];
    const early: Seen[] = [];
    let nextInMs = LOOK_MS;
    for (const seen of all) {
      const { record, stamp } = seen;
      const state = stateOf(stamp);
      if (state !== HELD && state !== ACQUIRING) continue;
      if (state === ACQUIRING && record.isOverheld(now)) continue; // its owner reads no reply
      if (state === HELD && jumpMs >= least / SHARE) this.#lose(seen, "clock");
      else if (state === HELD && !record.isHeld(stamp, now))
        this.#lose(seen, record.isOverheld(now) ? "maxHold" : "expired");
      else if (this.#underWay.get(record) !== stamp) {
        const ageMs = (now - record.sentAt) | 0;
        const leftMs = record.ttlMs / SHARE - ageMs;
        if (leftMs <= 0) due.push(seen);
        else if (ageMs >= record.ttlMs / EARLY_SHARE) early.push(seen);
        if (leftMs > 0) nextInMs = Math.min(nextInMs, leftMs);
      }
    }
    if (due.length > 0 && !isAhead(this.#retryAt, now)) this.#extendAll([...due, ...early]);
    this.#idleLooks = all.length === 0 ? this.#idleLooks + 1 : 0;
    const sleeps = this.#idleLooks >= IDLE_LOOKS && !this.#replicated?.isOpen && this.#fallAsleep();
    this.#timer = sleeps ? undefined : setTimeout(() => this.#look(), Math.max(nextInMs, 1));
  }

  #count(all: readonly Seen[], now: number): void {
    let held = 0;
    let longestMs = 0;
    for (const { record, stamp } of all) {
      if (stateOf(stamp) !== HELD || !record.isHeld(stamp, now)) continue;
      held++;
      longestMs = Math.max(longestMs, (record.heldUntil - now) | 0);
    }
    this.#ledger.set("heldUntil", (now + longestMs) | 0);
    this.#ledger.set("held", held);
  }

  /** False if a lock was begun meanwhile. */
  #fallAsleep(): boolean {
    for (const { tables } of this.#owners) for (const table of tables) table.fallAsleep();
    return [...this.#seen()].length === 0;
  }

  /** The locks that are not free. */
  *#seen(): Iterable<Seen> {
    for (const owner of this.#owners)
      for (const [table, { records }] of owner.tables.entries())
        for (const [index, record] of records.entries()) {
          const { stamp } = record;
          if (stateOf(stamp) !== FREE) yield { owner, table, index, record, stamp };
        }
  }

  /**
   * All in one turn, so that the commands share a write. In a Cluster a script takes the keys of one slot only. The user may
   * have no right to another client's locks: the script that they are in must not take others with it when it fails.
   */
  #extendAll(all: readonly Seen[]): void {
    const groups = new Map<string, Seen[]>();
    for (const seen of all) {
      const { record } = seen;
      const name = `${record.kind} ${record.replicas} ${this.#isCluster ? slotOf(record.key) : ""}`;
      const group = groups.get(name);
      if (group) group.push(seen);
      else groups.set(name, [seen]);
    }
    for (const group of groups.values())
      for (let i = 0; i < group.length; i += BATCH) void this.#extend(group.slice(i, i + BATCH));
  }

  /** All are of one kind, and of as many replicas. Never rejects. */
  async #extend(batch: readonly Seen[]): Promise<void> {
    const { kind, replicas } = batch[0]!.record;
    const sentAt = sharedClock();
    const locks = batch.map(({ record, stamp }) => {
      this.#underWay.set(record, stamp);
      record.sent(sentAt);
      return { key: record.key, token: record.token, ttlMs: record.ttlMs };
    });
    try {
      const sent =
        replicas > 0
          ? this.#replicated!.write(batch[0]!.record, (to) => extend(to, kind, locks))
          : { reply: extend(this.#client.redis, kind, locks), acknowledged: 0 };
      const done = await sent.reply;
      // Neither does something if the owner has begun the record's next use meanwhile, of which key and token may be.
      for (const [i, seen] of batch.entries()) if (!done[i]) this.#lose(seen, "gone");
      if ((await sent.acknowledged) < replicas) return this.#notExtended(batch, "TOO_FEW_REPLICAS");
      this.#ledger.add("extended", done.filter(Boolean).length);
      for (const [i, seen] of batch.entries()) if (done[i]) seen.record.extend(seen.stamp, sentAt);
    } catch (error) {
      this.#notExtended(batch, errorCode(error));
    } finally {
      for (const { record, stamp } of batch) if (this.#underWay.get(record) === stamp) this.#underWay.delete(record);
    }
  }

  /** This is no loss: only the time decides. All of them are due again soon. */
  #notExtended(batch: readonly Seen[], code: string): void {
    this.#ledger.add("extensionFailures", 1);
    this.#logger.debug("locks could not be extended", { code, locks: batch.length });
    const retryAt = (sharedClock() + RETRY_MS) | 0;
    // The other locks have another connection, and are not put off by what fails on this one.
    if (batch[0]!.record.replicas === 0) this.#retryAt = retryAt;
    for (const { record, stamp } of batch)
      if (isSameUse(record.stamp, stamp)) record.sent((retryAt - record.ttlMs / SHARE) | 0);
  }

  /** Never rejects. */
  async #acquire(owner: Owner, id: number, lease: ReplicatedLease): Promise<void> {
    const lock = { ...lease, key: typeof lease.key === "string" ? lease.key : Buffer.from(lease.key) };
    let told: ToOwner;
    try {
      told = { type: "acquired", id, answer: await this.#acquireReplicated(lock) };
    } catch (error) {
      told = { type: "acquireFailed", id, error: toErrorData(error) };
    }
    if (this.#owners.has(owner)) owner.port.postMessage(told);
    else void this.#release(lock); // the release at its owner's end may have come before the acquire
  }

  async #acquireReplicated(lease: ReplicatedLease): Promise<Acquired> {
    const { kind, key, token, ttlMs, limit, holder, replicas } = lease;
    const { reply, acknowledged } = this.#replicated!.write(lease, (to) =>
      kind === SHARED ? acquireShared(to, key, token, ttlMs, limit) : acquire(to, key, token, ttlMs, holder),
    );
    const answer = await reply;
    if (!answer.isAcquired) return answer;
    try {
      const count = await acknowledged;
      if (count >= replicas) return answer;
      await this.#release(lease);
      return { isAcquired: false, held: "", ttlLeftMs: 0, acknowledged: count };
    } catch (error) {
      // If the reply is only lost, the owner sends the same acquire again.
      if ((error as { outcome?: Outcome }).outcome !== "unknown") await this.#release(lease);
      throw error;
    }
  }

  /** Does nothing if it was not held when the look began: a lock that is being acquired may not be there yet. */
  #lose({ owner, table, index, record, stamp }: Seen, loss: Loss): void {
    const lock = lockOf(record); // before the loss: after it the owner may begin the record's next use
    if (!record.lose(stamp, loss)) return;
    const message: ToOwner = { type: "lost", table, record: index };
    owner.port.postMessage(message);
    if (!isOurs(lock.kind)) return; // a job whose lock is gone may just have been completed
    this.#ledger.lost(loss);
    if (loss !== "gone") void this.#release(lock);
  }

  /** The thread has ended, or has closed its locks. */
  #ownerGone(owner: Owner): void {
    if (!this.#owners.delete(owner)) return;
    this.#queues.ownerGone(owner.port);
    const records = owner.tables.flatMap((table) => table.records);
    const left = records.filter(({ kind, state }) => isOurs(kind) && state !== FREE);
    const acquiring = left.filter(({ state }) => state === ACQUIRING);
    const inDoubt = acquiring.map(lockOf);
    if (!owner.isClosing) this.#endConnections(acquiring);
    for (const record of left) void this.#release(lockOf(record));
    // Without the right to end connections, or from another node of a Cluster, the command may come after the release.
    if (inDoubt.length > 0) this.#releaseAgain(inDoubt);
  }

  /**
   * Of a killed connection no more commands run: a lock that is being acquired is there by now, or will never be. The number is
   * fresh. An older one may be another client's, because a server that was started again counts anew. In a Cluster the slot may
   * be another node's by now, whose numbers mean others: there the connection's addresses belong to what is killed.
   */
  #endConnections(acquiring: readonly LockRecord[]): void {
    const ended = new Map<object, Set<string>>();
    for (const { key, connection } of acquiring) {
      const node = connection && nodeOf(this.#client.redis, key); // the release follows on the same connection
      if (!node) continue;
      const known = ended.get(node) ?? new Set();
      ended.set(node, known);
      if (known.has(connection)) continue;
      known.add(connection);
      node.call("CLIENT", "KILL", ...connection.split(" ")).catch(() => {}); // it is gone, or there is no right
    }
  }

  #releaseAgain(locks: readonly OwnLock[]): void {
    const again = async (): Promise<void> => {
      await sleep(AGAIN_MS);
      for (const lock of locks) void this.#release(lock);
      this.#releasing.delete(waited);
    };
    const waited = again();
    this.#releasing.add(waited);
  }

  /** A release may bring another one. */
  async #released(): Promise<void> {
    while (this.#releasing.size > 0) await Promise.all(this.#releasing);
  }

  /** Never rejects. */
  #release({ kind, key, token }: OwnLock): Promise<void> {
    const released = release(this.#client.redis, kind, key, token)
      .catch((error: unknown) => {
        const what = "a lock could not be released, and ends with its ttl";
        this.#logger.warn(what, { code: errorCode(error) });
      })
      .then(() => void this.#releasing.delete(released));
    this.#releasing.add(released);
    return released;
  }
}

/** A copy, because the owner may begin the record's next use. */
function lockOf({ kind, key, token }: LockRecord): OwnLock {
  return { kind, key, token };
}
