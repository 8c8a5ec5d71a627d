/**
 * What to do after an error reply. The server rejected the command and did not run it, in every class. The one exception is a
 * transaction whose MULTI was rejected: its commands have run, and the error of its EXEC has the outcome "unknown".
 * "wait": the server serves no client at the moment, and will serve again by itself.
 * "retry": a passing state made the server reject this command.
 * "reconnect": this connection leads to the wrong server; a new one asks again where the right server is.
 * "fail": the same command gets the same reply until the data or the configuration changes.
 */
export type ReplyClass = "wait" | "retry" | "reconnect" | "fail";

const MAXCLIENTS = "MAXCLIENTS";

/** All other codes fail. docs/operations.md gives the reason for each code. */
const BY_CLASS: Record<Exclude<ReplyClass, "fail">, readonly string[]> = {
  wait: ["LOADING", "BUSY", "MASTERDOWN", MAXCLIENTS],
  retry: ["NOREPLICAS", "CLUSTERDOWN", "TRYAGAIN", "UNBLOCKED"],
  reconnect: ["READONLY"],
};

const classes: ReadonlyMap<string, ReplyClass> = new Map(
  Object.entries(BY_CLASS).flatMap(([name, codes]) => codes.map((code) => [code, name as ReplyClass] as const)),
);
const AUTH_CODES: ReadonlySet<string> = new Set(["WRONGPASS", "NOAUTH"]);

/** Whether it is a server's error reply. By name, not by `instanceof`, because some errors have crossed threads or realms. */
export function isReplyError(error: unknown): error is Error {
  return typeof error === "object" && error !== null && (error as { name?: unknown }).name === "ReplyError";
}

/** The code of the reply only, because the rest can quote arguments, which can be passwords. */
export function replyCode({ message }: Error): string {
  if (message.startsWith("ERR max number of clients")) return MAXCLIENTS; // the server sends no code of its own for this
  const word = message.split(" ", 1)[0]!;
  return /^[A-Z]+$/.test(word) ? word : "ERR"; // a script may reply with any text
}

export function classifyReply(error: Error): ReplyClass {
  const code = replyCode(error);
  if (code !== "EXECABORT") return classes.get(code) ?? "fail";
  const reasons = abortReasons(error).map((reason) => classes.get(reason) ?? "fail");
  return reasons.includes("fail") ? "fail" : (reasons[0] ?? "fail");
}

/** Whether the server rejected the credentials, not the command. */
export function isAuthReply(error: Error): boolean {
  return AUTH_CODES.has(replyCode(error));
}

export function isFull(error: Error): boolean {
  return replyCode(error) === MAXCLIENTS;
}

/** Whether this error reply shows that the server serves this client. */
export function isServed(error: unknown): boolean {
  return isReplyError(error) && classifyReply(error) !== "wait" && !isAuthReply(error);
}

/** Whether the server does not know this command, or not in its mode. */
export function isUnknown(error: unknown): boolean {
  return (
    isReplyError(error) && /^ERR (unknown command|This instance has cluster support disabled)/i.test(error.message)
  );
}

/** Fields of the reply to HELLO, which is a list or an object, depending on redis.ioredis.replyMapping. */
export function helloFields(reply: unknown): { readonly mode?: string; readonly role?: string } {
  if (!Array.isArray(reply)) return Object(reply) as object;
  const list: unknown[] = reply;
  const valueOf = (name: string): unknown => list[list.indexOf(name) + 1];
  return { mode: String(valueOf("mode")), role: String(valueOf("role")) };
}

/** The server's run id in the reply to INFO server: 40 hexadecimal digits. */
export function runIdIn(info: unknown): string | undefined {
  return /^run_id:([0-9a-f]{40})\b/m.exec(String(info))?.[1];
}

/** The server's role in the reply to INFO replication: master or slave. */
export function roleIn(info: unknown): string | undefined {
  return /^role:(\w+)/m.exec(String(info))?.[1];
}

/** The codes because of which a transaction was dropped: in the reply to EXEC, or in the replies to its commands. */
function abortReasons(error: Error): string[] {
  const [, stated] = /because of: -?([A-Z]+) /.exec(error.message) ?? [];
  if (stated !== undefined) return [stated];
  const { previousErrors = [] } = error as { previousErrors?: unknown[] };
  return previousErrors.filter(isReplyError).map(replyCode);
}
