import { lookup } from "node:dns/promises";
import { connect as connectTcp, isIP, type Socket } from "node:net";
import { connect as connectTls, type ConnectionOptions, type TLSSocket } from "node:tls";
import { addressOf as where, serverName } from "../config/endpoint.js";
import type { Endpoint, RedisConfig } from "../config/options.js";
import { foreignReason } from "../connection/foreign.js";
import { Sentinels } from "../connection/sentinels.js";
import { errorCode } from "../core/log.js";
import { within } from "../core/waiting.js";
import { fail, type Finding, ms, ok, skip, warn } from "./report.js";

const EXPIRY_WARN_DAYS = 14;
const DAY_MS = 86_400_000;

/** The master that the sentinels name, if there are sentinels; the following steps go to this master. */
export async function askSentinels(redis: RedisConfig): Promise<{ finding: Finding; redis: RedisConfig }> {
  const sentinels = Sentinels.of(redis);
  if (!sentinels) return { finding: skip("sentinels", "none configured"), redis };
  try {
    const [newest] = await sentinels.ask(redis.connectTimeoutMs);
    const { master } = newest!;
    return { finding: await judgeSentinels(redis, master), redis: { ...redis, ...master } };
  } catch (error) {
    const found = error instanceof Error ? error.message : errorCode(error);
    const advice = "check redis.sentinels, redis.sentinelName, and the sentinels' own password and TLS";
    return { finding: fail("sentinels", found, advice), redis };
  }
}

/** One sentinel that answers is enough to connect, but a failover needs a majority. */
async function judgeSentinels(redis: RedisConfig, master: Endpoint): Promise<Finding> {
  const named = `the master of "${redis.sentinelName}" is ${where(master)}`;
  const listed = redis.sentinels!;
  const asking = listed.map((one) => Sentinels.of({ ...redis, sentinels: [one] })!.ask(redis.connectTimeoutMs));
  const failed = (await Promise.allSettled(asking)).flatMap((asked, i) => {
    if (asked.status === "rejected") return [(asked.reason as Error).message];
    const other = where(asked.value[0]!.master);
    return other === where(master) ? [] : [`${where(listed[i]!)} names ${other}`];
  });
  if (failed.length === 0) return ok("sentinels", named);
  const found = `${named}; ${failed.length} of ${listed.length} sentinels did not say so: ${failed.join("; ")}`;
  const judge = failed.length * 2 < listed.length ? warn : fail;
  return judge("sentinels", found, "without a majority of the sentinels nobody takes a dead master's place");
}

/** The first listed node of a Cluster that accepts a connection, which is the node that a client would choose. */
export async function chooseNode(redis: RedisConfig): Promise<RedisConfig> {
  for (const node of redis.clusterNodes ?? []) {
    const chosen = { ...redis, ...node };
    if ((await reach(chosen)).status === "ok") return chosen;
  }
  return { ...redis, ...redis.clusterNodes?.[0] };
}

/** Whether the configured host has an address. */
export async function resolveName({ host, path, ioredis, connectTimeoutMs }: RedisConfig): Promise<Finding> {
  const check = "name resolution";
  if (path !== undefined) return skip(check, "a Unix socket needs none");
  if (isIP(host) > 0) return skip(check, `${host} is an address already`);
  try {
    const asking = lookup(host, { all: true, family: ioredis.family ?? 0 });
    const addresses = await within(asking, connectTimeoutMs, () => silent(connectTimeoutMs));
    return ok(check, `${host} is ${addresses.map(({ address }) => address).join(", ")}`);
  } catch (error) {
    const advice = "check redis.host (REDIS_HOST, REDIS_URL), and the DNS of the place where this runs";
    return fail(check, `${host} has no address (${errorCode(error)})`, advice);
  }
}

/** Whether a server accepts a connection; a frozen server still does, because its kernel accepts for it. */
export async function reach(redis: RedisConfig): Promise<Finding> {
  const check = "reachability";
  const startedAt = performance.now();
  const socket = connectTcp(addressOf(redis));
  try {
    await connected(socket, "connect", redis.connectTimeoutMs);
    return ok(check, `accepts connections, after ${ms(performance.now() - startedAt)}`);
  } catch (error) {
    return fail(check, `no connection (${errorCode(error)})`, reachAdvice(error, redis));
  } finally {
    socket.destroy();
  }
}

