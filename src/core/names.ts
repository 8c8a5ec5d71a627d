import { hostname } from "node:os";
import { threadId } from "node:worker_threads";

/** `owned` belongs to the caller of `connect()`, `dedicated` to one lease at a time; the others are shared. */
export type ClientRole = "owned" | "primary" | "thread" | "dedicated" | "subscriber" | "sync" | "keeper";

/** `redthread:<app>:<host>:<pid>:<threadId>:<role>`. In containers every process is pid 1: only the host tells them apart. */
export function connectionName(appName: string, role: ClientRole, thread = threadId): string {
  const host = hostname().replaceAll(/[^\w.-]/g, "-");
  return ["redthread", appName, host, process.pid, thread, role].join(":");
}

/** ` (did you mean "x"?)` with the closest of the right names, or an empty text if none is close. */
export function suggest(wrong: string, right: readonly string[]): string {
  let best: string | undefined;
  let bestDistance = Math.min(3, 1 + Math.floor(wrong.length / 2));
  for (const name of right) {
    // A long input is no typing error, and the distance costs its length squared.
    const distance =
      Math.abs(name.length - wrong.length) > 2 ? Infinity : editDistance(wrong.toLowerCase(), name.toLowerCase());
    if (distance < bestDistance) [best, bestDistance] = [name, distance];
  }
  return best === undefined ? "" : ` (did you mean "${best}"?)`;
}

/** The number of letters to insert, delete or replace in order to turn one text into the other (Levenshtein). */
function editDistance(from: string, to: string): number {
  let row = Array.from({ length: to.length + 1 }, (_, column) => column);
  for (let i = 1; i <= from.length; i++) {
    const next = [i];
    for (let j = 1; j <= to.length; j++) {
      const replaced = row[j - 1]! + (from[i - 1] === to[j - 1] ? 0 : 1);
      next.push(Math.min(replaced, row[j]! + 1, next[j - 1]! + 1));
    }
    row = next;
  }
  return row[to.length]!;
}

/** What is wrong with the names of a call's options, because in JavaScript no type checker tells it. */
export function unknownOption(options: unknown, known: object): string | undefined {
  if (typeof options !== "object" || options === null) return "the options must be an object";
  for (const name in options)
    if (!Object.hasOwn(known, name)) return `there is no option "${name}"${suggest(name, Object.keys(known))}`;
  return undefined;
}
