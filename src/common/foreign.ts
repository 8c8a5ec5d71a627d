import { connect, type ConnectionOptions } from "node:tls";
import { serverName } from "./endpoint.js";
import { ConfigInvalidError } from "./errors.js";
import { errorCode } from "./log.js";
import { abortable, within } from "./time.js";

/** Not longer: a plain Redis, of which a connection was cut by chance, says nothing to it. */
const LOOK_MS = 300;

/** The cause of a failed connect: what answered is no Redis server, or only one side speaks TLS. */
export class ForeignError extends Error {
  readonly code = "WRONG_PROTOCOL";
}

export const SPEAKS_TLS = "this port speaks TLS: use rediss:// or REDIS_TLS=true";

/** What an error of ioredis or node:tls, or its cause, says about a server that is no Redis, or that speaks no TLS. */
export function foreignWord(error: unknown): string | undefined {
  const { message, code, cause } = Object(error) as Partial<Error & { code: unknown }>;
  if (/^ERR_SSL_(?:WRONG_VERSION|PACKET_LENGTH)/.test(String(code))) {
    return "this port does not speak TLS: use redis:// and no REDIS_TLS";
  }
  const [, byte] = /^Unknown RESP type (\d+)/.exec(String(message)) ?? [];
  if (byte === undefined) return cause === undefined ? undefined : foreignWord(cause);
  if (byte === "21") return SPEAKS_TLS; // an alert
  const protocol = byte === "72" ? " (HTTP?)" : "";
  return `no Redis is there: its answer begins with ${JSON.stringify(String.fromCharCode(Number(byte)))}${protocol}`;
}

/** The options lead to a server of another kind. No later attempt would find anything else. */
export function misled(problem: string): ConfigInvalidError {
  return new ConfigInvalidError(problem, { problems: [problem] });
}

/** Whether a server that hung up on plain text answers a TLS handshake, whatever its certificate. It hears nothing else. */
export async function speaksTls(to: ConnectionOptions, ms: number, life: AbortSignal): Promise<boolean> {
  const socket = connect({ ...to, servername: serverName(to.host ?? ""), rejectUnauthorized: false });
  const answered = new Promise<boolean>((resolve) => {
    socket.once("secureConnect", () => resolve(true));
    socket.on("error", (error) => resolve(/_ALERT_/.test(errorCode(error))));
    socket.once("close", () => resolve(false));
  });
  try {
    return await abortable(
      within(answered, Math.min(ms, LOOK_MS), () => new Error()),
      life,
    );
  } catch {
    return false; // it did not answer in time
  } finally {
    socket.destroy();
  }
}
