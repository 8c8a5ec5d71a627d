import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import type { NearNews, NearOrder, NearProgramOptions } from "../fixtures/near-program.js";
import { fixture } from "./manage.js";
import { NearFaults } from "./near-faults.js";
import { type NearKey, NEAR_PREFIX, nearKeys } from "./near-values.js";
import { NearWriter } from "./near-writer.js";
import { Proxy, startProxy } from "./proxy.js";
import { type RedisServer, startRedis } from "./redis-server.js";
import { seeded } from "./seeded.js";

export interface NearRunOptions {
  readonly seed: number;
  readonly seconds: number;
  readonly maxStaleMs: number;
}

/** What came of a run: its counts, the oldest value in ms, and what contradicts the promise. */
export interface NearRunResult {
  readonly counts: Readonly<Record<string, number>>;
  readonly oldestMs: number;
  readonly problems: readonly string[];
}

const KEYS = 45;
const THREADS = 3;
const WRITES_PER_SECOND = 2_000;
const WRITE_EVERY_MS = 4;

/** A process with a near cache and two servers behind a proxy, all of which suffer faults. */
export interface NearWorld {
  readonly keys: readonly NearKey[];
  readonly servers: readonly RedisServer[];
  readonly writers: readonly NearWriter[];
  readonly proxy: Proxy;
  readonly random: () => number;
  /** To the process. */
  readonly order: (order: NearOrder) => void;
  /** The server that the proxy leads to, and when all other connections were cut. */
  readonly moves: { readonly server: number; readonly at: number }[];
}

/** Reads through a near cache while another process writes and faults come at random. Nothing may be older than promised. */
export async function runNear({ seed, seconds, maxStaleMs }: NearRunOptions): Promise<NearRunResult> {
  const random = seeded(seed);
  const keys = nearKeys(KEYS);
  const most = Math.ceil(seconds * WRITES_PER_SECOND) + 2 * KEYS;
  const numbers = { next: 1, most };
  await using first = await startRedis(SERVER);
  await using second = await startRedis(SERVER);
  await using proxy = await startProxy(first.port);
  const servers = [first, second];
  const writers = servers.map(({ port }, server) => new NearWriter(port, server, keys, numbers));
  await Promise.all(writers.map((writer) => writer.writeAll()));
  const child = await start({ options: optionsOf(proxy, maxStaleMs), keys: KEYS, writes: most, seed });
  const moves = [{ server: 0, at: 0 }];
  const order = (one: NearOrder): void => void child.send(one);
  const faults = new NearFaults({ keys, servers, writers, proxy, random, order, moves });
  const endAt = performance.now() + seconds * 1_000;
  const writing = writeUntil(endAt, writers, moves, random);
  await faults.disturbUntil(endAt);
  await writing;
  const over = news(child, "over");
  order({ do: "stop" });
  const { seen, peeked, nulls, counts, problems } = await over;
  for (const writer of writers) writer.close();
  const verdict = new Verdict({ writers, keys, moves, maxStaleMs });
  verdict.judgeAges(seen);
  verdict.judgeServers(peeked);
  verdict.judgeNulls(nulls);
  return {
    counts: { ...counts, ...faults.counts, writes: numbers.next },
    oldestMs: verdict.oldestMs,
    problems: [...problems, ...verdict.problems],
  };
}

const SERVER = { args: ["--busy-reply-threshold", "50", "--enable-debug-command", "local"] };

function optionsOf({ port }: Proxy, maxStaleMs: number): NearProgramOptions["options"] {
  return {
    redis: {
      port,
      connectTimeoutMs: 500,
      commandTimeoutMs: 500,
      heartbeatMs: 500,
      resend: maxStaleMs < 100 ? "readonly" : "never",
    },
    retry: { baseDelayMs: 5, maxDelayMs: 50 },
    threads: { count: THREADS, startTimeoutMs: 30_000, maxTasks: 40 },
    nearCache: {
      prefixes: [NEAR_PREFIX],
      maxBytes: (2 * THREADS + 2) * 16 * 48 * 1_024,
      maxValueBytes: 48 * 1_024,
      ownTableBytes: maxStaleMs < 100 ? 200_000 : 40_000,
      maxStaleMs,
    },
  };
}

