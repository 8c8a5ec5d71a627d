/**
 * `npm run test:servers -- BINARY ...`: runs the tests against each of these servers, one after the other. A BINARY is
 * a `redis-server` or `valkey-server` of any version. Sentinels and nodes of a Cluster use the same binary. Prints a
 * line for each, with the version that the server itself reports.
 */
import { resolve } from "node:path";
import { startRedis } from "./redis-server.js";
import { runSuites } from "./suites.js";

const binaries = process.argv.slice(2).map((binary) => resolve(binary));
if (binaries.length === 0) throw new Error("name the servers: npm run test:servers -- BINARY ...");
// All binaries are started first, so that a broken one is found before hours of tests.
const versions: string[] = [];
for (const binary of binaries) versions.push(await versionOf(binary));
const results = binaries.map((binary) => runSuites(process.execPath, { ...process.env, REDIS_SERVER_BIN: binary }));
for (const [i, { passed, failed }] of results.entries()) {
  console.log(`${versions[i]}: ${passed} passed, ${failed} failed`);
}
process.exit(results.every(({ isGreen }) => isGreen) ? 0 : 1);

async function versionOf(binary: string): Promise<string> {
  process.env["REDIS_SERVER_BIN"] = binary;
  await using server = await startRedis();
  const info = await server.admin.info("server");
  const field = (name: string): string | undefined => new RegExp(`^${name}:(.+)`, "m").exec(info)?.[1]?.trim();
  // Valkey also reports a redis_version: the version that it is compatible with.
  const name = field("server_name") ?? "redis";
  return `${name} ${field(`${name}_version`) ?? field("redis_version")}`;
}
