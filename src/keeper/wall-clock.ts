import { monotonic } from "../core/clock.js";

/** Two clocks are read within this time. */
const READING_MS = 5;

/** How far the clock on the wall is ahead. The monotonic clock stands while the machine is suspended, and the other does not. */
export function clockSkew(wallClock: () => number): number {
  for (;;) {
    const before = monotonic();
    const wall = wallClock();
    // Between two readings the thread may have had no processor.
    if (monotonic() - before < READING_MS) return wall - before;
  }
}
