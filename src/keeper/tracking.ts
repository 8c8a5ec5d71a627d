import type { Handle } from "../commands/handle.js";
import { listenToInvalidations } from "../commands/ioredis.js";
import type { Client } from "../connection/client.js";
import { monotonic, sharedClock } from "../core/clock.js";
import type { Logger } from "../core/log.js";
import { classifyReply, isReplyError, replyCode, roleIn, runIdIn } from "../core/replies.js";
import { sleep, waitAtMost } from "../core/waiting.js";
import { type NearMemory, OFF_REASONS, type OffReason, STARTING, TRACKING } from "../near/near-memory.js";
import { clockSkew } from "./wall-clock.js";

/** So many questions are asked within `maxStaleMs`. */
const QUESTIONS = 5;
/** The longest pause between two: with each one it is seen whether the machine was suspended, and which role the server has. */
const LOOK_MS = 1_000;
/** A question that is not answered for so long makes the connection be checked. */
const SILENT_MS = 1_000;
/** The pause before tracking is tried again where it was refused, and between two questions to a server that is no master. */
const REFUSED_MS = 10_000;
const REPLICA_MS = 1_000;
/** The machine was suspended if the two clocks have come apart by more. */
const JUMP_MS = 1_000;
/** Everything is dropped after so long: times in shared words wrap, and a value of before must not look fresh again. */
const SWEEP_MS = 7 * 24 * 60 * 60 * 1_000;
/** The shortest time between two connections that are given up because other threads are connected to another server. */
const MOVE_MS = 5_000;
/** In place of a role: the server refuses to answer now. */
const BUSY = "busy";
/** A word holds whole milliseconds, and so does the clock that it is compared with. */
const ROUNDING_MS = 1;

export interface TrackingOptions {
  readonly client: Pick<Client, "redis" | "check">;
  readonly memory: NearMemory;
  /** Of this keeper: a later keeper takes the lease away from it. */
  readonly generation: number;
  /** With `redis.keyPrefix`. */
  readonly prefixes: readonly string[];
  readonly maxStaleMs: number;
  readonly logger: Logger;
  readonly wallClock?: () => number;
}

/** What is asked of one connection. */
class Session {
  readonly #end = new AbortController();

  get isOver(): boolean {
    return this.#end.signal.aborted;
  }

  end(): void {
    this.#end.abort();
  }

  /** Ends early with the session. */
  async pause(ms: number): Promise<void> {
    if (ms > 0) await sleep(ms, this.#end.signal).catch(() => {});
  }
}

/**
 * Keeps the near cache true: hears from the server which keys were written, and proves again and again that it has heard
 * everything up to a moment. Until `maxStaleMs` after that moment values may be served. This is the lease, which ends by itself.
 */
export class Tracking {
  readonly #options: TrackingOptions;
  readonly #handle: Handle;
  #session: Session | undefined;
  #skewMs: number;
  #sweptAt = monotonic();
  #movedAt = -Infinity;
  #told: OffReason | undefined;

  constructor(options: TrackingOptions) {
    this.#options = options;
    this.#handle = options.client.redis;
    this.#skewMs = clockSkew(options.wallClock ?? Date.now);
    listenToInvalidations(this.#handle, (keys) => this.#invalidated(keys));
  }

  /** The connection is up. */
  connected(): void {
    const session = (this.#session = new Session());
    void this.#run(session); // never rejects
  }

  /** The connection is gone, and with it what the server was going to tell. */
  lost(): void {
    if (!this.#session) return;
    this.#session.end();
    this.#session = undefined;
    this.#stop();
    this.#options.memory.setState(STARTING);
  }

  /** Another user may not be allowed to read what the last one has read. */
  userChanged(): void {
    this.#drop();
  }

  close(): void {
    this.lost();
  }

  #invalidated(keys: readonly Buffer[] | null): void {
    const { memory } = this.#options;
    if (keys === null) return this.#drop();
    for (const key of keys) memory.invalidate(memory.bucketOf(memory.hashOf(key, key.length)));
    memory.add("invalidated", keys.length);
  }

  #drop(): void {
    const { memory } = this.#options;
    memory.flush();
  }

  #stop(): void {
    const { memory, generation } = this.#options;
    memory.setLease(generation, 0);
    memory.setServer(undefined);
    this.#drop();
  }

  async #run(session: Session): Promise<void> {
    while (!session.isOver) {
      try {
        await this.#track(session);
        return await this.#prove(session);
      } catch (error) {
        if (session.isOver) return;
        if (isPassing(error)) await session.pause(REPLICA_MS);
        else if (error instanceof Refused) await this.#refused(session, error);
        else return; // the connection is gone, and another one comes
      }
    }
  }

