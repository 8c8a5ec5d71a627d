/** What a command does to the connection it runs on; everything else is "plain". */
export type CommandTrait =
  | "plain"
  | "blocking" // may hold the connection for as long as its own timeout says
  | "wait" // likewise, and speaks of what was written on this very connection before
  | "watch"
  | "unwatch"
  | "multi"
  | "exec"
  | "discard"
  | "select"
  | "subscription"
  | "monitor"
  | "session" // changes what the connection is: no cheap way back
  | "client" // depends on the subcommand
  | "script" // likewise
  | "hello" // without arguments it only tells
  | "never" // no client runs it
  | "quit";

const BY_TRAIT: Record<Exclude<CommandTrait, "plain">, string> = {
  blocking: "blpop brpop brpoplpush blmove blmovem bzpopmin bzpopmax bzmpop blmpop xread xreadgroup",
  wait: "wait waitaof",
  watch: "watch",
  unwatch: "unwatch",
  multi: "multi",
  exec: "exec",
  discard: "discard",
  select: "select",
  subscription: "subscribe psubscribe ssubscribe unsubscribe punsubscribe sunsubscribe",
  monitor: "monitor",
  session: "readonly readwrite asking",
  client: "client",
  script: "script",
  hello: "hello",
  never: "auth reset sync psync replconf",
  quit: "quit",
};

const traits = new Map<string, CommandTrait>(
  Object.entries(BY_TRAIT).flatMap(([trait, names]) =>
    names.split(" ").map((name) => [name, trait as CommandTrait] as const),
  ),
);
// No commands, and what ioredis has for a command of that name would not be its own.
for (const name of Object.getOwnPropertyNames(Object.prototype)) traits.set(name, "never");

/** A service that passes outside input to `call()` must not be able to grow the table of spellings without end. */
const MAX_SPELLINGS = 1_000;

/** The trait of a command, whatever its spelling: one lookup for each spelling already met. */
export function traitOf(name: string): CommandTrait {
  const known = traits.get(name);
  if (known !== undefined) return known;
  const trait = traits.get(name.toLowerCase()) ?? "plain";
  if (traits.size < MAX_SPELLINGS) traits.set(name, trait);
  return trait;
}

/** Whatever its spelling. */
export function isNamed({ name }: { readonly name: string }, lower: string): boolean {
  return name.length === lower.length && name.toLowerCase() === lower;
}

const HARMLESS_CLIENT = new Set(["id", "info", "list", "getname", "trackinginfo", "getredir", "help"]);
const OTHERS_CLIENT = new Set(["kill", "pause", "unpause", "unblock"]);

/** CLIENT subcommands that only read, and leave the connection as it was. */
export function isHarmlessClient(args: readonly unknown[]): boolean {
  return HARMLESS_CLIENT.has(String(args[0]).toLowerCase());
}

/** CLIENT subcommands that a shared client may send: those that read and those aimed at other connections. */
export function isSharedClient(args: readonly unknown[]): boolean {
  return isHarmlessClient(args) || OTHERS_CLIENT.has(String(args[0]).toLowerCase());
}
