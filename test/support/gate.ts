export interface Gate<T = void> {
  readonly promise: Promise<T>;
  open(value: T): void;
}

/** Holds a test, or a fake, at a chosen point until `open` is called; then it stays open. */
export function gate<T = void>(): Gate<T> {
  let open!: (value: T) => void;
  const promise = new Promise<T>((resolve) => {
    open = resolve;
  });
  return { promise, open };
}

const POLL_MS = 10;

/**
 * Tries `assertion` until it neither throws nor returns false, and returns its value. The deadline only turns a hang
 * into a failure with a name.
 */
export async function eventually<T>(
  assertion: () => T | false | Promise<T | false>,
  deadlineMs = 5_000,
  awaited = assertion.toString(),
): Promise<T> {
  const deadline = performance.now() + deadlineMs;
  let last: unknown;
  for (;;) {
    try {
      const value = await by(deadline, assertion);
      if (value !== false) return value;
      last = undefined;
    } catch (error) {
      last = error;
    }
    if (performance.now() >= deadline) {
      const why = last instanceof Error ? `\nlast failure: ${last.message}` : "";
      throw new Error(`not within ${deadlineMs} ms: ${awaited}${why}`, { cause: last });
    }
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}

async function by<T>(deadline: number, assertion: () => T | Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error("the assertion itself did not settle")), deadline - performance.now());
  });
  try {
    return await Promise.race([assertion(), late]);
  } finally {
    clearTimeout(timer);
  }
}
