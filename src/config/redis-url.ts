import type { Complain } from "./option-kinds.js";
import type { OptionPath } from "./option-table.js";

/** The options that a url gives, with their values. */
export type UrlParts = readonly (readonly [OptionPath, unknown])[];

const MUST = "must be redis://user:password@host:port/db, rediss://… for TLS, or unix:/path";

/** Complaints never quote the url, because a wrong url may contain its password anywhere. */
export function parseRedisUrl(raw: unknown, complain: Complain): UrlParts {
  const text = typeof raw === "string" ? raw.trim() : "";
  const [, scheme] = /^(rediss?:(?=\/\/)|unix:(?=\/))/i.exec(text) ?? [];
  if (scheme === undefined || !URL.canParse(text)) {
    complain(`${MUST}, with special characters in user and password percent-encoded`);
    return [];
  }
  const url = new URL(text);
  if (url.hash !== "") complain('has a "#": percent-encode it');
  if (url.search !== "") complain('has parameters after a "?": give them as options, or percent-encode the "?"');
  return scheme.toLowerCase() === "unix:" ? socketParts(url, complain) : serverParts(url, complain);
}

function socketParts(url: URL, complain: Complain): UrlParts {
  if (url.host !== "" || url.pathname === "/") complain(MUST);
  return [["redis.path", decode(url.pathname, complain)]];
}

function serverParts(url: URL, complain: Complain): UrlParts {
  const parts: [OptionPath, unknown][] = [];
  if (url.hostname !== "") {
    parts.push(["redis.host", decode(url.hostname.replace(/^\[|\]$/g, ""), complain)]);
    // Also the default port, because the port of another source belongs to another address.
    parts.push(["redis.port", url.port === "" ? 6379 : Number(url.port)]);
  }
  if (url.username !== "") parts.push(["redis.username", decode(url.username, complain)]);
  if (url.password !== "") parts.push(["redis.password", decode(url.password, complain)]);
  if (url.protocol === "rediss:") parts.push(["redis.tls", true]);

  const [matched, db] = /^\/?(\d*)\/?$/.exec(url.pathname) ?? [];
  if (matched === undefined) complain(`${MUST}; what follows the host must be the number of a database`);
  else if (db) parts.push(["redis.db", Number(db)]);
  return parts;
}

function decode(text: string, complain: Complain): string {
  try {
    return decodeURIComponent(text);
  } catch {
    complain('has a "%" that does not begin a percent-encoded character');
    return "";
  }
}
