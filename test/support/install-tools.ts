import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { findRedisServer, HOW_TO_GET_REDIS } from "./redis-server.js";

const APT_GET = "/usr/bin/apt-get";

const HOW_TO_GET_OPENSSL =
  "The tests of TLS make their certificates with openssl: install it (apt-get install openssl).";

interface Tool {
  readonly debianPackage: string;
  readonly isThere: () => boolean;
  readonly howToGetIt: string;
}

const TOOLS: readonly Tool[] = [
  {
    debianPackage: "redis-server",
    isThere: () => findRedisServer() !== undefined,
    howToGetIt: HOW_TO_GET_REDIS,
  },
  {
    debianPackage: "openssl",
    isThere: () => spawnSync("openssl", ["version"], { stdio: "ignore" }).status === 0,
    howToGetIt: HOW_TO_GET_OPENSSL,
  },
];

/**
 * Runs before tests, benchmarks and soak. A fresh Debian container gets what it lacks; other machines get one clear
 * sentence.
 */
function install(tools: readonly Tool[]): void {
  if (process.getuid?.() !== 0 || !existsSync(APT_GET)) return;
  const packages = tools.map(({ debianPackage }) => debianPackage);
  if (apt("update")) apt("install", "-y", "--no-install-recommends", ...packages);
}

function apt(...args: string[]): boolean {
  // RUNLEVEL keeps the package from starting a server on port 6379.
  const env = { ...process.env, DEBIAN_FRONTEND: "noninteractive", RUNLEVEL: "1" };
  const { status, stderr } = spawnSync(APT_GET, ["-qq", ...args], { env, stdio: ["ignore", "ignore", "pipe"] });
  if (status !== 0) process.stderr.write(stderr ?? "");
  return status === 0;
}

const missing = TOOLS.filter(({ isThere }) => !isThere());
if (missing.length > 0) install(missing);
for (const { isThere, howToGetIt } of missing) {
  if (isThere()) continue;
  process.stderr.write(`${howToGetIt}\n`);
  process.exitCode = 1;
}
