import { digest } from "../work.js";
import { quantile } from "./statistics.js";

/**
 * As many rounds as keep this machine's CPU busy for so long: by the clock, two contenders for one core would both be done
 * at once.
 */
export function roundsOf(cpuMs: number): number {
  const rounds = 20_000;
  const micros = Array.from({ length: 6 }, () => {
    const before = process.cpuUsage();
    digest(Buffer.alloc(32), rounds);
    const { user, system } = process.cpuUsage(before);
    return user + system;
  });
  return Math.max(1, Math.round((rounds * cpuMs * 1_000) / quantile(micros.slice(1), 0.5))); // the first one warms
}