  /** Everything that was asked for before the server has begun to tell is dropped. */
  async #track(session: Session): Promise<void> {
    const { memory, prefixes } = this.#options;
    if (!this.#handle.speaksResp3) throw new Refused("RESP3");
    const server = runIdIn(await allowed("INFO", this.#handle.own("info", "server")));
    if (server === undefined) throw new Refused("INFO");
    // After an error it may be on: the server would say that the prefixes overlap with those that it has.
    await allowed("CLIENT TRACKING", this.#handle.own("client", "TRACKING", "OFF"));
    const each = prefixes.flatMap((prefix) => ["PREFIX", prefix]);
    await allowed("CLIENT TRACKING", this.#handle.own("client", "TRACKING", "ON", "BCAST", ...each));
    if (session.isOver) return;
    memory.setServer(server);
    this.#drop();
    memory.setState(TRACKING);
    memory.add("connects", 1);
  }

  /**
   * A question that is answered proves that everything was heard that the server did before it had read the question before: the
   * invalidations of one cycle of its loop are sent at the end of the cycle, after the answers. For the same reason one question is
   * asked at a time: several that are read in one cycle would all overtake the invalidations. A server that is busy with a script
   * answers some commands in the middle of the cycle, such as HELLO. INFO it refuses.
   */
  async #prove(session: Session): Promise<void> {
    const { memory, generation, maxStaleMs } = this.#options;
    let before: number | undefined;
    while (!session.isOver) {
      const sentAt = sharedClock();
      const role = await this.#role();
      if (session.isOver) return;
      this.#look();
      if (role === BUSY) {
        before = undefined;
        await session.pause(Math.min(maxStaleMs / QUESTIONS, REPLICA_MS));
        continue;
      }
      if (role !== "master") {
        before = undefined;
        await this.#isReplica(session);
        continue;
      }
      memory.setState(TRACKING);
      this.#told = undefined;
      if (before !== undefined) {
        if (!memory.setLease(generation, before + maxStaleMs - ROUNDING_MS)) return;
        memory.set("provedAt", before);
        await session.pause(Math.min(maxStaleMs / QUESTIONS, LOOK_MS) - ((sharedClock() - sentAt) | 0));
      }
      before = sentAt; // the second question leaves at once, because nothing is served before its answer
    }
  }

  async #role(): Promise<string | undefined> {
    try {
      return roleIn(await this.#answered(allowed("INFO", this.#handle.own("info", "replication"))));
    } catch (error) {
      if (isPassing(error)) return BUSY;
      throw error;
    }
  }

  /** A connection that says nothing is checked, and replaced if it is half open. */
  async #answered(asked: Promise<unknown>): Promise<unknown> {
    const answered = asked.catch(() => {}); // also by an error
    if (!(await waitAtMost(SILENT_MS, answered))) void this.#options.client.check();
    return asked;
  }

  /** What no server tells. */
  #look(): void {
    const { memory, wallClock = Date.now } = this.#options;
    const skewMs = clockSkew(wallClock);
    const hasJumped = Math.abs(skewMs - this.#skewMs) > JUMP_MS;
    this.#skewMs = skewMs;
    const isDue = monotonic() - this.#sweptAt > SWEEP_MS;
    if (isDue) this.#sweptAt = monotonic();
    if (hasJumped || isDue) this.#drop();
    if (monotonic() - this.#movedAt > MOVE_MS && memory.takeElsewhere()) this.#move();
  }

  /** Other threads were led to another server: perhaps a new connection is led there, too. */
  #move(): void {
    this.#movedAt = monotonic();
    this.#handle.stream.destroy();
  }

  async #isReplica(session: Session): Promise<void> {
    const { memory, generation } = this.#options;
    memory.setLease(generation, 0);
    if (memory.state === TRACKING) this.#drop();
    this.#off(new Refused("replica"));
    await session.pause(REPLICA_MS);
  }

  async #refused(session: Session, error: Refused): Promise<void> {
    this.#stop();
    this.#off(error);
    await session.pause(REFUSED_MS);
  }

  /** Logs a reason once, until it is tracked again. */
  #off({ reason, code }: Refused): void {
    const { memory, logger } = this.#options;
    memory.setOff(reason);
    if (reason === this.#told) return;
    this.#told = reason;
    logger.warn("the near cache is off: every read asks Redis", { reason: OFF_REASONS[reason], code });
  }
}

/** Why nothing can be tracked. */
class Refused extends Error {
  readonly reason: OffReason;
  /** Of the server's error reply, if it was one. */
  readonly code: string | undefined;

  constructor(reason: OffReason, code?: string) {
    super(OFF_REASONS[reason]);
    this.reason = reason;
    this.code = code;
  }
}

/** The reply to a command that the near cache cannot do without. */
async function allowed(reason: OffReason, reply: Promise<unknown>): Promise<unknown> {
  return reply.catch((error: unknown) => {
    throw isReplyError(error) && !isPassing(error) ? new Refused(reason, replyCode(error)) : error;
  });
}

/** The server is busy, or loads its data. */
function isPassing(error: unknown): boolean {
  return isReplyError(error) && classifyReply(error) === "wait";
}
