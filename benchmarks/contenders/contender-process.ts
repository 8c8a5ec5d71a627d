import type { Redis } from "ioredis";
import type { Build } from "../support/build.js";
import type { Rate } from "../support/closed-loop.js";
import { OwnProcess } from "../support/own-process.js";
import type { ByHandOptions } from "./by-hand.js";
import type { ContenderName } from "./roster.js";

/** Callers that each wait for theirs before they take the next. */
export interface ClosedLoad {
  readonly callers: number;
  /** As in `Item`. */
  readonly rounds: number;
  /** Before what counts: until caches, cores and callers have found their step. Default 0. */
  readonly leadMs?: number;
  /** At least so long, and at least a task for each caller. */
  readonly ms: number;
}

/** Tasks that come when they come. */
export interface OpenLoad {
  readonly perSecond: number;
  readonly rounds: number;
  readonly ms: number;
  /** Of the arrivals. */
  readonly seed: number;
}

export interface ContenderInput extends ByHandOptions {
  readonly contender: ContenderName;
  /** There are values of 4 kB at `bench:0` to one less. */
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

/** Those of ours once with each build, all others once. */
export function candidatesOf(
  contenders: readonly ContenderName[],
  [today, ...others]: readonly [Build, ...Build[]],
): Candidate[] {
  return contenders.flatMap((contender) => {
    const builds = contender.startsWith("redthread") ? [today, ...others] : [today];
    return builds.map((build) => ({ ...build.named(contender), contender, build }));
  });
}

/** What the tasks of all contenders read. */
export async function fillKeys(redis: Redis): Promise<void> {
  for (let i = 0; i < KEYS; i++) await redis.set(`bench:${i}`, "x".repeat(4_096));
}

/**
 * A contender alone in a process, as in a service: beside others it ran code that the compiler had seen less of, and two
 * with the same code differ by a tenth for as long as their process lives.
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

  /** In ms, each from when its task was due. */
  async latencies(load: OpenLoad): Promise<readonly number[]> {
    return (await this.ask(load)) as readonly number[];
  }
}
