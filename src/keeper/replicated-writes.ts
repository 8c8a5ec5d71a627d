import type { AnyClient } from "../clients/open-client.js";
import type { Handle } from "../commands/handle.js";
import { Command } from "../commands/ioredis.js";
import { sharedClock } from "../core/clock.js";
import { ConfigInvalidError } from "../core/errors.js";
import { type Deferred, deferred } from "../core/waiting.js";
import type { CommandTarget } from "../locks/lock-scripts.js";
import { isAhead } from "../core/shared-time.js";

/**
 * A wait for replicas blocks the connection, and so the other locks with replicas: at most for this part of the shortest ttl.
 * A lock is due at a third of its ttl. It may have to let another wait pass before its own, and has time for a second try.
 */
const WAIT_SHARE = 6;
/** A replica that needs longer is not in step. */
const MAX_WAIT_MS = 1_000;
/** The connection is closed when no lock has needed it for this long. */
const IDLE_MS = 5_000;

/** What is written together with others, and how many replicas have to acknowledge it. */
interface Write {
  readonly replicas: number;
  readonly send: (to: CommandTarget) => void;
  readonly acknowledged: Deferred<number>;
  readonly fail: (error: unknown) => void;
}

export interface ReplicatedWritesOptions {
  /** A client that is not connected yet, for these writes alone. */
  readonly makeClient: () => AnyClient;
  /** Whether a thread of the process waits for a connection permit. */
  readonly isWanted: () => boolean;
  /** Why there is no room for the connection, if so. */
  readonly problem: string | undefined;
}

/**
 * Writes that count only once replicas have acknowledged them, on a connection of their own. WAIT speaks of what was written
 * before it on its own connection. So the writes and their WAIT are one pipeline, which goes to a connection as a whole or not
 * at all. What comes while a pipeline is under way is written with the next one.
 */
export class ReplicatedWrites {
  readonly #options: ReplicatedWritesOptions;
  #client: AnyClient | undefined;
  readonly #queued: Write[] = [];
  #isWriting = false;
  #neededAt = sharedClock();
  #shortestTtlMs = Infinity;

  constructor(options: ReplicatedWritesOptions) {
    this.#options = options;
  }

  get isOpen(): boolean {
    return this.#client !== undefined;
  }

  /** Told at each look: the shortest ttl of all locks with replicas, Infinity if there is none. Then the connection is closed after a while. */
  look(shortestTtlMs: number): void {
    this.#shortestTtlMs = shortestTtlMs;
    const now = sharedClock();
    if (shortestTtlMs < Infinity || this.#isWriting) this.#neededAt = now;
    else if (this.#options.isWanted() || !isAhead((this.#neededAt + IDLE_MS) | 0, now)) void this.close(IDLE_MS);
  }

  /**
   * `reply` is the reply to what `send` writes, `acknowledged` how many replicas have it when the wait ends.
   * @throws REDTHREAD_CONFIG_INVALID
   */
  write<T>(
    { replicas, ttlMs }: { readonly replicas: number; readonly ttlMs: number },
    send: (to: CommandTarget) => Promise<T>,
  ): { readonly reply: Promise<T>; readonly acknowledged: Promise<number> } {
    const { problem } = this.#options;
    if (problem !== undefined) throw new ConfigInvalidError(problem, { outcome: "not-sent" });
    const reply = deferred<T>();
    const acknowledged = deferred<number>();
    acknowledged.promise.catch(() => {}); // the caller does not look at it if the write itself has failed
    const fail = (error: unknown): void => {
      reply.reject(error);
      acknowledged.reject(error);
    };
    this.#shortestTtlMs = Math.min(this.#shortestTtlMs, ttlMs);
    this.#queued.push({ replicas, send: (to) => void send(to).then(reply.resolve, reply.reject), acknowledged, fail });
    if (!this.#isWriting) void this.#writeAll();
    return { reply: reply.promise, acknowledged: acknowledged.promise };
  }

  /** Never rejects. */
  async close(ms: number): Promise<void> {
    const client = this.#client;
    this.#client = undefined;
    await client?.close(ms);
  }

  /** Never rejects. */
  async #writeAll(): Promise<void> {
    this.#isWriting = true;
    await Promise.resolve(); // the other writes of this turn join
    while (this.#queued.length > 0) await this.#writeTogether(this.#queued.splice(0));
    this.#isWriting = false;
  }

  /** Never rejects. */
  async #writeTogether(writes: readonly Write[]): Promise<void> {
    this.#client ??= this.#options.makeClient();
    const pipeline = this.#client.redis.pipeline() as ReturnType<Handle["pipeline"]> & CommandTarget;
    const sendCommand = (command: InstanceType<typeof Command>): Promise<unknown> => {
      pipeline.sendCommand(command);
      return command.promise;
    };
    for (const { send } of writes) send({ isPipeline: true, sendCommand });
    // What needs fewer replicas is told before the others are waited for.
    const counts = [...new Set(writes.map(({ replicas }) => replicas))].toSorted((a, b) => a - b);
    const ms = Math.min(this.#shortestTtlMs / WAIT_SHARE, MAX_WAIT_MS) / counts.length;
    for (const count of counts) {
      const waiting = sendCommand(new Command("wait", [count, Math.floor(ms)])) as Promise<number>;
      for (const { replicas, acknowledged } of writes)
        if (replicas === count) waiting.then(acknowledged.resolve, acknowledged.reject);
    }
    try {
      await pipeline.exec(); // each of its commands has an outcome of its own
    } catch (error) {
      for (const { fail } of writes) fail(error); // it was refused as a whole
    }
  }
}
