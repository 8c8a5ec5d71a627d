/** Blocks this thread's loop like a task that computes, but parked, so that other tests can use the CPU. */
export function block(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
}

/**
 * Blocks in the check phase of this turn, after the calls of this turn were written; resolves after the block. If it
 * began in a timer, the sockets would be polled before the next timers, and the test would prove nothing.
 */
export function blockLater(ms: number): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(() => {
      block(ms);
      resolve();
    });
  });
}
