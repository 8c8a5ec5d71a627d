import { isInTable, isReadOnly, type QueuedCommand } from "./ioredis.js";

/** What a command does to the connection it runs on. Most commands are "plain". */
export type CommandTrait =
  | "plain"
  | "blocking" // may block the connection for as long as its own timeout says
  | "wait" // blocks likewise, and its answer is about earlier writes on the same connection
  | "watch"
  | "unwatch"
  | "multi"
  | "exec"
  | "discard"
  | "select"
  | "subscription"
  | "monitor"
  | "session" // changes the connection, and there is no cheap way back
  | "client" // depends on the subcommand
  | "script" // depends on the subcommand
  | "hello" // only reads, if it has no arguments
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
// These are no commands, and ioredis would find something of Object's under such a name.
for (const name of Object.getOwnPropertyNames(Object.prototype)) traits.set(name, "never");

/** A service that passes outside input to `call()` must not be able to grow this table without end. */
const MAX_SPELLINGS = 1_000;

/** The trait of a command, in whatever spelling. A known spelling costs one lookup. */
export function traitOf(name: string): CommandTrait {
  const known = traits.get(name);
  if (known !== undefined) return known;
  const trait = traits.get(name.toLowerCase()) ?? "plain";
  if (traits.size < MAX_SPELLINGS) traits.set(name, trait);
  return trait;
}

/** Whether the command has this name, in whatever spelling. */
export function isNamed({ name }: { readonly name: string }, lower: string): boolean {
  return name.length === lower.length && name.toLowerCase() === lower;
}

/** CLIENT subcommands that a shared client may send: they only read, or are about other connections. */
const SHARED_CLIENT: ReadonlySet<string> = new Set(
  "id info list getname trackinginfo getredir help kill pause unpause unblock".split(" "),
);

export function isSharedClient(args: readonly unknown[]): boolean {
  return SHARED_CLIENT.has(String(args[0]).toLowerCase());
}

/** Whether the command may be answered later than others, because its caller gave it a timeout of its own. */
export function hasOwnTimeout({ name }: QueuedCommand): boolean {
  const trait = traitOf(name);
  return trait === "blocking" || trait === "wait";
}

/** Whether the command can wait for something that another client does. XREAD without BLOCK cannot. */
export function mayWait(command: QueuedCommand): boolean {
  return hasOwnTimeout(command) && (traitOf(command.name) === "wait" || command.extractBlockingTimeout() !== null);
}

/** The own timeout of a command that has one; Infinity if it waits for as long as it takes. */
export function blockingTimeoutMs(command: QueuedCommand): number {
  if (traitOf(command.name) === "wait") return Number(command.args.at(-1)) || Infinity;
  const ms = command.extractBlockingTimeout();
  return ms === 0 ? Infinity : (ms ?? 0);
}

/** Whether a WAIT after it would count it: EXEC, or a command with keys that does not only read, as far as ioredis knows. */
export function canWrite(command: QueuedCommand): boolean {
  const trait = traitOf(command.name);
  if (trait === "exec") return true;
  if ((trait !== "plain" && trait !== "blocking") || isReadOnly(command.name)) return false;
  return command.getSlot() !== null || !isInTable(command.name);
}
