import { connect, disconnect } from "../../src/index.js";
import { type Fault, type Field, oneOf, pause } from "./field.js";

interface Setup {
  readonly field: Field;
  readonly faults: readonly Fault[];
  readonly random: () => number;
  readonly runs: number;
}

type Incr = (key: string) => Promise<unknown>;

const CALLERS = 4;
const BETWEEN_CALLS_MS = 2;
const CALM_MS = 500;
/** Recorded for a client that has no answer by then. */
const AT_MOST_MS = 30_000;

/** For each fault the medians of the longest gaps, of both clients at once, so that both meet the very same fault. */
export async function beside({ field, faults, random, runs }: Setup): Promise<string[]> {
  const lines = ["| fault | runs | redthread, ms | ioredis, ms |", "| --- | --- | --- | --- |"];
  for (const fault of faults) {
    const gaps: (readonly [number, number])[] = [];
    for (let run = 0; run < runs; run++) {
      gaps.push(await once(field, fault, random));
      console.log(`${fault.name} ${run + 1}: redthread ${gaps[run]![0]}, ioredis ${gaps[run]![1]}`);
    }
    lines.push(`| ${fault.name} | ${runs} | ${median(gaps.map(([a]) => a))} | ${median(gaps.map(([, b]) => b))} |`);
  }
  return lines;
}

async function once(field: Field, fault: Fault, random: () => number): Promise<readonly [number, number]> {
  await field.settled();
  const shard = oneOf(await field.shards(), random);
  const ours = await connect({ env: {}, redis: field.redis });
  const plain = field.plainClient();
  const key = field.keyOn(shard, `beside:${Math.floor(random() * 1e9)}`);
  const probes = [new Probe((one) => ours.incr(one), key), new Probe((one) => plain.incr(one), key)] as const;
  await Promise.all(probes.map((probe) => probe.answers()));
  await pause(CALM_MS);
  for (const probe of probes) probe.begin();
  await fault.provoke(shard, random);
  await field.settled();
  await Promise.all(probes.map((probe) => probe.answers()));
  await pause(CALM_MS);
  const gaps = [probes[0].end(), probes[1].end()] as const;
  await disconnect(ours);
  plain.disconnect();
  return gaps;
}

/** Callers of one key; each calls again when its call has settled. */
class Probe {
  readonly #incr: Incr;
  readonly #key: string;
  #isOver = false;
  #lastAt = performance.now();
  #answered = 0;
  #longestMs = 0;

  constructor(incr: Incr, key: string) {
    this.#incr = incr;
    this.#key = key;
    for (let i = 0; i < CALLERS; i++) void this.#call();
  }

  begin(): void {
    this.#longestMs = 0;
  }

  end(): number {
    this.#isOver = true;
    return Math.round(this.#longestMs);
  }

  /** Waits for an answer from now on. */
  async answers(): Promise<void> {
    const from = this.#answered;
    const until = performance.now() + AT_MOST_MS;
    while (this.#answered === from && performance.now() < until) await pause(5);
    if (this.#answered === from) this.#longestMs = AT_MOST_MS;
  }

  async #call(): Promise<void> {
    while (!this.#isOver) {
      try {
        await this.#incr(this.#key);
        const now = performance.now();
        this.#longestMs = Math.max(this.#longestMs, now - this.#lastAt);
        this.#lastAt = now;
        this.#answered++;
      } catch {
        // No answer: the gap goes on.
      }
      await pause(BETWEEN_CALLS_MS);
    }
  }
}

function median(numbers: readonly number[]): number {
  return numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)]!;
}
