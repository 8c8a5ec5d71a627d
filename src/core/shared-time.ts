// Times of the shared clock (`sharedClock` in clock.ts) as they stand in words that threads share.

/** Whether a time of the shared clock is still to come. The clock wraps, so times are compared by their distance. */
export function isAhead(time: number, now: number): boolean {
  return ((time - now) | 0) > 0;
}

/** 0 is never a time: it means that there is none. */
export function timeWord(time: number): number {
  return time | 0 || -1;
}
