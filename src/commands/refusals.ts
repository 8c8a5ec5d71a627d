import { traitOf } from "./commands.js";
import type { QueuedCommand } from "./ioredis.js";

/** Where a command would run. */
interface Circumstances {
  readonly isPiped: boolean;
  readonly inTransaction: boolean;
  readonly isMonitoring: boolean;
  /** With RESP2 a connection that is subscribed runs nothing else. */
  readonly isSubscriber: boolean;
}

const IN_SUBSCRIBER_MODE: ReadonlySet<string> = new Set(["ping", "quit"]);

const NEVER: Readonly<Record<string, string>> = {
  auth: "redthread logs in, with redis.username and redis.password or with redis.credentials",
  reset: "it would change the protocol under the client; a lease that is given back is as new",
};
const REPLICATION = "it makes the connection a replica's, which answers no commands";

/** Why no client of ours may run this command here, if so: its replies, or those of others, could not be told apart. */
export function reasonToRefuse(command: QueuedCommand, where: Circumstances): string | undefined {
  if (where.isMonitoring) return "the connection is monitoring, where everything that comes is a line of MONITOR";
  const { name, args } = command;
  if (!(command.reject as unknown)) return "an argument of it has no text";
  const trait = traitOf(name);
  if (where.isSubscriber && trait !== "subscription" && !IN_SUBSCRIBER_MODE.has(name.toLowerCase()))
    return "the connection is subscribed, and with RESP2 runs nothing else then";
  switch (trait) {
    case "never":
      if (name in Object.prototype) return "there is no such command, and ioredis takes it for something of its own";
      return NEVER[name.toLowerCase()] ?? REPLICATION;
    case "hello":
      return args.length > 0 ? "redthread says it, when it connects" : undefined;
    case "client":
      return isSubcommand(args, "reply")
        ? "without a reply to each command the rest goes to the wrong ones"
        : undefined;
    case "script":
      return isSubcommand(args, "debug") ? "the debugger stops the connection, and stays with it" : undefined;
    case "subscription":
      return where.inTransaction ? "in a transaction its answers come between those of others" : undefined;
    case "monitor":
      return where.isPiped || where.inTransaction ? "its lines would come between the replies of others" : undefined;
    case "quit":
      return where.isPiped ? "use quit() of the client, or disconnect()" : undefined;
    default:
      return undefined;
  }
}

function isSubcommand(args: readonly unknown[], name: string): boolean {
  return String(args[0]).toLowerCase() === name;
}
