import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { findRedisServer, HOW_TO_GET_REDIS } from "./redis-server.js";

const APT_GET = "/usr/bin/apt-get";

/** Run by `npm test` before the tests: a fresh Debian container gets its Redis, everybody else one clear sentence. */
function ensureRedis(): boolean {
  if (findRedisServer()) return true;
  if (process.getuid?.() !== 0 || !existsSync(APT_GET)) return false;
  return (
    apt("update") && apt("install", "-y", "--no-install-recommends", "redis-server") && findRedisServer() !== undefined
  );
}

function apt(...args: string[]): boolean {
  // RUNLEVEL: the package must not start a server of its own on 6379.
  const env = { ...process.env, DEBIAN_FRONTEND: "noninteractive", RUNLEVEL: "1" };
  const { status, stderr } = spawnSync(APT_GET, ["-qq", ...args], { env, stdio: ["ignore", "ignore", "pipe"] });
  if (status !== 0) process.stderr.write(stderr ?? "");
  return status === 0;
}

if (!ensureRedis()) {
  process.stderr.write(`${HOW_TO_GET_REDIS}\n`);
  process.exitCode = 1;
}
