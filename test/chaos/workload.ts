import { ConnectionManager } from "../../src/index.js";
import type * as Tasks from "../fixtures/chaos-tasks.js";
import { fixture } from "../support/manage.js";
import { silent } from "../support/silent.js";
import { type Field, oneOf, pause } from "./field.js";
import { Listener } from "./listeners.js";
import { Writes } from "./writes.js";

type Manager = ConnectionManager<typeof Tasks>;

const CALLERS = 8;
const BETWEEN_CALLS_MS = 10;
/** Longer than all deadlines of the manager together, on a busy machine: a longer call hangs. */
const HANG_MS = 45_000;

/** Callers of a manager that go on whatever happens. */
export class Workload {
  readonly writes = new Writes();
  readonly hung: string[] = [];
  readonly manager: Manager;
  readonly listeners: readonly Listener[];
  reads = { answered: 0, failed: 0 };
  slowestMs = 0;
  readonly #random: () => number;
  #callers: Promise<void>[] = [];
  #calls = 0;
  #isOver = false;

  constructor(field: Field, isCluster: boolean, random: () => number) {
    this.#random = random;
    this.manager = new ConnectionManager<typeof Tasks>({
      tasks: fixture("chaos-tasks"),
      env: {},
      logger: silent,
      redis: {
        ...field.redis,
        ...(isCluster && { readFrom: "replica" as const }),
        commandTimeoutMs: 3_000,
        connectTimeoutMs: 1_000,
        heartbeatMs: 1_000,
      },
      threads: { count: 2, startTimeoutMs: 60_000 },
      dedicated: { max: 3, acquireTimeoutMs: 6_000 },
      connections: { max: 64 },
    });
    const kinds = isCluster ? [false, false, true, true, true] : [false, false];
    this.listeners = kinds.map((isSharded, i) => new Listener(field, `news:${i}`, isSharded));
  }

  async start(): Promise<void> {
    await this.manager.ready();
    for (const listener of this.listeners) await listener.start(this.manager as never);
    this.#callers = Array.from({ length: CALLERS }, () => this.#call());
  }

  /** The losses of the subscriptions, after all calls have settled. */
  async stop(): Promise<string[]> {
    this.#isOver = true;
    await Promise.all(this.#callers);
    return (await Promise.all(this.listeners.map((listener) => listener.stop()))).flat();
  }

  async #call(): Promise<void> {
    while (!this.#isOver) {
      const key = `{w:${++this.#calls}}`;
      const how = oneOf(HOW, this.#random);
      const calledAt = performance.now();
      const isHung = await Promise.race([this[how](key).then(() => false), later(HANG_MS)]);
      if (isHung) this.hung.push(`${how} ${key}`);
      this.slowestMs = Math.max(this.slowestMs, performance.now() - calledAt);
      await pause(BETWEEN_CALLS_MS);
    }
  }

  async read(key: string): Promise<void> {
    const earlier = key.replace(/\d+/, (n) => String(Math.max(1, Number(n) - 100)));
    await this.manager.run("get", earlier).then(
      () => this.reads.answered++,
      (error: unknown) => {
        this.reads.failed++;
        this.writes.failedRead(error);
      },
    );
  }

  async inThread(key: string): Promise<void> {
    await this.#written(key, () => this.manager.run("incr", key));
  }

  async blocking(key: string): Promise<void> {
    await this.#written(key, () => this.manager.run("incrBlocking", key));
  }

  async onMain(key: string): Promise<void> {
    await this.#written(key, async () => void (await (await this.manager.getRedis()).incr(key)));
  }

  async replicated(key: string): Promise<void> {
    await this.#written(key, () => this.manager.run("incrReplicated", key));
  }

  async watched(key: string): Promise<void> {
    try {
      if (await this.manager.run("incrWatched", key)) this.writes.acknowledged(key);
      else this.writes.refused(key);
    } catch (error) {
      this.writes.failed(key, error);
    }
  }

  async piped(key: string): Promise<void> {
    const keys = ["a", "b", "c"].map((suffix) => key + suffix);
    try {
      const errors = await this.manager.run("incrPiped", keys);
      for (const [i, error] of errors.entries()) {
        if (error === undefined) this.writes.acknowledged(keys[i]!);
        else this.writes.failed(keys[i]!, error);
      }
    } catch (error) {
      for (const one of keys) this.writes.failed(one, error);
    }
  }

  async #written(key: string, write: () => Promise<number | void>): Promise<void> {
    try {
      this.writes.acknowledged(key, (await write()) ?? 0);
    } catch (error) {
      this.writes.failed(key, error);
    }
  }
}

const HOW = [
  "inThread",
  "inThread",
  "onMain",
  "blocking",
  "replicated",
  "replicated",
  "watched",
  "piped",
  "read",
  "read",
] as const;

function later(ms: number): Promise<boolean> {
  return new Promise((resolve) => setTimeout(resolve, ms, true).unref());
}
