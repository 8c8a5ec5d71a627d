import type { IncomingMessage, OutgoingHttpHeaders, ServerResponse } from "node:http";
import { ConfigInvalidError } from "../../core/errors.js";
import type { Stats } from "./stats.js";

export interface DashboardOptions {
  /** The page's heading. Default "redthread". */
  readonly title?: string | undefined;
  /** How often an open page asks for the numbers; at least 100. Default 1 000. */
  readonly intervalMs?: number | undefined;
  /**
   * The path of the page, for servers that give the whole url to the handler (node:http, Fastify's raw request).
   * Default "/", which is also right where a mount removes its own path, as in Express.
   */
  readonly path?: string | undefined;
}

/** The manager that is shown, of whatever tasks. */
export interface Observed {
  stats(): Stats;
  health(): { readonly live: boolean; readonly ready: boolean; readonly reasons: readonly string[] };
}

/** Resolves once it has answered. An answer that was sent before, as by a timeout, stays as it is. Never rejects. */
export type RequestHandler = (request: IncomingMessage, response: ServerResponse) => Promise<void>;

const COMMON_HEADERS: OutgoingHttpHeaders = {
  "Cache-Control": "no-store",
  "Cross-Origin-Resource-Policy": "same-origin",
  "Referrer-Policy": "no-referrer",
  "X-Content-Type-Options": "nosniff",
};

/**
 * A live page of a manager's `stats()` and `health()`, as a request handler for node:http, Express and Fastify. It changes
 * nothing, but everybody that reaches it can read it: put it behind your own authentication. The open page asks for numbers;
 * the handler keeps no timer and no stream, so that neither a shutdown nor the process waits for it.
 * @throws REDTHREAD_CONFIG_INVALID
 */
export function dashboard(manager: Observed, options: DashboardOptions = {}): RequestHandler {
  const { title = "redthread", intervalMs = 1_000, path = "/" } = options;
  check(title, intervalMs, path);
  const mount = withoutSlash(path);
  return async (request, response) => {
    const [pathname = "", query = ""] = (request.url ?? "/").split("?", 2);
    if (withoutSlash(pathname) !== mount) return send(response, 404, "text/plain", "there is nothing here\n");
    if (request.method !== "GET" && request.method !== "HEAD") {
      return send(response, 405, "text/plain", "this page only shows\n", { Allow: "GET, HEAD" });
    }
    try {
      // By the query and not by a path below it, because the mount decides whether the page's url ends in a slash.
      if (new URLSearchParams(query).has("stats")) send(response, 200, "application/json", look(manager));
      else await sendPage(response, title, intervalMs);
    } catch {
      send(response, 500, "text/plain", "the page cannot be read\n");
    }
  };
}

function look(manager: Observed): string {
  return JSON.stringify({ at: Date.now(), health: manager.health(), stats: manager.stats() });
}

async function sendPage(response: ServerResponse, title: string, intervalMs: number): Promise<void> {
  // Loaded here, because most processes never show the page.
  const { page, POLICY } = await import("./dashboard-page.js");
  send(response, 200, "text/html", page(title, intervalMs), { "Content-Security-Policy": POLICY });
}

function send(
  response: ServerResponse,
  status: number,
  type: string,
  body: string,
  headers: OutgoingHttpHeaders = {},
): void {
  if (response.headersSent) return;
  response.writeHead(status, {
    ...COMMON_HEADERS,
    ...headers,
    "Content-Type": `${type}; charset=utf-8`,
    "Content-Length": Buffer.byteLength(body),
  });
  response.end(body); // Node leaves the body out of the answer to HEAD
}

/** One page has two spellings, with and without a slash at its end. */
function withoutSlash(path: string): string {
  return path.endsWith("/") ? path.slice(0, -1) : path;
}

function check(title: unknown, intervalMs: unknown, path: unknown): void {
  const problems: string[] = [];
  if (typeof title !== "string") problems.push("title: must be text");
  if (!Number.isInteger(intervalMs) || Number(intervalMs) < 100 || Number(intervalMs) > 2 ** 31 - 1) {
    problems.push("intervalMs: must be a whole number of at least 100");
  }
  if (typeof path !== "string" || !/^\/[^?#]*$/.test(path)) problems.push('path: must begin with "/"');
  if (problems.length === 0) return;
  throw new ConfigInvalidError(`dashboard(): ${problems.join("; ")}`, { problems });
}
