/** Keeps this thread's loop busy, as a task heavy on CPU does. */
export function block(ms: number): void {
  const until = performance.now() + ms;
  while (performance.now() < until);
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
