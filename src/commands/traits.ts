import { bySpelling, isInTable, isReadOnly, type QueuedCommand } from "./ioredis.js";

/** The commands that do something to the connection they run on, by what they do. All others are "plain". */
const BY_TRAIT = {
  // May block it for as long as their own timeout says.
  blocking: "blpop brpop brpoplpush blmove blmovem bzpopmin bzpopmax bzmpop blmpop xread xreadgroup",
  wait: "wait waitaof", // blocks likewise, and its answer is about earlier writes on the same connection
  watch: "watch",
  unwatch: "unwatch",
  multi: "multi",
  exec: "exec",
  discard: "discard",
  select: "select",
  subscription: "subscribe psubscribe ssubscribe unsubscribe punsubscribe sunsubscribe",
  monitor: "monitor",
  session: "readonly readwrite asking", // changes the connection, and there is no cheap way back
  client: "client", // depends on the subcommand
  script: "script", // depends on the subcommand
  hello: "hello", // only reads, if it has no arguments
  never: "auth reset sync psync replconf", // no client runs it
  quit: "quit",
};

export type CommandTrait = "plain" | keyof typeof BY_TRAIT;

const traits = new Map<string, CommandTrait>();
for (const [trait, names] of Object.entries(BY_TRAIT))
  for (const name of names.split(" ")) traits.set(name, trait as CommandTrait);
// These are no commands, and ioredis would find something of Object's under such a name.
for (const name of Object.getOwnPropertyNames(Object.prototype)) traits.set(name, "never");

/** The trait of a command, in whatever spelling. A known spelling costs one lookup. */
export const traitOf = bySpelling((name) => traits.get(name) ?? traits.get(name.toLowerCase()) ?? "plain");

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
