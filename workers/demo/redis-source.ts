import { fork, spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { accessSync, constants } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { basename, delimiter, join } from "node:path";

/** The Redis that the demo runs on. */
export interface DemoRedis {
  readonly url: string;
  /** For people; without the url's password. */
  readonly name: string;
  /** Whether others may use it at the same time. */
  readonly isShared: boolean;
}

const BINARIES = ["redis-server", "valkey-server"];
const START_MS = 10_000;
const STOP_MS = 2_000;
const PORT_ATTEMPTS = 3;

/** Runs `fn` with the server of REDIS_URL, or with a new one that is stopped afterwards. */
export async function withRedis<T>(env: NodeJS.ProcessEnv, fn: (redis: DemoRedis) => Promise<T>): Promise<T> {
  const url = env["REDIS_URL"];
  if (url) return fn({ url, name: "the Redis of REDIS_URL", isShared: true });
  const binary = findBinary(env["PATH"] ?? "");
  return binary === undefined ? withEmbedded(fn) : withBinary(binary, fn);
}

async function withBinary<T>(binary: string, fn: (redis: DemoRedis) => Promise<T>): Promise<T> {
  const folder = await mkdtemp(join(tmpdir(), "redthread-demo-"));
  try {
    const { child, port } = await startBinary(binary, folder);
    const url = `redis://127.0.0.1:${port}`;
    return await using(child, () => fn({ url, name: `a ${basename(binary)} of its own`, isShared: false }));
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

async function withEmbedded<T>(fn: (redis: DemoRedis) => Promise<T>): Promise<T> {
  const program = new URL("./embedded-redis.js", import.meta.url);
  const child = fork(program, { detached: true, execArgv: [], stdio: ["ignore", "ignore", "pipe", "ipc"] });
  return using(child, async () => {
    const url = await answer(child, (tell) => child.once("message", (message: string) => tell(message)));
    return fn({ url, name: "the embedded js-redis-server (no redis-server on PATH)", isShared: false });
  });
}

async function startBinary(binary: string, folder: string): Promise<{ child: ChildProcess; port: number }> {
  for (let attempt = 1; ; attempt++) {
    const port = await freePort();
    const settings = [
      "--port",
      String(port),
      "--bind",
      "127.0.0.1",
      "--save",
      "",
      "--appendonly",
      "no",
      "--dir",
      folder,
    ];
    // Detached: a Ctrl-C at the terminal must not reach the server, which the demo needs to clean up.
    const child = spawn(binary, settings, { detached: true, stdio: ["ignore", "pipe", "pipe"] });
    try {
      await answer(child, (tell) => child.stdout.on("data", whenReady(tell)));
      return { child, port };
    } catch (error) {
      child.kill("SIGKILL");
      // Between the search for a free port and its use, another program may have taken the port.
      if (attempt === PORT_ATTEMPTS) throw error;
    }
  }
}

function whenReady(tell: (text: string) => void): (chunk: Buffer) => void {
  let log = "";
  return (chunk) => {
    log += chunk.toString();
    if (log.includes("Ready to accept connections")) tell(log);
  };
}

/** The first line of the child, or an error that says why there is none. */
async function answer(child: ChildProcess, listen: (tell: (text: string) => void) => void): Promise<string> {
  let complaint = "";
  child.stderr?.on("data", (chunk: Buffer) => (complaint += chunk.toString()));
  return new Promise((resolve, reject) => {
    const fail = (why: string): void => reject(new Error(`the Redis server for the demo ${why} ${complaint}`.trim()));
    const timer = setTimeout(() => fail(`was not ready within ${START_MS} ms`), START_MS);
    listen((text) => (clearTimeout(timer), resolve(text)));
    child.once("error", (error) => (clearTimeout(timer), fail(`did not start: ${error.message}`)));
    child.once("exit", (code, signal) => (clearTimeout(timer), fail(`ended with ${signal ?? code}`)));
  });
}

async function using<T>(child: ChildProcess, fn: () => Promise<T>): Promise<T> {
  const kill = (): void => void child.kill("SIGKILL");
  process.once("exit", kill);
  try {
    return await fn();
  } finally {
    await stop(child);
    process.off("exit", kill);
  }
}

async function stop(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined) return;
  const gone = once(child, "exit");
  const timer = setTimeout(() => child.kill("SIGKILL"), STOP_MS);
  child.kill("SIGTERM");
  await gone;
  clearTimeout(timer);
}

function findBinary(path: string): string | undefined {
  const folders = path.split(delimiter).filter((folder) => folder !== "");
  return BINARIES.flatMap((name) => folders.map((folder) => join(folder, name))).find(isExecutable);
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false; // missing, or not executable for us: the next one
  }
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}
