import { constants } from "node:os";
import type { ShutdownReport } from "./shutdown.js";

const SIGNALS = ["SIGTERM", "SIGINT"] as const;

/**
 * Shuts down on the first SIGTERM or SIGINT and exits: 0 when everything ended by itself, 1 when a thread was forced or
 * a task abandoned; a second signal exits at once with 128 + its number. Returns the way to stop listening.
 */
export function handleSignals(shutDown: (reason: string) => Promise<ShutdownReport>): () => void {
  let first = true;
  const onSignal = (signal: (typeof SIGNALS)[number]): void => {
    if (!first) process.exit(128 + constants.signals[signal]);
    first = false;
    void shutDown(signal).then(
      (report) => exit(isGraceful(report) ? 0 : 1),
      () => exit(1), // logged step by step
    );
  };
  for (const signal of SIGNALS) process.on(signal, onSignal);
  return () => {
    // Once a signal has come, a second one must not fall back to killing the process in the middle of the shutdown.
    if (first) for (const signal of SIGNALS) process.off(signal, onSignal);
  };
}

function isGraceful({ tasks, threads }: ShutdownReport): boolean {
  return tasks.abandoned === 0 && threads.every(({ outcome }) => outcome === "graceful");
}

/** After whoever else awaits the shutdown has had a turn, and what they wrote is on its way. */
function exit(code: number): void {
  setImmediate(() => process.exit(code));
}
