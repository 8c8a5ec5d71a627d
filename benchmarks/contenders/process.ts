import type { Redis } from "ioredis";
import type { Build } from "../support/build.js";
import type { Rate } from "../support/loops.js";
import { OwnProcess } from "../support/own-process.js";
import type { ContenderOptions } from "./contender.js";
import type { ContenderName } from "./roster.js";

/** Callers that each wait for their task before they start the next. */
export interface ClosedLoad {
  readonly callers: number;
  /** As in `Item`. */
  readonly rounds: number;
  /** The time before the measurement, in which caches, cores and callers settle. Default 0. */
  readonly leadMs?: number;
  /** At least so long, and at least a task for each caller. */
  readonly ms: number;
}

/** Tasks that arrive at a rate, whether earlier ones are done or not. */
export interface OpenLoad {
  readonly perSecond: number;
  readonly rounds: number;
  readonly ms: number;
  /** Seeds the times of arrival. */
  readonly seed: number;
}

export interface ContenderInput extends ContenderOptions {
  readonly contender: ContenderName;
  /** So many keys, from `bench:0` on, have values of 4 kB. */
  readonly keys: number;
}

const THREADS = 2;
export const KEYS = 256;

/** A contender, and the build of redthread that it loads. */
export interface Candidate {
  readonly name: string;
  readonly twinOf?: string;
  readonly contender: ContenderName;
  readonly build: Build;
}

/** Each contender that uses redthread once with each build, the others once. */
export function candidatesOf(
  contenders: readonly ContenderName[],
  [today, ...others]: readonly [Build, ...Build[]],
): Candidate[] {
  return contenders.flatMap((contender) => {
    const builds = contender.startsWith("redthread") ? [today, ...others] : [today];
    return builds.map((build) => ({ ...build.named(contender), contender, build }));
  });
}

/** Sets what the tasks of all contenders read. */
export async function fillKeys(redis: Redis): Promise<void> {
  for (let i = 0; i < KEYS; i++) await redis.set(`bench:${i}`, "x".repeat(4_096));
}

/**
 * A contender alone in a process, as in a service. Several in one process would not be equal: each would run code that
 * the compiler has seen less of, and two with the same code differ by a tenth for as long as their process lives.
 */
export class ContenderProcess extends OwnProcess<ClosedLoad | OpenLoad, Rate | readonly number[]> {
  readonly name: string;

  constructor({ name, contender, build }: Candidate, port: number) {
    const input: ContenderInput = { contender, port, threads: THREADS, keys: KEYS };
    super(build.script("contenders/serve.js"), input);
    this.name = name;
  }

  async rate(load: ClosedLoad): Promise<Rate> {
    return (await this.ask(load)) as Rate;
  }

  /** In ms, each from the time when its task was due. */
  async latencies(load: OpenLoad): Promise<readonly number[]> {
    return (await this.ask(load)) as readonly number[];
  }
}
