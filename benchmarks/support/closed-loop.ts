export interface Rate extends Record<string, number> {
  readonly tasksPerSecond: number;
  /** µs, of all threads of the process. */
  readonly cpuPerTask: number;
}

export interface ClosedLoop<Input> {
  /** Each waits for its task before it takes the next. */
  readonly callers: number;
  /** Before what counts: until caches, cores and callers have found their step. */
  readonly leadMs: number;
  /** At least so long, and at least a task for each caller. */
  readonly ms: number;
  readonly next: () => Input;
  readonly drive: (inputs: Iterable<Input>, callers: number) => Promise<void>;
}

/** What was done until then. */
interface Mark {
  readonly tasks: number;
  readonly ms: number;
  readonly cpu: number;
}

/**
 * From one task that is taken to another: what is under way at either end weighs the same, and neither the first tasks of
 * callers that come all at once count, nor the last ones, of callers that have become few.
 */
export async function closedLoop<Input>({ callers, leadMs, ms, next, drive }: ClosedLoop<Input>): Promise<Rate> {
  let tasks = 0;
  const mark = (): Mark => {
    const { user, system } = process.cpuUsage(); // of all threads
    return { tasks, ms: performance.now(), cpu: user + system };
  };
  const { ms: startedAt } = mark();
  let from: Mark | undefined;
  let to: Mark | undefined;
  function* inputs(): Generator<Input> {
    while (!to) {
      const now = performance.now();
      if (from && tasks - from.tasks >= callers && now >= from.ms + ms) to = mark();
      else {
        if (!from && tasks >= callers && now >= startedAt + leadMs) from = mark();
        tasks++;
        yield next();
      }
    }
  }
  await drive(inputs(), callers);
  const count = to!.tasks - from!.tasks;
  return { tasksPerSecond: (1_000 * count) / (to!.ms - from!.ms), cpuPerTask: (to!.cpu - from!.cpu) / count };
}
