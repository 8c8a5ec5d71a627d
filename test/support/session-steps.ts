/** The commands of the session fuzz as a caller writes them. Keys, channels and tokens are filled in when they run. */
export const KINDS = {
  /** Answers with the token. */
  echo: "plain",
  ping: "plain",
  /** Answers with the name of its database. */
  read: "plain",
  /**
   * Appends the token to the journal of its database, which shows the order, the database and the number of all
   * commands that ran.
   */
  push: "plain",
  /** A script of `redis.scripts` that appends the token to the journal and answers with it. */
  script: "plain",
  /** Fails when it runs: WRONGTYPE. */
  fail: "plain",
  /** Fails before it runs, also when it is queued. */
  bad: "plain",
  /** BLPOP of a list that stays empty, for 10 ms. */
  absent: "blocking",
  /** BLPOP of a token that is pushed a little later. */
  pop: "blocking",
  select: "session",
  watch: "session",
  unwatch: "session",
  multi: "session",
  exec: "session",
  discard: "session",
  subscribe: "subscription",
  psubscribe: "subscription",
  ssubscribe: "subscription",
  unsubscribe: "subscription",
  punsubscribe: "subscription",
  sunsubscribe: "subscription",
  monitor: "session",
  /** Refused on every client. */
  refused: "refused",
  quit: "ending",
  disconnect: "ending",
} as const;
export type Kind = keyof typeof KINDS;

/** `n` chooses its database, key or channels; `shouts`: through `call()`, in upper case. */
export interface Command {
  readonly kind: Kind;
  readonly n: number;
  readonly shouts: boolean;
}

/** One call: a command, a `pipeline()`, a `multi()`. */
export interface Act {
  readonly how: "single" | "pipeline" | "transaction";
  readonly commands: readonly Command[];
}

/**
 * `bytes` of requests or replies pass, then the connection is cut; the same for the next connection, if there are more.
 */
export type Fault =
  | { readonly kind: "cut"; readonly side: "requests" | "replies"; readonly bytes: readonly number[] }
  | { readonly kind: "stall"; readonly ms: number }
  | { readonly kind: "kill" | "fin" | "reset" };

/** The calls of one turn, and what happens at the same time. */
export interface Group {
  /** Of a thread: its shared client, or a lease. */
  readonly on: "shared" | "lease";
  readonly acts: readonly Act[];
  readonly fault?: Fault | undefined;
  /** A kind that the ACL forbids meanwhile. */
  readonly forbid?: Kind | undefined;
  /** Before it, another client writes the watched key `n`. */
  readonly touch?: number | undefined;
  /** Before it, another client sends SCRIPT FLUSH. */
  readonly flush?: boolean | undefined;
  /** New credentials come just before or just after the acts of this turn. */
  readonly login?: "before" | "after" | undefined;
  /** Before it, the server ends the connections of older credentials. */
  readonly revoke?: boolean | undefined;
  /** The lease is released: when all calls have settled, or in the same turn, or to a caller that waits for it. */
  readonly release?: "settled" | "at once" | "to a waiter" | undefined;
  /** A message is published meanwhile, and afterwards one to the channel `n`, which only subscribers receive. */
  readonly publish?: number | undefined;
}

export interface Plan {
  readonly on: "owned" | "thread";
  readonly protocol: 2 | 3;
  readonly db: number;
  /** With `redis.credentials`; otherwise with one user and password. */
  readonly hasLogins: boolean;
  readonly hasPrefix: boolean;
  readonly resend: "never" | "readonly";
  readonly whenDown: "wait" | "fail";
  /** Commands have so little time that some are given up while the server still executes them. */
  readonly isImpatient: boolean;
  readonly groups: readonly Group[];
}

/** A command with everything filled in. */
export interface Call extends Command {
  readonly token: string;
  readonly name: string;
  readonly args: readonly (string | number)[];
}

/** The last one is out of range. */
export const DATABASES = [0, 1, 2, 99];
/** Their replies would not come, would go to other commands, or would change the form of a reply. */
const REFUSED = [
  ["client", "reply", "off"],
  ["client", "reply", "skip"],
  ["script", "debug", "yes"],
  ["script", "debug", "sync"],
  ["sync"],
  ["psync", "?", -1],
  ["reset"],
  ["hello", 2],
  ["hello", 3],
  ["auth", "default", "secret"],
] as const;

