import { isIP } from "node:net";
import type { Endpoint, RedisConfig } from "./options.js";

/** As a key of maps, and in messages. */
export function addressOf({ host, port }: Endpoint): string {
  return `${host}:${port}`;
}

/** What TLS tells the server that it is called (SNI): an address is no name. */
export function serverName(host: string): string {
  return isIP(host) === 0 ? host : "";
}

/** Where that is from here, what a sentinel or a node of a Cluster says. */
export function translated(told: Endpoint, { natMap }: RedisConfig): Endpoint {
  return natMap?.[addressOf(told)] ?? told;
}

/** FNV-1a, for memory that threads share: two addresses that have the same are one in 4 billion. Never 0. */
export function fingerprint(endpoint: Endpoint): number {
  return textFingerprint(addressOf(endpoint));
}

export function textFingerprint(text: string): number {
  let hash = 0x811c9dc5;
  for (const byte of Buffer.from(text)) hash = Math.imul(hash ^ byte, 0x01000193);
  return hash | 0 || 1;
}
