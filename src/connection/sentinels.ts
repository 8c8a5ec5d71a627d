import type { ConnectionOptions } from "node:tls";
import { Wire } from "../commands/wire.js";
import { addressOf, translated } from "../config/endpoint.js";
import type { Endpoint, RedisConfig } from "../config/options.js";
import { AuthFailedError } from "../core/errors.js";
import { errorReason } from "../core/log.js";
import { isAuthReply, isReplyError, isUnknown, replyCode } from "../core/replies.js";
import { monotonic } from "../core/clock.js";
import { abortable, sleep, within } from "../core/waiting.js";
import { foreignWord, misled } from "./foreign.js";

/** What the others have besides, once one has answered: a sentinel that is frozen costs each connect no more. */
const PATIENCE_MS = 100;

/** What sentinels say. */
export interface Word {
  readonly master: Endpoint;
  /** It grows with each failover. 0 also where the sentinel's user may not ask for it. */
  readonly epoch: number;
  /** More than half of all sentinels say this. */
  readonly isAgreed: boolean;
}

/** They know where the master is. All are asked at once, because one that was restarted may have an old answer. */
export class Sentinels {
  /** Where a client of this thread last found the master. */
  known: Endpoint | undefined;
  readonly #redis: RedisConfig;
  readonly #listed: readonly Endpoint[];

  /** The clients of a thread share what they found out. */
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
   * What they say, the newest first, then what most say: at least one word, within half of `ms`. Once one has answered,
   * the others have as long again and 100 ms. Nothing is open afterwards.
   */
  async ask(ms: number, signal?: AbortSignal): Promise<Word[]> {
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
    const told = answers.flatMap((answer) => (answer.status === "fulfilled" ? [answer.value] : []));
    if (told.length > 0) return this.#count(told);
    throw this.#unknown(answers.map((answer) => (answer as PromiseRejectedResult).reason as Error));
  }

  #count(told: readonly Told[]): Word[] {
    const words = new Map<string, Told & { votes: number }>();
    for (const one of told) {
      const key = `${addressOf(one.master)} ${one.epoch}`;
      words.set(key, { ...one, votes: (words.get(key)?.votes ?? 0) + 1 });
    }
    return [...words.values()]
      .toSorted((a, b) => b.epoch - a.epoch || b.votes - a.votes)
      .map(({ votes, ...one }) => ({ ...one, isAgreed: votes * 2 > this.#listed.length }));
  }

  async #ask({ host, port }: Endpoint, ms: number, signal: AbortSignal): Promise<Told> {
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
      // In this order: a failover between the two makes the answer look older than it is, and never newer.
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
      // ioredis says "Connection is closed."; why it closed came as an error event.
      throw cause ?? error;
    } finally {
      await wire.cut();
    }
  }

  /** In the order of the list. */
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
      (error, i) => `${addressOf(this.#listed[i]!)} ${foreignWord(error) ?? errorReason(error)}`,
    );
    const unknown = new Error(`no sentinel tells where "${this.#redis.sentinelName}" is (${told.join("; ")})`);
    return Object.assign(unknown, { code: "NO_SENTINEL" });
  }
}

type Told = Omit<Word, "isAgreed">;

const all = new WeakMap<readonly Endpoint[], Sentinels>();
