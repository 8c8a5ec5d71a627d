import { constants } from "node:os";
import type { ShutdownReport } from "./shutdown.js";
import { Threads } from "./threads/threads.js";

const SIGNALS = ["SIGTERM", "SIGINT"] as const;
type Signal = (typeof SIGNALS)[number];
type ShutDown = (reason: string) => Promise<ShutdownReport>;

/** Of the managers of this process that end it at a signal. */
const shutDowns = new Set<ShutDown>();
/** The signal that came, and the exit codes that the managers want. */
let ending: { readonly signal: Signal; readonly codes: Promise<number>[] } | undefined;

/**
 * Shuts down on the first SIGTERM or SIGINT, as all managers that ask for it do, and ends the process when all of them
 * are done: with 0 when everything ended by itself, 1 when a thread was forced or a task abandoned. A second signal
 * ends it at once. Returns the way to stop listening.
 */
export function handleSignals(shutDown: ShutDown): () => void {
  // A manager that is made after the signal would be lost with the process, and with it what it has accepted.
  ending?.codes.push(exitCode(shutDown(ending.signal)));
  if (shutDowns.size === 0) for (const signal of SIGNALS) process.on(signal, onSignal);
  shutDowns.add(shutDown);
  return () => {
    // Once a signal has come, a second one must not fall back to killing the process in the middle of the shutdown.
    if (ending || !shutDowns.delete(shutDown) || shutDowns.size > 0) return;
    for (const signal of SIGNALS) process.off(signal, onSignal);
  };
}

function onSignal(signal: Signal): void {
  if (ending) return killSelf(signal);
  ending = { signal, codes: [...shutDowns].map((shutDown) => exitCode(shutDown(signal))) };
  void end(ending.signal, ending.codes);
}

async function end(signal: Signal, codes: readonly Promise<number>[]): Promise<void> {
  let code = 0;
  // Not all at once: there may come more.
  for (const one of codes) code = Math.max(code, await one);
  // After whoever else awaits the shutdown has had a turn, and what they wrote is on its way.
  setImmediate(() => (Threads.areLeaving ? killSelf(signal) : process.exit(code)));
}

function exitCode(report: Promise<ShutdownReport>): Promise<number> {
  return report.then(
    ({ tasks, threads }) => (tasks.abandoned === 0 && threads.every(({ outcome }) => outcome === "graceful") ? 0 : 1),
    () => 1, // logged step by step
  );
}

/** `process.exit()` waits for a thread in a call that nothing can interrupt, as execSync(); a signal does not. */
function killSelf(signal: Signal): void {
  process.removeAllListeners(signal);
  process.kill(process.pid, signal);
  // Still here: the kernel lets no signal without a listener end process 1 of a container.
  process.exit(128 + constants.signals[signal]);
}
