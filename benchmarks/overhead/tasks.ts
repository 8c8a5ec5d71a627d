import { getHeapStatistics } from "node:v8";
import { acquireChannel, executionChannel, leaseChannel } from "../../src/core/channels.js";
import { Deadlines, monotonic } from "../../src/core/clock.js";
import { Ledger } from "../../src/link/ledger.js";

const COMMAND_TIMEOUT_MS = 5_000;

const row = new Ledger(1).row(0);
const deadlines = new Deadlines({ expire: () => Infinity, graceMs: COMMAND_TIMEOUT_MS, isRef: false });

let listeners = 0;

/** The parts of what redthread does for each task. */
const PIECES: Readonly<Record<string, () => void>> = {
  "an empty call": () => undefined,
  "ledger: three counters": () => {
    row.add("messagesRead", 1);
    row.add("acquires", 1);
    row.add("cacheHits", 1);
  },
  "deadlines: two commands": () => {
    deadlines.arm(monotonic() + COMMAND_TIMEOUT_MS);
    deadlines.arm(monotonic() + COMMAND_TIMEOUT_MS);
  },
  // The same by hand, for two commands.
  "two setTimeout and clearTimeout": () => {
    clearTimeout(setTimeout(noop, COMMAND_TIMEOUT_MS));
    clearTimeout(setTimeout(noop, COMMAND_TIMEOUT_MS));
  },
  "channels nobody listens to: task, acquire, lease": () => {
    listeners += Number(executionChannel.hasSubscribers);
    listeners += Number(acquireChannel.hasSubscribers);
    listeners += Number(leaseChannel.hasSubscribers);
  },
  "heap size, once per message of results": () => {
    row.set("heapMb", getHeapStatistics().used_heap_size / 2 ** 20);
  },
};

/** Nanoseconds per call. */
export async function overhead({ piece, calls }: { piece: string; calls: number }): Promise<number> {
  const call = PIECES[piece]!;
  const startedAt = process.hrtime.bigint();
  for (let i = 0; i < calls; i++) call();
  const ns = Number(process.hrtime.bigint() - startedAt) / calls;
  deadlines.stop();
  return ns;
}

export async function pieces(): Promise<string[]> {
  return Object.keys(PIECES);
}

function noop(): void {}
