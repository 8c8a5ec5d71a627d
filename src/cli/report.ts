import { errorCode } from "../core/log.js";

/** The checks, in the order in which the doctor makes them. */
export const CHECKS = [
  "configuration",
  "sentinels",
  "name resolution",
  "reachability",
  "TLS",
  "connection",
  "latency",
  "server",
  "maxclients",
  "memory",
  "idle connections",
  "permissions",
  "locks",
  "near cache",
] as const;

export type Check = (typeof CHECKS)[number];

/** "skip": not checked, or not permitted to check. Only "fail" makes the doctor's verdict bad. */
export type Status = "ok" | "warn" | "fail" | "skip";

export interface Finding {
  readonly check: Check;
  readonly status: Status;
  /** What was seen, in words and numbers; never a secret. */
  readonly found: string;
  /** What to do about it. */
  readonly advice?: string;
}

export interface Report {
  /** No check failed. */
  readonly ok: boolean;
  /** The address in the configuration; null if the configuration is wrong. */
  readonly target: string | null;
  readonly checks: readonly Finding[];
}

export const ok = (check: Check, found: string): Finding => ({ check, status: "ok", found });
export const skip = (check: Check, found: string): Finding => ({ check, status: "skip", found });

export function warn(check: Check, found: string, advice: string): Finding {
  return { check, status: "warn", found, advice };
}

export function fail(check: Check, found: string, advice: string): Finding {
  return { check, status: "fail", found, advice };
}

export function codeAndText(error: unknown): string {
  return error instanceof Error ? `${errorCode(error)}: ${error.message}` : errorCode(error);
}

export function ms(value: number): string {
  return `${value < 10 ? value.toFixed(2) : Math.round(value)} ms`;
}

const MARKS: Record<Status, string> = { ok: "ok", warn: "warn", fail: "FAIL", skip: "-" };

/** A table for people: one line for each finding, with the advice below it. */
export function asTable({ target, checks }: Report): string {
  const width = Math.max(...checks.map(({ check }) => check.length));
  const lines = checks.flatMap(({ check, status, found, advice }) => {
    const line = `${check.padEnd(width)}  ${MARKS[status].padEnd(4)}  ${found}`;
    return advice === undefined ? [line] : [line, `${" ".repeat(width + 8)}-> ${advice}`];
  });
  return [...(target === null ? [] : [`Redis at ${target}`, ""]), ...lines, "", verdict(checks), ""].join("\n");
}

function verdict(checks: readonly Finding[]): string {
  const count = (status: Status): number => checks.filter((finding) => finding.status === status).length;
  const counts = `${count("ok")} ok, ${count("warn")} to look at, ${count("fail")} failed, ${count("skip")} not looked at`;
  if (count("fail") > 0) return `Not well: ${counts}.`;
  return count("warn") === 0 ? `All well: ${counts}.` : `No check failed: ${counts}.`;
}