async function start(options: NearProgramOptions): Promise<ChildProcess> {
  const file = fileURLToPath(fixture("near-program"));
  const child = fork(file, [JSON.stringify(options)], { serialization: "advanced" });
  await news(child, "ready");
  return child;
}

async function news<Is extends NearNews["is"]>(child: ChildProcess, is: Is): Promise<Extract<NearNews, { is: Is }>> {
  const ended = once(child, "exit").then(([code, signal]) => {
    throw new Error(`the process with the near cache ended: ${code ?? signal}`);
  });
  ended.catch(() => {});
  for (;;) {
    const [told] = (await Promise.race([once(child, "message"), ended])) as [NearNews];
    if (told.is === is) return told as Extract<NearNews, { is: Is }>;
  }
}

/** Mostly to the server that the process is led to. */
async function writeUntil(
  endAt: number,
  writers: readonly NearWriter[],
  moves: NearWorld["moves"],
  random: () => number,
): Promise<void> {
  while (performance.now() < endAt) {
    const current = moves.at(-1)!.server;
    for (let i = 0; i < (WRITES_PER_SECOND * WRITE_EVERY_MS) / 2_000; i++) {
      const server = random() < 0.8 ? current : 1 - current;
      const life = random() < 0.02 ? 20 + Math.floor(random() * 400) : undefined;
      const index = Math.floor(random() * KEYS);
      // Of these keys an old value would stay for long, because the next write does not soon drop it.
      if (index % 2 === 1 && random() < 0.97) continue;
      void writers[server]!.write(index, life);
    }
    await new Promise((resolve) => setTimeout(resolve, WRITE_EVERY_MS));
  }
}

interface Evidence {
  readonly writers: readonly NearWriter[];
  readonly keys: readonly NearKey[];
  readonly moves: NearWorld["moves"];
  readonly maxStaleMs: number;
}

/** Compares what was read with what was written. */
class Verdict {
  readonly problems: string[] = [];
  oldestMs = 0;
  readonly #evidence: Evidence;

  constructor(evidence: Evidence) {
    this.#evidence = evidence;
  }

  /** By the number of a write: when the last read began that saw its value. */
  judgeAges(seen: BigInt64Array): void {
    const { writers, maxStaleMs } = this.#evidence;
    for (const { endedAt } of writers)
      for (const [write, at] of endedAt) {
        if (seen[write] === 0n) continue;
        const ageMs = (Number(seen[write]) - at) / 1e6;
        this.oldestMs = Math.max(this.oldestMs, ageMs);
        if (ageMs > maxStaleMs) this.problems.push(`write ${write}: read ${ageMs} ms after it was replaced`);
      }
  }

  /** Once all connections have left a server, its values count as replaced. `peeked`: as above, for what came from memory. */
  judgeServers(peeked: BigInt64Array): void {
    const { writers, moves, maxStaleMs } = this.#evidence;
    for (const [server, { endedAt }] of writers.entries())
      for (const write of endedAt.keys()) {
        const last = Number(peeked[write]);
        if (last === 0) continue;
        const move = moves.findLast(({ at }) => at < last)!;
        const afterMs = (last - move.at) / 1e6;
        if (move.server !== server && afterMs > maxStaleMs)
          this.problems.push(`write ${write}: read ${afterMs} ms after all connections had left its server`);
      }
  }

  /** Pairs: a key's index, and when a read began that found no value. */
  judgeNulls(nulls: BigInt64Array): void {
    const { writers, keys, maxStaleMs } = this.#evidence;
    for (let i = 0; i < nulls.length; i += 2) {
      const [index, began] = [Number(nulls[i]), Number(nulls[i + 1])];
      if (index >= keys.length || began === 0) continue;
      const isRight = writers.some(({ gaps }) =>
        gaps[index]!.some(({ from, until }) => from <= began + 1e9 && began <= until + maxStaleMs * 1e6),
      );
      if (!isRight) this.problems.push(`${keys[index]!.name}: no value, at ${began}, though it had one`);
    }
  }
}
