import { connect, type Socket } from "node:net";
import { connect as connectTls, type ConnectionOptions } from "node:tls";
import type { RedisOptions } from "../commands/ioredis.js";
import { serverName } from "../config/endpoint.js";
import { ConfigInvalidError } from "../core/errors.js";
import { errorCode } from "../core/log.js";
import { abortable, waitAtMost } from "../core/waiting.js";

const LOOK_MS = 300;
/** How the reply of a Redis to a PING can begin. */
const REPLIES = "+-";
/** How a TLS server answers plain text: the first byte of an alert. */
const ALERT = "\x15";
const SPEAKS_TLS = "this port speaks TLS: use rediss:// or REDIS_TLS=true";

/** The cause of a failed connect: the server is no Redis, or only one side speaks TLS. */
export class ForeignError extends Error {
  readonly code = "WRONG_PROTOCOL";
}

/** What an error of ioredis or node:tls says about a server that is no Redis, or that speaks no TLS. */
export function foreignReason(error: unknown): string | undefined {
  const { message, code } = Object(error) as Partial<Error & { code: unknown }>;
  if (/^ERR_SSL_(?:WRONG_VERSION|PACKET_LENGTH)/.test(String(code)))
    return "this port does not speak TLS: use redis:// and no REDIS_TLS";
  const [, byte] = /^Unknown RESP type (\d+)/.exec(String(message)) ?? [];
  return byte === undefined ? undefined : reasonOf(String.fromCharCode(Number(byte)));
}

/** Judged by the first character of the server's answer. */
function reasonOf(first: string): string {
  if (first === ALERT) return SPEAKS_TLS;
  return `no Redis is there: its answer begins with ${JSON.stringify(first)}${first === "H" ? " (HTTP?)" : ""}`;
}

/** The options lead to a server of another kind: no later attempt would find a different server. */
export function misled(problem: string): ConfigInvalidError {
  return new ConfigInvalidError(problem);
}

type LookOptions = Pick<RedisOptions, "host" | "port" | "path" | "family" | "tls">;

/**
 * Looks at a server that hung up without a word, and returns what it is if it is no Redis. The server gets a PING, which
 * carries no login and which a Redis answers at once, even when it is full. Without an answer it gets a TLS handshake.
 */
export async function lookAgain(to: LookOptions, ms: number, life: AbortSignal): Promise<string | undefined> {
  const { host, port, path, family, tls } = to;
  const place = { host, port, path, family } as ConnectionOptions & { port: number };
  const limitMs = Math.min(ms / 2, LOOK_MS);
  const asked = tls ? connectTls({ ...place, ...tls }) : connect(place);
  asked.write("PING\r\n");
  const first = await answerOf(asked, "data", (data: Buffer) => data.toString("latin1", 0, 1), limitMs, life);
  if (first !== undefined) return REPLIES.includes(first) ? undefined : reasonOf(first);
  if (tls) return undefined;
  // With any certificate, because nothing else is sent on this connection.
  const greeted = connectTls({ ...place, servername: serverName(host ?? ""), rejectUnauthorized: false });
  return answerOf(greeted, "secureConnect", () => SPEAKS_TLS, limitMs, life);
}

/** What the event brings, or undefined where nothing comes in time. An alert proves TLS as well as a finished handshake does. */
async function answerOf(
  socket: Socket,
  event: "data" | "secureConnect",
  read: (data: Buffer) => string,
  ms: number,
  life: AbortSignal,
): Promise<string | undefined> {
  const answered = new Promise<string | undefined>((resolve) => {
    socket.once(event, (data: Buffer) => resolve(read(data)));
    const isHandshake = event === "secureConnect";
    socket.on("error", (error) => resolve(isHandshake && /_ALERT_/.test(errorCode(error)) ? SPEAKS_TLS : undefined));
    socket.once("close", () => resolve(undefined));
  });
  const isInTime = await waitAtMost(ms, abortable(answered, life));
  socket.destroy();
  return isInTime ? answered : undefined;
}
