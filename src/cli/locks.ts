import { createHash } from "node:crypto";
import { clientOf } from "../clients/open-client.js";
import type { Handle } from "../commands/handle.js";
import type { RedisHandle } from "../commands/ioredis.js";
import type { Config } from "../config/options.js";
import { Client } from "../connection/client.js";
import { errorReason } from "../core/log.js";
import { isReplyError, isUnknown, replyCode } from "../core/replies.js";
import { type Finding, ok, skip, warn } from "./report.js";

const NO_LOCK = "no lock can be acquired";
const NOT_TOLD = "waiters look for a release from time to time, because they are not told of it";
const IN_DOUBT = "a lock that a thread asks for while it dies may last until its ttl is over";
/** The rights that only locks need, and what does not work without each. */
const WITHOUT: Readonly<Record<string, string>> = {
  EVAL: NO_LOCK,
  EVALSHA: NO_LOCK,
  GET: NO_LOCK,
  SET: NO_LOCK,
  TIME: NO_LOCK,
  PTTL: "a lock that is held cannot be waited for",
  PEXPIRE: "no lock is extended, and each is lost when its ttl is over",
  DEL: "no lock is released, and each lasts until its ttl is over",
  PUBLISH: NOT_TOLD,
  SUBSCRIBE: NOT_TOLD,
  SPUBLISH: NOT_TOLD,
  SSUBSCRIBE: NOT_TOLD,
  "CLIENT ID": IN_DOUBT,
  "CLIENT INFO": IN_DOUBT,
  "CLIENT KILL": IN_DOUBT,
};

/** The commands inside the scripts of locks. On a key that does not exist none of them changes anything. */
const PROBE = `local refused = {}
local commands = {
  {'GET', KEYS[1]}, {'SET', KEYS[1], '', 'XX'}, {'TIME'}, {'PTTL', KEYS[1]}, {'PEXPIRE', KEYS[1], 1}, {'DEL', KEYS[1]},
  {ARGV[2], ARGV[1], ''},
}
for _, command in ipairs(commands) do
  local reply = redis.pcall(unpack(command))
  if type(reply) == 'table' and reply.err then refused[#refused + 1] = command[1] .. ' ' .. reply.err end
end
return refused`;

/** What the two kinds of servers need differently: to tell of a release, to listen for it, and to know a connection. */
const ON_ONE_SERVER = ["PUBLISH", "SUBSCRIBE", "CLIENT ID"] as const;
const IN_A_CLUSTER = ["SPUBLISH", "SSUBSCRIBE", "CLIENT INFO"] as const;

/** A connection id that no server has given yet. */
const NO_CONNECTION = String(Number.MAX_SAFE_INTEGER);

/** Tries what locks need, and reports what is refused and what does not work without it. Everything else works all the same. */
export async function tryLocks(redis: RedisHandle, name: string, { redis: settings }: Config): Promise<Finding> {
  const channel = `{${settings.keyPrefix}${name}}:released`;
  const [needs, others] = settings.clusterNodes ? [IN_A_CLUSTER, ON_ONE_SERVER] : [ON_ONE_SERVER, IN_A_CLUSTER];
  const [publish, subscribe, know] = needs;
  const digest = createHash("sha1").update(PROBE).digest("hex");
  const refused: string[] = [];
  /** The answer, or undefined if the right is missing. */
  const attempt = async <T>(right: string, asking: Promise<T>): Promise<T | undefined> => {
    const { answer, isRefused } = await judge(asking);
    if (isRefused) refused.push(right);
    return answer;
  };
  try {
    const errors = (await attempt("EVAL", redis.eval(PROBE, 1, name, channel, publish))) as string[] | undefined;
    refused.push(...(errors ?? []).filter(isOfRights).map((text) => text.split(" ", 1)[0]!));
    if (errors) await attempt("EVALSHA", redis.evalsha(digest, 1, name, channel, publish));
  } catch (error) {
    if (!(error instanceof KeyError)) return skip("locks", `they could not be tried: ${errorReason(error)}`);
    return skip("locks", `the user may not use the key ${settings.keyPrefix}${name}, with which they would be tried`);
  }
  const node = nodeOf(redis, channel);
  await attempt(know, node.call("CLIENT", know.slice("CLIENT ".length)));
  await attempt("CLIENT KILL", node.call("CLIENT", "KILL", "ID", NO_CONNECTION));
  // With RESP2 a subscribed connection could not extend locks, so that waiters look anyway.
  const listens = node.speaksResp3;
  if (listens && (await attempt(subscribe, redis.call(subscribe, channel))) !== undefined)
    await redis.call(subscribe.replace("SUB", "UNSUB"), channel);
  if (refused.length > 0) {
    const found = refused.map((right) => `${right}: ${WITHOUT[right]}`).join("; ");
    return warn("locks", `refused: ${found}`, "allow these to the ACL user, unless you use no locks");
  }
  const tried = Object.keys(WITHOUT).filter((right) => !(others as readonly string[]).includes(right));
  return ok("locks", `may send ${tried.join(", ")}${listens ? "" : `; ${NOT_TOLD}`}`);
}

/** The handle whose connection the lock's commands use. */
function nodeOf(redis: RedisHandle, channel: string): Handle {
  const client = clientOf(redis)!;
  const node = client instanceof Client ? client.redis : client.nodeOf(channel);
  return node ?? client.redis;
}

class KeyError extends Error {}

/** Another error reply than a refusal tells that the right is there. */
async function judge<T>(asking: Promise<T>): Promise<{ readonly answer?: T; readonly isRefused: boolean }> {
  try {
    return { answer: await asking, isRefused: false };
  } catch (error) {
    if (!isReplyError(error)) throw error;
    const isDenied = replyCode(error) === "NOPERM";
    if (isDenied && /\bkeys?\b/.test(error.message)) throw new KeyError(error.message);
    return { isRefused: isDenied || isUnknown(error) };
  }
}

/** Whether an error inside of a script is of a missing right to the command or channel, by the words of Redis 6 and 7. */
function isOfRights(text: string): boolean {
  return /to run the|can't run|channel/.test(text);
}
