import { Redis } from "ioredis";
import { type NearKey, nearBytes } from "./near-values.js";

/** Times are in ns of the monotonic clock, which all processes of the machine share. */
export function nowNs(): number {
  return Number(process.hrtime.bigint());
}

/** When a key may have had no value: from before the command left that took it, until the next write was acknowledged. */
interface Gap {
  readonly from: number;
  until: number;
}

interface Written {
  readonly write: number;
  expiresAt: number;
}

/** The number of the next write, on whatever server. */
export interface Numbers {
  next: number;
  readonly most: number;
}

/**
 * Writes the keys of one server, on one connection that nobody disturbs, and remembers when each value was no longer the server's:
 * when the write that replaced it was acknowledged.
 */
export class NearWriter {
  /** By the number of a write. */
  readonly endedAt = new Map<number, number>();
  readonly gaps: Gap[][];
  readonly redis: Redis;
  readonly #keys: readonly NearKey[];
  readonly #server: number;
  readonly #numbers: Numbers;
  readonly #current: (Written | undefined)[] = [];
  readonly #isBusy: boolean[] = [];

  constructor(port: number, server: number, keys: readonly NearKey[], numbers: Numbers) {
    this.redis = new Redis({ port, maxRetriesPerRequest: null });
    this.#keys = keys;
    this.#server = server;
    this.#numbers = numbers;
    this.gaps = keys.map(() => [{ from: 0, until: Infinity }]);
  }

  async writeAll(): Promise<void> {
    await Promise.all(this.#keys.map((_, index) => this.write(index)));
  }

  /** Nothing if the key's last write is still under way. `ms`: the value's life. */
  async write(index: number, ms?: number): Promise<void> {
    const { next: write, most } = this.#numbers;
    if (this.#isBusy[index] || write >= most) return;
    this.#numbers.next++;
    this.#isBusy[index] = true;
    const sentAt = nowNs();
    const value = nearBytes(this.#keys[index]!, this.#server, write);
    const life = ms === undefined ? [] : ["PX", String(ms)];
    await this.redis.call("SET", this.#keys[index]!.name, value, ...life);
    const at = nowNs();
    this.#isBusy[index] = false;
    this.#end(index, at);
    const gap = this.gaps[index]!.at(-1)!;
    if (gap.until === Infinity) gap.until = at;
    this.#current[index] = { write, expiresAt: ms === undefined ? Infinity : at + ms * 1e6 };
    if (ms !== undefined) this.#openGap(index, sentAt);
  }

  async remove(index: number): Promise<void> {
    const sentAt = nowNs();
    this.#openGap(index, sentAt);
    await this.redis.del(this.#keys[index]!.name);
    this.#end(index, nowNs());
    this.#openGap(index, sentAt); // a write that was sent before may have closed it
  }

  async expire(index: number, ms: number): Promise<void> {
    const sentAt = nowNs();
    this.#openGap(index, sentAt);
    const isSet = await this.redis.pexpire(this.#keys[index]!.name, ms);
    const current = this.#current[index];
    const expiresAt = nowNs() + ms * 1e6;
    if (isSet === 1 && current) current.expiresAt = expiresAt;
    this.#openGap(index, sentAt);
  }

  async flush(): Promise<void> {
    const sentAt = nowNs();
    this.#keys.forEach((_, index) => this.#openGap(index, sentAt));
    await this.redis.flushall();
    const at = nowNs();
    this.#keys.forEach((_, index) => {
      this.#end(index, at);
      this.#openGap(index, sentAt);
    });
  }

  /** What is still current ends only if it has expired. */
  close(): void {
    this.#keys.forEach((_, index) => this.#end(index, Infinity));
    this.redis.disconnect();
  }

  #end(index: number, at: number): void {
    const current = this.#current[index];
    if (current) this.endedAt.set(current.write, Math.min(at, current.expiresAt));
    this.#current[index] = undefined;
  }

  #openGap(index: number, from: number): void {
    const gaps = this.gaps[index]!;
    if (gaps.at(-1)!.until !== Infinity) gaps.push({ from, until: Infinity });
  }
}
