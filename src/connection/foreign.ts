import { connect, type Socket } from "node:net";
import { connect as connectTls, type ConnectionOptions } from "node:tls";
import type { RedisOptions } from "../commands/ioredis.js";
import { serverName } from "../config/endpoint.js";
import { ConfigInvalidError } from "../core/errors.js";
import { errorCode } from "../core/log.js";
import { abortable, within } from "../core/waiting.js";

const LOOK_MS = 300;
const REPLIES = "+-";

/** The cause of a failed connect: what answered is no Redis server, or only one side speaks TLS. */
export class ForeignError extends Error {
  readonly code = "WRONG_PROTOCOL";
}

/** Of TLS, as a server begins it that was spoken to plainly. */
const ALERT = "\x15";
const SPEAKS_TLS = "this port speaks TLS: use rediss:// or REDIS_TLS=true";

/** What an error of ioredis or node:tls says about a server that is no Redis, or that speaks no TLS. */
export function foreignWord(error: unknown): string | undefined {
  const { message, code } = Object(error) as Partial<Error & { code: unknown }>;
  if (/^ERR_SSL_(?:WRONG_VERSION|PACKET_LENGTH)/.test(String(code))) {
    return "this port does not speak TLS: use redis:// and no REDIS_TLS";
  }
  const [, byte] = /^Unknown RESP type (\d+)/.exec(String(message)) ?? [];
  return byte === undefined ? undefined : wordOf(String.fromCharCode(Number(byte)));
}

/** By the first character that it said. */
function wordOf(first: string): string {
  if (first === ALERT) return SPEAKS_TLS;
  return `no Redis is there: its answer begins with ${JSON.stringify(first)}${first === "H" ? " (HTTP?)" : ""}`;
}

/** The options lead to a server of another kind. No later attempt would find anything else. */
export function misled(problem: string): ConfigInvalidError {
  return new ConfigInvalidError(problem);
}

type LookOptions = Pick<RedisOptions, "host" | "port" | "path" | "family" | "tls">;

/**
 * What a server that hung up without a word is, if it is no Redis: by its answer to a PING, which carries no login, and where
 * it does not answer that either, by whether it answers a TLS handshake. A Redis answers the PING at once, also a full one.
 */
export async function lookAgain(to: LookOptions, ms: number, life: AbortSignal): Promise<string | undefined> {
  const { host, port, path, family, tls } = to;
  const place = { host, port, path, family } as ConnectionOptions & { port: number };
  const limitMs = Math.min(ms / 2, LOOK_MS);
  const asked = tls ? connectTls({ ...place, ...tls }) : connect(place);
  asked.write("PING\r\n");
  const first = await saidBy(asked, "data", (data: Buffer) => data.toString("latin1", 0, 1), limitMs, life);
  if (first !== undefined) return REPLIES.includes(first) ? undefined : wordOf(first);
  if (tls) return undefined;
  // Whatever its certificate: it hears nothing else.
  const greeted = connectTls({ ...place, servername: serverName(host ?? ""), rejectUnauthorized: false });
  return saidBy(greeted, "secureConnect", () => SPEAKS_TLS, limitMs, life);
}

/** What comes with the event; an alert to a TLS handshake says as much as its success; undefined where nothing comes in time. */
async function saidBy(
  socket: Socket,
  event: string,
  read: (data: Buffer) => string,
  ms: number,
  life: AbortSignal,
): Promise<string | undefined> {
  const said = new Promise<string | undefined>((resolve) => {
    socket.once(event, (data: Buffer) => resolve(read(data)));
    const isGreeting = event === "secureConnect";
    socket.on("error", (error) => resolve(isGreeting && /_ALERT_/.test(errorCode(error)) ? SPEAKS_TLS : undefined));
    socket.once("close", () => resolve(undefined));
  });
  try {
    return await abortable(
      within(said, ms, () => new Error()),
      life,
    );
  } catch {
    return undefined; // not in time
  } finally {
    socket.destroy();
  }
}
