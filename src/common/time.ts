/** A timer this late means the loop was blocked: what we wait for may be here already, unread. */
const BLOCKED_MS = 20;
/** `setTimeout` fires after 1 ms when asked for more than this. */
const MAX_TIMER_MS = 2 ** 31 - 1;

/** Milliseconds on a clock that never steps back. */
export function monotonic(): number {
  return performance.now();
}

/** Resolves after `ms`; rejects at once with `signal.reason` when aborted. */
export async function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  signal?.throwIfAborted();
  let cancel = noop;
  const slept = new Promise<void>((resolve) => {
    cancel = startTimer(ms, () => resolve());
  });
  await abortable(slept, signal).finally(() => cancel());
}

/**
 * The outcome of `work`, or a rejection with `onTimeout()` after `ms`. A loop that was blocked past the deadline gives
 * the work, whose reply may lie in a socket nobody has read, one more `min(lateness, ms)`, once. The work itself
 * goes on: whoever started it ends it. Its later rejection is not unhandled.
 */
export function within<T>(work: PromiseLike<T>, ms: number, onTimeout: () => Error): Promise<T> {
  let cancel = noop;
  const expired = new Promise<never>((_, reject) => {
    let extended = false;
    const expire = (lateMs: number): void => {
      // Timers run before the loop polls its sockets, an immediate runs after.
      const immediate = setImmediate(() => {
        if (extended || lateMs <= BLOCKED_MS) return reject(onTimeout());
        extended = true;
        cancel = startTimer(Math.min(lateMs, ms), expire);
      });
      cancel = () => clearImmediate(immediate);
    };
    cancel = startTimer(ms, expire);
  });
  return Promise.race([work, expired]).finally(() => cancel());
}

/** The outcome of `work`, or a rejection with `signal.reason` as soon as it is aborted. The work itself goes on. */
export function abortable<T>(work: PromiseLike<T>, signal?: AbortSignal): Promise<T> {
  let unlisten = noop;
  const aborted = new Promise<never>((_, reject) => {
    if (!signal) return;
    const abort = (): void => reject(signal.reason);
    if (signal.aborted) return abort();
    signal.addEventListener("abort", abort, { once: true });
    unlisten = () => signal.removeEventListener("abort", abort);
  });
  // First, so that work which is done already does not hide the abort.
  return Promise.race([aborted, work]).finally(() => unlisten());
}

/** Calls `fire` once after `ms`, telling it how late it is; returns the way to call it off. */
function startTimer(ms: number, fire: (lateMs: number) => void): () => void {
  const due = monotonic() + ms;
  let timer: NodeJS.Timeout;
  const arm = (left: number): void => {
    timer = setTimeout(
      () => (left > MAX_TIMER_MS ? arm(left - MAX_TIMER_MS) : fire(monotonic() - due)),
      Math.min(left, MAX_TIMER_MS),
    );
  };
  arm(ms);
  return () => clearTimeout(timer);
}

function noop(): void {}
