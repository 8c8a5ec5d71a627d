import type { ConnectionOptions } from "node:tls";
import { Wire } from "../commands/wire.js";
import { addressOf, translated } from "../config/endpoint.js";
import type { Endpoint, RedisConfig } from "../config/options.js";
import { AuthFailedError } from "../core/errors.js";
import { errorReason } from "../core/log.js";
import { isAuthReply, isReplyError, isUnknown, replyCode } from "../core/replies.js";
import { monotonic } from "../core/clock.js";
import { abortable, sleep, within } from "../core/waiting.js";
import { foreignReason, misled } from "./foreign.js";

/** The extra time for the others, once a sentinel has answered: a frozen sentinel delays a connect by no more. */
const PATIENCE_MS = 100;

/** One answer that sentinels give. */
export interface MasterReport {
  readonly master: Endpoint;
  /** It grows with each failover. 0 also where the sentinel's user is not allowed to ask for it. */
  readonly epoch: number;
  /** More than half of all sentinels say this. */
  readonly isAgreed: boolean;
}

/** Asks the sentinels where the master is: all at once, because a restarted sentinel may have an old answer. */
export class Sentinels {
  /** Where a client of this thread last found the master. */
  known: Endpoint | undefined;
  readonly #redis: RedisConfig;
  readonly #listed: readonly Endpoint[];

  /** The clients of a thread share one object, and so what they found out. */
  static of(redis: RedisConfig): Sentinels | undefined {
    const { sentinels } = redis;
    if (!sentinels) return undefined;
    let made = all.get(sentinels);
    if (!made) all.set(sentinels, (made = new Sentinels(redis, sentinels)));
    return made;
  }

  private constructor(redis: RedisConfig, sentinels: readonly Endpoint[]) {
    this.#redis = redis;
    this.#listed = sentinels;
  }

  /**
   * At least one report within half of `ms`, the newest first; among equally new reports those of most sentinels come first.
   * Once one sentinel has answered, the others have as long again and 100 ms. Nothing is open afterwards.
   */
  async ask(ms: number, signal?: AbortSignal): Promise<MasterReport[]> {
    const startedAt = monotonic();
    const enough = new AbortController();
    const asking = this.#listed.map((sentinel) => this.#ask(sentinel, ms / 2, enough.signal));
    const late = Promise.any(asking).then(() => sleep(monotonic() - startedAt + PATIENCE_MS, enough.signal));
    void late.then(() => enough.abort(new Error("the others answered sooner"))).catch(() => {}); // all have answered
    const all = Promise.allSettled(asking);
    await abortable(all, signal).catch(() => {}); // thrown below
    enough.abort();
    const answers = await all;
    signal?.throwIfAborted();
    const given = answers.flatMap((answer) => (answer.status === "fulfilled" ? [answer.value] : []));
    if (given.length > 0) return this.#count(given);
    throw this.#unknown(answers.map((answer) => (answer as PromiseRejectedResult).reason as Error));
  }

  #count(answers: readonly Answer[]): MasterReport[] {
    const counted = new Map<string, Answer & { votes: number }>();
    for (const answer of answers) {
      const key = `${addressOf(answer.master)} ${answer.epoch}`;
      counted.set(key, { ...answer, votes: (counted.get(key)?.votes ?? 0) + 1 });
    }
    return [...counted.values()]
      .toSorted((a, b) => b.epoch - a.epoch || b.votes - a.votes)
      .map(({ votes, ...answer }) => ({ ...answer, isAgreed: votes * 2 > this.#listed.length }));
  }

  async #ask({ host, port }: Endpoint, ms: number, signal: AbortSignal): Promise<Answer> {
    const { sentinelName, sentinelUsername, sentinelPassword, sentinelTls = false, ioredis } = this.#redis;
    const wire = new Wire({
      host,
      port,
      ...(ioredis.family === undefined ? {} : { family: ioredis.family }),
      ...(sentinelUsername === undefined ? {} : { username: sentinelUsername }),
      ...(sentinelPassword === undefined ? {} : { password: sentinelPassword }),
      ...(sentinelTls === false ? {} : { tls: structuredClone(sentinelTls) as ConnectionOptions }),
      protocol: 2, // one round trip less, and every sentinel speaks it
      disableClientInfo: true,
    });
    let cause: Error | undefined;
    wire.on("error", (error: Error) => (cause = error));
    const asking = wire.dial().then(() =>
      // The epoch first: a failover between the two makes the answer look older than it is, never newer.
      Promise.all([
        wire.own("sentinel", "master", sentinelName!).catch(() => []),
        wire.own("sentinel", "get-master-addr-by-name", sentinelName!),
      ]),
    );
    try {
      const [about, address] = await abortable(
        within(asking, ms, () => new Error(`no answer within ${Math.round(ms)} ms`)),
        signal,
      );
      if (!Array.isArray(address)) throw new Error(`knows no master "${sentinelName}"`);
      const fields = about as string[];
      const epoch = Number(fields[fields.indexOf("config-epoch") + 1]) | 0;
      return { master: translated({ host: String(address[0]), port: Number(address[1]) }, this.#redis), epoch };
    } catch (error) {
      // ioredis says "Connection is closed."; the reason came as an error event.
      throw cause ?? error;
    } finally {
      await wire.cut();
    }
  }

  /** The failures are in the order of the list. */
  #unknown(failures: readonly Error[]): Error {
    const replies = failures.filter(isReplyError);
    if (replies.length === failures.length && replies.every(isAuthReply)) {
      const reply = replyCode(replies[0]!);
      return new AuthFailedError(
        `every sentinel of "${this.#redis.sentinelName}" refused the credentials (${reply}): ` +
          "check redis.sentinelUsername and redis.sentinelPassword",
        { reply },
      );
    }
    if (failures.every(isUnknown)) {
      return misled(`redis.sentinels: no sentinel is at ${this.#listed.map(addressOf).join(", ")}, but a server`);
    }
    const told = failures.map(
      (error, i) => `${addressOf(this.#listed[i]!)} ${foreignReason(error) ?? errorReason(error)}`,
    );
    const unknown = new Error(`no sentinel tells where "${this.#redis.sentinelName}" is (${told.join("; ")})`);
    return Object.assign(unknown, { code: "NO_SENTINEL" });
  }
}

type Answer = Omit<MasterReport, "isAgreed">;

const all = new WeakMap<readonly Endpoint[], Sentinels>();
