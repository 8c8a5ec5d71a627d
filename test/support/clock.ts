import type { TestContext } from "node:test";

/** Moves the main thread's clock ahead, so that everything seems older by that time. Timers are not affected. */
export function aheadOfTime(t: TestContext): (ms: number) => void {
  const now = performance.now.bind(performance);
  let aheadMs = 0;
  // t.mock would keep a record and a stack of every call.
  performance.now = () => now() + aheadMs;
  t.after(() => {
    performance.now = now;
  });
  return (ms) => {
    aheadMs += ms;
  };
}
