/** In the order in which they are looked at. */
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
] as const;

export type Check = (typeof CHECKS)[number];

/** "skip": not looked at, or not allowed to look. Only "fail" makes the doctor's verdict a bad one. */
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
  /** Where the configuration leads; null when it is wrong. */
  readonly target: string | null;
  readonly checks: readonly Finding[];
}

const MARKS: Record<Status, string> = { ok: "ok", warn: "warn", fail: "FAIL", skip: "-" };

/** A table for people: what was looked at, how it is, what was seen; advice below the line that it belongs to. */
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
