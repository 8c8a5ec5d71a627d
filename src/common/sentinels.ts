import type { ConnectionOptions } from "node:tls";
import { translated } from "./endpoint.js";
import { AuthFailedError } from "./errors.js";
import { Wire } from "./handle.js";
import { errorReason } from "./log.js";
import type { Endpoint, RedisConfig } from "./options.js";
import { isAuthReply, isReplyError, replyCode } from "./replies.js";
import { abortable, monotonic, within } from "./time.js";

/**
 * Who knows where the master is. They are asked one after the other, each on a socket that is gone before the next one
 * is opened: a connection under way never holds more than the one socket it has a permit for.
 */
export class Sentinels {
  readonly #redis: RedisConfig;
  /** Who answered last comes first: a machine that is gone costs its share of the time once, not at every connect. */
  readonly #order: Endpoint[];

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
    this.#order = [...sentinels];
  }

  /** The master at the moment; within `ms`, of which a part is left over if any sentinel answers at all. */
  async master(ms: number, signal: AbortSignal): Promise<Endpoint> {
    const giveUpAt = monotonic() + ms;
    const asked = [...this.#order];
    const failures: SentinelFailure[] = [];
    for (const [i, sentinel] of asked.entries()) {
      // The last share is the master's.
      const shareMs = (giveUpAt - monotonic()) / (asked.length - i + 1);
      try {
        const master = await this.#ask(sentinel, Math.max(shareMs, 1), signal);
        this.#order.sort((a, b) => Number(b === sentinel) - Number(a === sentinel));
        return master;
      } catch (error) {
        signal.throwIfAborted();
        failures.push({ sentinel, error: error as Error });
      }
    }
    throw this.#unknown(failures);
  }

  async #ask({ host, port }: Endpoint, ms: number, signal: AbortSignal): Promise<Endpoint> {
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
    const asking = wire.dial().then(() => wire.own("sentinel", "get-master-addr-by-name", sentinelName!));
    try {
      const address = await abortable(
        within(asking, ms, () => new Error(`no answer within ${Math.round(ms)} ms`)),
        signal,
      );
      if (!Array.isArray(address)) throw new Error(`knows no master "${sentinelName}"`);
      return translated({ host: String(address[0]), port: Number(address[1]) }, this.#redis);
    } catch (error) {
      // ioredis says "Connection is closed."; why it closed came as an error event.
      throw cause ?? error;
    } finally {
      await wire.cut();
    }
  }

  #unknown(failures: readonly SentinelFailure[]): Error {
    const replies = failures.map(({ error }) => error).filter(isReplyError);
    if (replies.length === failures.length && replies.every(isAuthReply)) {
      const reply = replyCode(replies[0]!);
      return new AuthFailedError(
        `every sentinel of "${this.#redis.sentinelName}" refused the credentials (${reply}): ` +
          "check redis.sentinelUsername and redis.sentinelPassword",
        { reply },
      );
    }
    const told = failures.map(({ sentinel, error }) => `${sentinel.host}:${sentinel.port} ${errorReason(error)}`);
    return new Error(`no sentinel tells where "${this.#redis.sentinelName}" is (${told.join("; ")})`);
  }
}

interface SentinelFailure {
  readonly sentinel: Endpoint;
  readonly error: Error;
}

const all = new WeakMap<readonly Endpoint[], Sentinels>();
