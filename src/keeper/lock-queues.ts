import type { MessagePort } from "node:worker_threads";
import type { AskedChannel } from "../commands/asked-channels.js";
import type { Handle } from "../commands/handle.js";
import { randomBetween } from "../core/clock.js";
import { errorCode, type Logger } from "../core/log.js";
import type { FromOwner, ToOwner } from "../locks/keeper-protocol.js";
import { isCluster } from "../locks/lock-nodes.js";
import { channelOf } from "../locks/lock-scripts.js";

/** The waits of several processes for a lock that ends with its ttl vary by this much, so that they do not all ask at once. */
const JITTER_MS = 50;
/** The longest pause between two looks where no channel tells of a release. */
const LOOK_MS = 500;
/** The longest pause between two looks at all: a key that redthread has not written may be deleted without a message. */
const MAX_LOOK_MS = 5_000;
/** A waiter that has not tried by then is in a blocked thread: the next one has its turn, too. */
const PASS_OVER_MS = 100;

interface Waiter {
  readonly port: MessagePort;
  readonly id: number;
}

/** The waiters of this process for one lock. */
interface LockQueue {
  readonly channel: Buffer;
  readonly waiters: Waiter[];
  /** Whether the channel tells of releases. */
  isTold: boolean;
  /** The waiters whose turn it is, and that have not answered. */
  readonly trying: Set<Waiter>;
  /** A release was told while all waiters had their turns: they may have tried before it. */
  isMissed: boolean;
  timer: NodeJS.Timeout | undefined;
}

type WaitMessage = Extract<FromOwner, { type: "wait" }>;
type LeaveMessage = Extract<FromOwner, { type: "leave" }>;

/**
 * Gives the waiters for a lock their turns, one after the other: when the lock is released, when it may have ended with
 * its ttl, and when the connection that tells of releases was made anew.
 */
export class LockQueues {
  readonly #redis: Handle;
  readonly #isCluster: boolean;
  readonly #mayListen: (channel: Buffer) => Promise<boolean>;
  readonly #logger: Logger;
  readonly #queues = new Map<string, LockQueue>();
  #isListening = false;

  /** `mayListen`: a subscription leaves the connection of its node free for commands. */
  constructor(redis: Handle, mayListen: (channel: Buffer) => Promise<boolean>, logger: Logger) {
    this.#redis = redis;
    this.#isCluster = isCluster(redis);
    this.#mayListen = mayListen;
    this.#logger = logger;
  }

  /** It has tried in vain: the lock lasts `ttlLeftMs`. It keeps its place if it has one. */
  wait(port: MessagePort, { id, key, ttlLeftMs }: WaitMessage): void {
    const queue = this.#queueOf(Buffer.from(key));
    const known = queue.waiters.find((one) => one.id === id && one.port === port);
    if (known) queue.trying.delete(known);
    else queue.waiters.push({ port, id });
    if (queue.isMissed) return this.#next(queue);
    // While another waiter has its turn, nothing puts off the look whether its thread is blocked.
    const isTrying = queue.trying.size > 0;
    this.#lookIn(queue, isTrying ? PASS_OVER_MS : untilEnd(ttlLeftMs));
  }

  /** It waits no more. If it has the lock, which lasts `ttlMs`, the next turn comes with the release. */
  leave(port: MessagePort, { id, key, ttlMs }: LeaveMessage): void {
    const queue = this.#queues.get(nameOf(Buffer.from(key)));
    if (queue) this.#drop(queue, (one) => one.id === id && one.port === port, ttlMs);
  }

