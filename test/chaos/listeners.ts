import type { ConnectionManager } from "../../src/index.js";
import { eventually } from "../support/gate.js";
import type { RedisServer } from "../support/redis-server.js";
import { type Field, pause } from "./field.js";

interface Published {
  readonly at: number;
  /** The server wrote it to a subscribed connection: either it arrives, or a gap is reported. */
  isOwed: boolean;
}

type Heard = { readonly message: number } | { readonly gapAt: number };

const EVERY_MS = 20;
const HEARS_AGAIN_MS = 20_000;
/** A server writes to a lost connection until it notices the loss. */
const GONE_MS = 500;

/** One subscription and the messages published for it, node by node. */
export class Listener {
  readonly channel: string;
  readonly #field: Field;
  readonly #isSharded: boolean;
  readonly #published = new Map<number, Published>();
  readonly #heard: Heard[] = [];
  #last = 0;
  #isOver = false;
  #publishing: Promise<void> | undefined;

  constructor(field: Field, channel: string, isSharded: boolean) {
    this.#field = field;
    this.channel = channel;
    this.#isSharded = isSharded;
  }

  async start(manager: ConnectionManager<never>): Promise<void> {
    await manager.subscribe(this.channel, (message) => this.#heard.push({ message: Number(message) }), {
      sharded: this.#isSharded,
      onGap: () => this.#heard.push({ gapAt: performance.now() }),
    });
    this.#publishing = this.#publishOn();
  }

  /** Stops publishing when the subscription receives again. */
  async stop(): Promise<string[]> {
    const from = this.#last;
    const hearsAgain = (): boolean => this.#heard.some((one) => "message" in one && one.message > from);
    const problems: string[] = [];
    await eventually(hearsAgain, HEARS_AGAIN_MS).catch(() => problems.push(`${this.channel} hears nothing any more`));
    this.#isOver = true;
    await this.#publishing;
    await pause(GONE_MS); // for messages that are still to arrive
    return [...problems, ...this.#lost()];
  }

  summary(): string {
    const owed = [...this.#published.values()].filter(({ isOwed }) => isOwed).length;
    const gaps = this.#heard.filter((one) => "gapAt" in one).length;
    return `${owed} owed, ${this.#heard.length - gaps} heard, ${gaps} gaps`;
  }

  async #publishOn(): Promise<void> {
    while (!this.#isOver) {
      for (const node of this.#field.nodes) {
        if (!this.#isSound(node)) continue;
        await this.#publish(node);
      }
      await pause(EVERY_MS);
    }
  }

  async #publish(node: RedisServer): Promise<void> {
    const message = ++this.#last;
    const published = { at: performance.now(), isOwed: false };
    this.#published.set(message, published);
    const receivers = node.admin.call(this.#isSharded ? "SPUBLISH" : "PUBLISH", this.channel, String(message));
    // A node that is frozen or dead now answers much later, and its messages do not count.
    const answer = await Promise.race([receivers.catch(() => 0), pause(1_000)]);
    published.isOwed = Number(answer ?? 0) > 0 && this.#isSound(node);
  }

  #isSound(node: RedisServer): boolean {
    return node.isRunning && !this.#field.trouble.has(node);
  }

  /** Between a missed message and the next one that arrives, a gap must have been reported. */
  #lost(): string[] {
    const lost: string[] = [];
    let expected = 1;
    let gapAt = -Infinity;
    for (const one of this.#heard) {
      if ("gapAt" in one) {
        gapAt = one.gapAt;
        continue;
      }
      const { message } = one;
      if (!this.#published.get(message)?.isOwed || message < expected) continue;
      for (let missed = expected; missed < message; missed++) {
        const { isOwed, at } = this.#published.get(missed)!;
        if (isOwed && at > gapAt + GONE_MS) lost.push(`${this.channel}: message ${missed} at ${Math.round(at)} ms`);
      }
      expected = message + 1;
    }
    return lost;
  }
}
