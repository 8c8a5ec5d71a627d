import type { Redis } from "ioredis";

const SAMPLE_MS = 100;

/** Watches the server's own counters. */
export class ConnectRate {
  most = 0;
  mostPerSecond = 0;
  readonly #admin: Redis;
  readonly #timer: NodeJS.Timeout;
  #first: number | undefined;
  #last = 0;
  #lastAt = 0;

  constructor(admin: Redis) {
    this.#admin = admin;
    this.#timer = setInterval(() => void this.#sample(), SAMPLE_MS);
  }

  /** Ends it; connects since it began. */
  async stop(): Promise<number> {
    clearInterval(this.#timer);
    await this.#sample();
    return this.#last - this.#first!;
  }

  async #sample(): Promise<void> {
    const info = await this.#admin.info();
    const received = fieldOf(info, "total_connections_received");
    const now = performance.now();
    this.most = Math.max(this.most, fieldOf(info, "connected_clients") - 1); // the observer
    if (this.#first === undefined) this.#first = received;
    else this.mostPerSecond = Math.max(this.mostPerSecond, (1_000 * (received - this.#last)) / (now - this.#lastAt));
    this.#last = received;
    this.#lastAt = now;
  }
}

function fieldOf(info: string, name: string): number {
  return Number(new RegExp(`^${name}:(\\d+)`, "m").exec(info)?.[1]);
}
