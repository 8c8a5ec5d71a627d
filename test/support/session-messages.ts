import type { RedisHandle } from "../../src/commands/ioredis.js";
import { eventually } from "./gate.js";
import { Violation } from "./session-acts.js";
import type { Others } from "./session-others.js";
import type { State } from "./session-server.js";
import { CHANNELS } from "./session-steps.js";

const DEADLINE_MS = 3_000;

/** The messages of subscribers: all that is published to their channels, and nothing else. */
export class Messages {
  /** A client has logged that the server refused one of its own commands, such as subscriptions after a reconnect. */
  hasComplaint = false;
  readonly #others: Others;
  readonly #run: string;
  readonly #shardPrefix: string;
  #heard: string[] = [];
  #published = 0;

  constructor(others: Others, run: string, hasPrefix: boolean) {
    this.#others = others;
    this.#run = run;
    this.#shardPrefix = hasPrefix ? `${run}:` : "";
  }

  /** Subscribes listeners again and again, because the release of a lease removes its listeners. */
  listen(redis: RedisHandle): void {
    for (const [event, listener] of Object.entries(this.#listeners)) redis.off(event, listener).on(event, listener);
  }

  /** Publishes while other things happen. */
  async interrupt(): Promise<void> {
    await Promise.all(CHANNELS.map((channel) => this.#publish(channel, "meanwhile")));
  }

  /** Publishes while nothing else happens; a connection may be in any of these states. */
  async publish(n: number, states: readonly State[]): Promise<void> {
    const channel = CHANNELS[n % CHANNELS.length]!;
    const text = `message ${++this.#published}`;
    const expected = states.map(({ subscribed }) => {
      const name = `${this.#run}:${channel}`;
      const kinds = Object.entries(subscribed).filter(([, channels]) => channels.includes(name));
      return kinds.map(([kind]) => `${kind} ${text}`).toSorted();
    });
    await this.#publish(channel, text);
    const matches = (): boolean => {
      const heard = this.#heard.filter((one) => one.endsWith(text)).toSorted();
      return expected.some((one) => String(one) === String(heard));
    };
    await eventually(matches, DEADLINE_MS, "heard").catch(() => {
      throw new Violation(`heard (${this.#heard.join(", ")}) instead of (${expected.join(" or ")})`);
    });
    await this.#others.pause();
    if (!matches()) throw new Violation(`heard (${this.#heard.join(", ")}) instead of (${expected.join(" or ")})`);
    this.#heard = [];
  }

  readonly #listeners = {
    message: (_channel: string, text: string) => void this.#heard.push(`subscribe ${text}`),
    pmessage: (_pattern: string, _channel: string, text: string) => void this.#heard.push(`psubscribe ${text}`),
    smessage: (_channel: string, text: string) => void this.#heard.push(`ssubscribe ${text}`),
    error: (error: Error) => void (this.hasComplaint ||= error.name === "ReplyError"),
  };

  #publish(channel: string, text: string): Promise<void> {
    const name = `${this.#run}:${channel}`;
    return this.#others.publish(name, this.#shardPrefix + name, text);
  }
}
