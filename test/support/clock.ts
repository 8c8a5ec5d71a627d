import type { TestContext } from "node:test";

/** Lets the main thread's clock run ahead: what is judged by age is judged as if that time had passed. Timers do not notice. */
export function aheadOfTime(t: TestContext): (ms: number) => void {
  const now = performance.now.bind(performance);
  let aheadMs = 0;
  // Not with t.mock, which keeps a record, and a stack, of every call.
  performance.now = () => now() + aheadMs;
  t.after(() => {
    performance.now = now;
  });
  return (ms) => {
    aheadMs += ms;
  };
}
