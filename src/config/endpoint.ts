import { isIP } from "node:net";
import type { Endpoint, RedisConfig } from "./options.js";

/** The text of an endpoint, for messages and as a key of maps. */
export function addressOf({ host, port }: Endpoint): string {
  return `${host}:${port}`;
}

/** The name that TLS sends to the server (SNI): none for an address. */
export function serverName(host: string): string {
  return isIP(host) === 0 ? host : "";
}

/** The endpoint at which this process finds what a sentinel or a node of a Cluster calls `told`. */
export function translated(told: Endpoint, { natMap }: RedisConfig): Endpoint {
  return natMap?.[addressOf(told)] ?? told;
}

/** FNV-1a, for memory that threads share. Never 0. Two addresses have the same fingerprint once in 4 billion. */
export function fingerprint(endpoint: Endpoint): number {
  return textFingerprint(addressOf(endpoint));
}

export function textFingerprint(text: string): number {
  let hash = 0x811c9dc5;
  for (const byte of Buffer.from(text)) hash = Math.imul(hash ^ byte, 0x01000193);
  return hash | 0 || 1;
}