/** The names that one run uses, so that runs do not meet. */
export interface Names {
  /** Precedes all of them, added by the caller or by `redis.keyPrefix`. */
  readonly run: string;
  readonly hasPrefix: boolean;
  /** The client that the journal belongs to. */
  readonly role: string;
}

export const CHANNELS = ["a", "b", "c"];

export function fillIn(command: Command, token: string, names: Names): Call {
  const [name, ...args] = wordsOf(command, token, names);
  return { ...command, token, name: String(name), args };
}

function wordsOf({ kind, n }: Command, token: string, names: Names): readonly (string | number)[] {
  const { run, hasPrefix, role } = names;
  const key = (last: string): string => (hasPrefix ? last : `${run}:${last}`);
  const journal = key(`journal:${role}`);
  const channels = (mask: number): string[] => CHANNELS.filter((_, i) => mask & (1 << i)).map((at) => `${run}:${at}`);
  switch (kind) {
    case "push":
      return ["rpush", journal, token];
    case "read":
      return ["get", key("where")];
    case "script":
      return ["addtoken", journal, token];
    case "fail":
      return ["lpush", key("where"), token];
    case "bad":
      return n % 2 === 0 ? ["echo"] : ["nosuchcommand", token];
    case "absent":
      return ["blpop", key("absent"), 0.01];
    case "pop":
      return ["blpop", key(`queue:${token}`), n % 2 === 0 ? 0 : 5];
    case "select":
      return ["select", DATABASES[n % DATABASES.length]!];
    case "watch":
      return ["watch", key(`watched:${n % 2}`)];
    case "subscribe":
    case "psubscribe":
    case "ssubscribe":
      return [kind, ...channels((n % 7) + 1)];
    case "unsubscribe":
    case "punsubscribe":
    case "sunsubscribe":
      return [kind, ...channels(n % 8)];
    case "refused":
      return REFUSED[n % REFUSED.length]!;
    case "echo":
    case "ping":
      return [kind, token];
    default:
      return [kind];
  }
}

/** The printed form of a failing plan. */
export function printPlan(plan: Plan): string {
  const { on, protocol, db, groups } = plan;
  const settings = [
    on === "owned" ? "connect()" : "a thread",
    `RESP${protocol}`,
    `db ${db}`,
    plan.hasLogins && "credentials",
    plan.hasPrefix && "keyPrefix",
    plan.resend === "readonly" && "resend",
    plan.whenDown === "fail" && "whenDown fail",
    plan.isImpatient && "short of time",
  ];
  const head = settings.filter(Boolean).join(", ");
  const lines = groups.map((group, i) => `  ${i + 1}. ${on === "thread" ? `${group.on}: ` : ""}${printGroup(group)}`);
  return [head, ...lines].join("\n");
}

function printGroup({ acts, fault, forbid, touch, flush, login, revoke, release, publish }: Group): string {
  const before = [
    revoke && "old logins end",
    flush && "SCRIPT FLUSH",
    touch !== undefined && `somebody writes watched:${touch % 2}`,
    forbid && `the ACL forbids ${forbid} meanwhile`,
    fault && printFault(fault),
    login === "before" && "a new login",
  ];
  const after = [
    login === "after" && "a new login",
    release && `released (${release})`,
    publish !== undefined && `published to ${CHANNELS[publish % CHANNELS.length]}`,
  ];
  return [...before, acts.map(printAct).join(" + ") || "nothing", ...after].filter(Boolean).join(" | ");
}

function printFault(fault: Fault): string {
  if (fault.kind === "stall") return `stalled for ${fault.ms} ms`;
  return fault.kind === "cut" ? `cut after ${fault.bytes.join(" and ")} bytes of ${fault.side}` : fault.kind;
}

function printAct({ how, commands }: Act): string {
  const inside = commands.map(printCommand).join(", ");
  return how === "single" ? inside : `${how === "pipeline" ? "pipeline" : "multi"}(${inside})`;
}

function printCommand(command: Command): string {
  const names: Names = { run: "", hasPrefix: true, role: "…" };
  const [name, ...args] = wordsOf(command, "…", names).map((word) => String(word).replace(/^:/, ""));
  return [command.shouts ? name!.toUpperCase() : name, ...args].join(" ");
}