/** Whether a TLS handshake succeeds with the configured certificates, and when the server's certificate ends. */
export async function shakeHands(redis: RedisConfig): Promise<Finding> {
  if (redis.tls === false) return skip("TLS", "off");
  const socket = connectTls(tlsOptions(redis, redis.tls as ConnectionOptions));
  try {
    await connected(socket, "secureConnect", redis.connectTimeoutMs);
    return judgeCertificate(socket);
  } catch (error) {
    return fail("TLS", `no handshake (${errorCode(error)})`, tlsAdvice(error));
  } finally {
    socket.destroy();
  }
}

function judgeCertificate(socket: TLSSocket): Finding {
  const protocol = socket.getProtocol() ?? "TLS";
  if (!socket.authorized) {
    const advice =
      "fine on a private network only: anybody may answer in the server's place; give redis.tls.ca instead";
    return warn("TLS", `${protocol}, the certificate is not checked`, advice);
  }
  const days = Math.floor((Date.parse(socket.getPeerCertificate().valid_to) - Date.now()) / DAY_MS);
  const found = `${protocol}, the certificate is good for ${days} more days`;
  return days >= EXPIRY_WARN_DAYS ? ok("TLS", found) : warn("TLS", found, "renew the server's certificate");
}

function reachAdvice(error: unknown, { path, connectTimeoutMs }: RedisConfig): string {
  switch (errorCode(error)) {
    case "ECONNREFUSED":
      return "nothing listens there: is the server running, and are redis.host and redis.port (REDIS_URL) right?";
    case "ENOENT":
    case "EACCES":
      return `no such socket, or not allowed to open it: check redis.path (${path})`;
    case "EHOSTUNREACH":
    case "ENETUNREACH":
      return "there is no route: check the network, and whether an address of the right family is used (redis.ioredis.family)";
    case "ETIMEDOUT":
      return `nothing answered within redis.connectTimeoutMs (${connectTimeoutMs}): a firewall or security group drops packets?`;
    default:
      return "check the address and the network between here and there";
  }
}

function tlsAdvice(error: unknown): string {
  const code = errorCode(error);
  if (/SELF_SIGNED|ISSUER|VERIFY/.test(code)) return "give the authority that signed the certificate in redis.tls.ca";
  if (code === "ERR_TLS_CERT_ALTNAME_INVALID") return "the certificate is for another name: set redis.tls.servername";
  if (code === "CERT_HAS_EXPIRED") return "renew the server's certificate, or set this machine's clock";
  const foreign = foreignReason(error);
  if (foreign !== undefined) return foreign;
  if (code === "ETIMEDOUT" || code === "ECONNRESET") {
    return "does this port speak TLS? If not, use redis:// and no REDIS_TLS";
  }
  return "check redis.tls: certificates, key, minVersion";
}

function addressOf({ host, port, path, ioredis }: RedisConfig): { path: string } | { host: string; port: number } {
  return path === undefined ? { host, port, ...(ioredis.family && { family: ioredis.family }) } : { path };
}

/** Copies the options: node:tls writes into them, and the configuration is frozen. */
function tlsOptions(redis: RedisConfig, tls: ConnectionOptions): ConnectionOptions {
  const servername = redis.path === undefined ? serverName(redis.host) : "";
  return { ...addressOf(redis), servername, ...structuredClone(tls) };
}

function connected(socket: Socket, event: "connect" | "secureConnect", limitMs: number): Promise<void> {
  const outcome = new Promise<void>((resolve, reject) => {
    socket.once(event, () => resolve());
    socket.on("error", reject);
    socket.once("close", () => reject(Object.assign(new Error("closed"), { code: "ECONNRESET" })));
  });
  return within(outcome, limitMs, () => silent(limitMs));
}

function silent(limitMs: number): Error {
  return Object.assign(new Error(`no answer within ${limitMs} ms`), { code: "ETIMEDOUT" });
}