  /** The thread has ended. */
  ownerGone(port: MessagePort): void {
    for (const queue of this.#queues.values()) this.#drop(queue, (one) => one.port === port);
  }

  /** The channel is subscribed again: a release may have been missed. */
  resubscribed({ channel }: AskedChannel): void {
    const queue = this.#queues.get(Buffer.from(channel as Buffer).toString("latin1"));
    if (queue) this.#next(queue);
  }

  close(): void {
    for (const { timer } of this.#queues.values()) clearTimeout(timer);
    this.#queues.clear();
  }

  #queueOf(key: Buffer): LockQueue {
    const channel = channelOf(key);
    const name = channel.toString("latin1");
    let queue = this.#queues.get(name);
    if (!queue) {
      queue = { channel, waiters: [], isTold: false, trying: new Set(), isMissed: false, timer: undefined };
      this.#queues.set(name, queue);
      void this.#subscribe(queue);
    }
    return queue;
  }

  /** Never rejects. Without the right to the channel, or a server that has such, the waiters look from time to time. */
  async #subscribe(queue: LockQueue): Promise<void> {
    const { channel } = queue;
    try {
      if (!(await this.#mayListen(channel)) || queue.waiters.length === 0) return;
      this.#listen();
      await (this.#isCluster ? this.#redis.ssubscribe(channel) : this.#redis.subscribe(channel));
      queue.isTold = true;
      if (queue.waiters.length === 0) this.#end(queue);
      else this.#next(queue); // a release before the subscription was not told
    } catch (error) {
      this.#logger.debug("releases of a lock are not told, and are looked for", { code: errorCode(error) });
    }
  }

  #listen(): void {
    if (this.#isListening) return;
    this.#isListening = true;
    this.#redis.on(this.#isCluster ? "smessageBuffer" : "messageBuffer", (channel: Buffer) => {
      const queue = this.#queues.get(channel.toString("latin1"));
      if (queue) this.#next(queue);
    });
  }

  #next(queue: LockQueue): void {
    const waiter = queue.waiters.find((one) => !queue.trying.has(one));
    queue.isMissed = waiter === undefined;
    if (!waiter) return;
    queue.trying.add(waiter);
    const message: ToOwner = { type: "turn", id: waiter.id };
    waiter.port.postMessage(message);
    this.#lookIn(queue, PASS_OVER_MS);
  }

  #lookIn(queue: LockQueue, ms: number): void {
    clearTimeout(queue.timer);
    const limit = queue.isTold ? ms : Math.min(ms, randomBetween(0, LOOK_MS));
    queue.timer = setTimeout(() => this.#next(queue), limit);
  }

  /** A waiter that leaves without the lock passes its turn on. */
  #drop(queue: LockQueue, isGone: (one: Waiter) => boolean, ttlMs?: number): void {
    const { waiters, trying } = queue;
    let hadTurn = false;
    for (const waiter of waiters.filter(isGone)) {
      waiters.splice(waiters.indexOf(waiter), 1);
      hadTurn = trying.delete(waiter) || hadTurn;
    }
    if (waiters.length === 0) this.#end(queue);
    else if (ttlMs !== undefined) this.#acquired(queue, ttlMs);
    else if (hadTurn) this.#next(queue);
  }

  /** With 0 there may be place for one more holder. */
  #acquired(queue: LockQueue, ttlMs: number): void {
    queue.isMissed = false;
    if (ttlMs === 0) this.#next(queue);
    else this.#lookIn(queue, ttlMs);
  }

  #end(queue: LockQueue): void {
    const name = queue.channel.toString("latin1");
    clearTimeout(queue.timer);
    if (this.#queues.get(name) === queue) this.#queues.delete(name);
    if (!queue.isTold || this.#queues.has(name)) return;
    const { channel } = queue;
    const given = this.#isCluster ? this.#redis.sunsubscribe(channel) : this.#redis.unsubscribe(channel);
    given.catch(() => {}); // it ends with the connection
  }
}

/** A key of somebody else may last for ever, and its end is told by nothing. */
function untilEnd(ttlLeftMs: number): number {
  return Math.min(Math.max(ttlLeftMs, 0), MAX_LOOK_MS) + 1 + randomBetween(0, JITTER_MS);
}

function nameOf(key: Buffer): string {
  return channelOf(key).toString("latin1");
}
