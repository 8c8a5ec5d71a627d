import type { TestContext } from "node:test";
import { setImmediate as turn } from "node:timers/promises";
import { ClientPool, type PoolFactory, type PoolOptions } from "../../src/pool/pool.js";
import { eventually, gate } from "./gate.js";

/** The result of `fn` with a client of the pool. */
export async function use<T, R>(pool: ClientPool<T>, fn: (client: T) => Promise<R>, signal?: AbortSignal): Promise<R> {
  await using lease = await pool.acquire(signal);
  return await fn(lease.client);
}

export class Fake {
  readonly id: number;
  isAlive = true;
  isClosed = false;
  constructor(id: number) {
    this.id = id;
  }
}

/** Clients without faults, until a test replaces one of the steps. */
export class Fakes implements PoolFactory<Fake> {
  readonly opened: Fake[] = [];
  dials = 0;
  peak = 0;
  onOpen: (dial: number, signal: AbortSignal) => unknown = () => undefined;
  onCheck: (client: Fake) => any = () => true;
  onReset: (client: Fake, isAwaited: boolean) => any = () => true;
  onClose: (client: Fake) => unknown = () => undefined;
  onIsAlive: (client: Fake) => boolean = (client) => client.isAlive;

  get living(): Fake[] {
    return this.opened.filter((client) => !client.isClosed);
  }

  // Not async, so that an exception of a hook is thrown.
  open(signal: AbortSignal): Promise<Fake> {
    this.dials++;
    // A pool that dials without a pause would starve the event loop, and the test could not fail.
    if (this.dials > 2_000) return gate<Fake>().promise;
    return this.#made(this.onOpen(this.dials, signal));
  }

  isAlive(client: Fake): boolean {
    return this.onIsAlive(client);
  }

  check(client: Fake): Promise<boolean> {
    return this.onCheck(client);
  }

  reset(client: Fake, isAwaited: boolean): Promise<boolean> {
    return this.onReset(client, isAwaited);
  }

  close(client: Fake): Promise<void> {
    return this.#closed(client, this.onClose(client));
  }

  async #made(opening: unknown): Promise<Fake> {
    await opening;
    const client = new Fake(this.opened.length + 1);
    this.opened.push(client);
    this.peak = Math.max(this.peak, this.living.length);
    return client;
  }

  async #closed(client: Fake, closing: unknown): Promise<void> {
    await closing;
    client.isClosed = true;
  }
}

export interface FakePool {
  readonly pool: ClientPool<Fake>;
  readonly fakes: Fakes;
  readonly clock: { ms: number };
}

/** A pool of fakes on a clock that only the test moves. After the test the pool is closed, and no client may be left. */
export function poolOf(t: TestContext, overrides: Partial<PoolOptions> = {}): FakePool {
  const fakes = new Fakes();
  const clock = { ms: 0 };
  const pool = new ClientPool<Fake>(fakes, {
    name: "fake",
    max: 4,
    acquireTimeoutMs: 5_000,
    idleTimeoutMs: 600_000,
    maxLifetimeMs: 1_800_000,
    idleCheckMs: 500,
    retry: { baseDelayMs: 5, maxDelayMs: 5 },
    now: () => clock.ms,
    random: () => 1,
    ...overrides,
  });
  t.after(async () => {
    fakes.onClose = () => undefined;
    const closed = pool.close(0).then(() => true);
    await eventually(() => closed, 5_000, "the pool is closed");
    await eventually(() => fakes.living.length === 0, 5_000, "every client that was opened is closed");
  });
  return { pool, fakes, clock };
}

export async function turns(count = 20): Promise<void> {
  for (let i = 0; i < count; i++) await turn();
}

/** A function that lets time pass: without it no timer fires. */
export function stopTimers(t: TestContext, clock: { ms: number }): (ms: number) => Promise<void> {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  return async (ms) => {
    await turns();
    clock.ms += ms;
    t.mock.timers.tick(ms);
    await turns();
  };
}
