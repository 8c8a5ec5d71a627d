/**
 * What a server's error reply asks for. The command was turned away and did not run, whatever its class; only the commands
 * of a transaction whose MULTI was refused have run, and its EXEC's error has the outcome "unknown".
 * "wait": the server serves nobody at the moment, and will by itself.
 * "retry": this command was turned away by a state that passes.
 * "reconnect": this connection leads to the wrong server; a new one asks anew where the right one is.
 * "fail": the same command gets the same answer until somebody changes something.
 */
export type ReplyClass = "wait" | "retry" | "reconnect" | "fail";

const MAXCLIENTS = "MAXCLIENTS";

/** The one table; what is not in it fails. docs/operations.md gives the reason for each. */
const BY_CLASS: Record<Exclude<ReplyClass, "fail">, readonly string[]> = {
  wait: ["LOADING", "BUSY", "MASTERDOWN", MAXCLIENTS],
  retry: ["NOREPLICAS", "CLUSTERDOWN", "TRYAGAIN", "UNBLOCKED"],
  reconnect: ["READONLY"],
};

const classes: ReadonlyMap<string, ReplyClass> = new Map(
  Object.entries(BY_CLASS).flatMap(([name, codes]) => codes.map((code) => [code, name as ReplyClass] as const)),
);
const AUTH_CODES: ReadonlySet<string> = new Set(["WRONGPASS", "NOAUTH"]);

/** An error with which a server answered. By name, not `instanceof`: some have crossed threads or realms. */
export function isReplyError(error: unknown): error is Error {
  return typeof error === "object" && error !== null && (error as { name?: unknown }).name === "ReplyError";
}

/** The reply's code and nothing else of it: the rest can quote arguments, and those can be passwords. */
export function replyCode({ message }: Error): string {
  if (message.startsWith("ERR max number of clients")) return MAXCLIENTS; // the server has no code of its own for it
  const word = message.split(" ", 1)[0]!;
  return /^[A-Z]+$/.test(word) ? word : "ERR"; // a script may answer with any text it likes
}

export function classifyReply(error: Error): ReplyClass {
  const code = replyCode(error);
  if (code !== "EXECABORT") return classes.get(code) ?? "fail";
  const reasons = abortReasons(error).map((reason) => classes.get(reason) ?? "fail");
  return reasons.includes("fail") ? "fail" : (reasons[0] ?? "fail");
}

/** The server refused who asked, not what was asked. */
export function isAuthReply(error: Error): boolean {
  return AUTH_CODES.has(replyCode(error));
}

export function isFull(error: Error): boolean {
  return replyCode(error) === MAXCLIENTS;
}

/** Whether this answer, be it an error, shows a server that serves this client. */
export function isServed(error: unknown): boolean {
  return isReplyError(error) && classifyReply(error) !== "wait" && !isAuthReply(error);
}

/** The server does not know this command at all, or not in the mode in which it was started. */
export function isUnknown(error: unknown): boolean {
  return (
    isReplyError(error) && /^ERR (unknown command|This instance has cluster support disabled)/i.test(error.message)
  );
}

/** Of the answer to HELLO: a list or an object, as redis.ioredis.replyMapping says. */
export function helloFields(reply: unknown): { readonly mode?: string; readonly role?: string } {
  if (!Array.isArray(reply)) return Object(reply) as object;
  const list: unknown[] = reply;
  const valueOf = (name: string): unknown => list[list.indexOf(name) + 1];
  return { mode: String(valueOf("mode")), role: String(valueOf("role")) };
}

/** Codes for which a transaction was dropped: in EXEC's own reply, or those of the commands that it had refused. */
function abortReasons(error: Error): string[] {
  const [, stated] = /because of: -?([A-Z]+) /.exec(error.message) ?? [];
  if (stated !== undefined) return [stated];
  const { previousErrors = [] } = error as { previousErrors?: unknown[] };
  return previousErrors.filter(isReplyError).map(replyCode);
}
