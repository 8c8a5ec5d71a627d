/** For this thread's loop the same as a task heavy on CPU; parked, and so the tests beside this one have their CPU. */
export function block(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
}

/**
 * Blocks in the check phase of this turn, when what was called has been written; resolves after it. Begun in a timer, a
 * block would leave the sockets their poll before the next timers, and prove nothing.
 */
export function blockLater(ms: number): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(() => {
      block(ms);
      resolve();
    });
  });
}
