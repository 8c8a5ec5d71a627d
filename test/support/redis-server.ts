import { spawn, spawnSync, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { accessSync, constants, rmSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer, Socket } from "node:net";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { Redis, type RedisOptions } from "ioredis";
import type { Certificates } from "./certificates.js";
import { eventually } from "./gate.js";
import { portOf } from "./proxy.js";

export interface RedisServerOptions {
  /** More command-line arguments, e.g. `["--enable-debug-command", "local"]`. */
  args?: readonly string[];
  /** Not "warning", because the line that says that the server is ready is a notice. */
  loglevel?: "debug" | "verbose" | "notice";
  /** The content of an ACL file; name the observer's user in `observer` if the default user is off. */
  acl?: string;
  observer?: { username?: string; password?: string };
  /** TLS instead of plain TCP; with `mutual` clients need a certificate, too. */
  tls?: { certificates: Certificates; mutual: boolean };
}

/** How a server process is started, and how to talk to it. */
export interface Mode {
  /** The whole command line; the files that it names are written meanwhile. */
  readonly args: (port: number, folder: string) => Promise<readonly string[]>;
  /** The line in its log when it serves. */
  readonly ready?: string;
  readonly observer: Pick<RedisOptions, "username" | "password" | "tls">;
}

/** One line of CLIENT LIST. */
export interface ListedClient {
  id: string;
  addr: string;
  name: string;
  cmd: string;
  flags: string;
  db: string;
  user: string;
  /** The number of commands queued in MULTI; "-1" outside of MULTI, on every server. */
  multi: string;
  [field: string]: string;
}

export const HOW_TO_GET_REDIS =
  "The tests need a real Redis: install redis-server or valkey-server (Debian: apt-get install redis-server), or name its binary in REDIS_SERVER_BIN.";

const OBSERVER = "observer";
const START_MS = 15_000;
const STOP_MS = 3_000;
const PORT_ATTEMPTS = 5;

/** The binary to run; undefined if this machine has none. */
export function findRedisServer(): string | undefined {
  const named = process.env["REDIS_SERVER_BIN"];
  if (named) return named;
  const folders = (process.env["PATH"] ?? "").split(delimiter);
  const candidates = ["redis-server", "valkey-server"].flatMap((name) => folders.map((folder) => join(folder, name)));
  return candidates.find(isExecutable);
}

/** A real server on a free loopback port, in its own folder, ready to accept connections. */
export function startRedis(options: RedisServerOptions = {}): Promise<RedisServer> {
  const { acl, tls, loglevel = "notice", observer = {}, args: further = [] } = options;
  const listen = tls ? tlsArgs(tls) : (port: number) => ["--port", String(port)];
  return launch({
    observer: tls ? { ...observer, tls: { ca: tls.certificates.ca, ...tls.certificates.client } } : observer,
    async args(port, folder) {
      const args = ["--save", "", "--appendonly", "no", "--bind", "127.0.0.1", "--dir", folder, "--loglevel", loglevel];
      if (acl !== undefined) {
        await writeFile(join(folder, "users.acl"), acl);
        args.push("--aclfile", join(folder, "users.acl"));
      }
      // At a more verbose level, tests look for clients by their names.
      if (loglevel !== "notice" && hidesNames()) args.push("--hide-user-data-from-log", "no");
      return [...listen(port), ...args, ...further];
    },
  });
}

/** As `startRedis`, for any mode of the binary. */
export async function launch(mode: Mode): Promise<RedisServer> {
  const binary = findRedisServer();
  if (!binary) throw new Error(HOW_TO_GET_REDIS);
  const folder = await mkdtemp(join(tmpdir(), "redthread-redis-"));
  for (let attempt = 1; ; attempt++) {
    const port = await freePort();
    const server = new RedisServer({ binary, folder, port, args: await mode.args(port, folder), mode });
    try {
      await server.start();
      return server;
    } catch (error) {
      // Between the search for a free port and its use, another test file may have taken the port.
      if (attempt < PORT_ATTEMPTS && /address already in use/i.test(server.log())) continue;
      await rm(folder, { recursive: true, force: true });
      throw error;
    }
  }
}

/** From 8.0 on Valkey writes no names into its log by default; older servers do not know the setting. */
function hidesNames(): boolean {
  const { stdout } = spawnSync(findRedisServer() ?? "", ["--version"], { encoding: "utf8" });
  return /^Valkey server v=(?!7\.)/.test(stdout);
}

function tlsArgs({ certificates: { folder }, mutual }: NonNullable<RedisServerOptions["tls"]>) {
  const files = ["--tls-cert-file", "server.crt", "--tls-key-file", "server.key", "--tls-ca-cert-file", "ca.crt"];
  const paths = files.map((part) => (part.startsWith("--") ? part : join(folder, part)));
  return (port: number): string[] => {
    return ["--port", "0", "--tls-port", String(port), ...paths, "--tls-auth-clients", mutual ? "yes" : "no"];
  };
}

interface Process {
  readonly binary: string;
  readonly folder: string;
  readonly port: number;
  readonly args: readonly string[];
  readonly mode: Mode;
}

export class RedisServer implements AsyncDisposable {
  readonly port: number;
  readonly url: string;
  /** Its own folder, removed with it. */
  readonly folder: string;
  readonly #how: Process;
  #process: ChildProcess | undefined;
  #admin: Redis | undefined;
  #log = "";
  #stopping: Promise<void> | undefined;

  constructor(how: Process) {
    this.port = how.port;
    this.url = `redis://127.0.0.1:${how.port}`;
    this.folder = how.folder;
    this.#how = how;
  }

  /** Everything that the server wrote so far, over all restarts. */
  log(): string {
    return this.#log;
  }

  get pid(): number {
    const pid = this.#process?.pid;
    if (pid === undefined) throw new Error("this redis-server is not running");
    return pid;
  }

  /** False between `kill` and `start`. */
  get isRunning(): boolean {
    return this.#process !== undefined;
  }

  /**
   * The tests' own connection. It reconnects by itself, waits while the server is away, and is never listed by
   * `clients()`.
   */
  get admin(): Redis {
    if (!this.#admin) {
      this.#admin = new Redis({
        host: "127.0.0.1",
        port: this.port,
        ...this.#how.mode.observer,
        connectionName: OBSERVER,
        lazyConnect: true,
        maxRetriesPerRequest: null,
        retryStrategy: () => 20,
      });
      // Servers die here on purpose; the observer's commands wait for the next start.
      this.#admin.on("error", () => undefined);
      observers.add(this.#admin);
    }
    return this.#admin;
  }

  /** CLIENT LIST without the observer, and without connections between servers: replicas, the master, sentinels. */
  async clients(): Promise<ListedClient[]> {
    return String(await this.admin.client("LIST"))
      .split("\n")
      .filter((line) => line.trim() !== "")
      .map(parseClient)
      .filter(({ name, flags }) => name !== OBSERVER && !/[SM]/.test(flags) && !name.startsWith("sentinel-"));
  }

  /** Waits until `predicate` holds for CLIENT LIST (without the observer) and returns the list. */
  async waitForClients(
    predicate: (clients: ListedClient[]) => boolean,
    deadlineMs = 20_000,
    awaited = predicate.toString(),
  ): Promise<ListedClient[]> {
    const check = async (): Promise<ListedClient[]> => {
      const clients = await this.clients();
      if (predicate(clients)) return clients;
      throw new Error(
        `CLIENT LIST holds ${clients.length}: ${clients.map(({ name, cmd }) => `${name} ${cmd}`).join(", ")}`,
      );
    };
    return eventually(check, deadlineMs, `clients such that ${awaited}`);
  }

  async start(): Promise<void> {
    const child = spawn(this.#how.binary, this.#how.args, {
      cwd: this.folder,
      stdio: ["ignore", "pipe", "pipe"],
    });
    this.#process = child;
    alive.set(child, this.folder);
    child.once("exit", () => alive.delete(child));
    process.off("exit", killAll).on("exit", killAll);
    await this.#ready(child);
    // A test that forgets to stop its server must not hang the file: the exit hook kills the server.
    child.unref();
    for (const pipe of [child.stdout, child.stderr]) if (pipe instanceof Socket) pipe.unref();
  }

  /** SIGKILL, as in a crash; returns when the process is gone. */
  async kill(): Promise<void> {
    await this.#end("SIGKILL");
  }

  /**
   * SIGKILL while the server handles a client's WAIT for this replica: the write was done, and its caller does not
   * know.
   */
  async killDuringWait(replica: RedisServer): Promise<void> {
    replica.freeze();
    await this.waitForClients((clients) => clients.some(({ flags }) => flags.includes("b")));
    await this.kill();
    replica.thaw();
  }

  /** A new, empty process on the same port; the old one is killed if it still runs. */
  async restart(): Promise<void> {
    await this.kill();
    await this.start();
  }

  /** SIGSTOP: the kernel still accepts TCP connects, but nothing is answered. */
  freeze(): void {
    process.kill(this.pid, "SIGSTOP");
  }

  thaw(): void {
    process.kill(this.pid, "SIGCONT");
  }

  /** Ends observer and server and removes the folder; idempotent. */
  stop(): Promise<void> {
    return (this.#stopping ??= this.#stop());
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop();
  }

  async #stop(): Promise<void> {
    this.#admin?.disconnect();
    if (this.#admin) observers.delete(this.#admin);
    await this.#end("SIGTERM");
    await rm(this.folder, { recursive: true, force: true });
  }

  #ready(child: ChildProcess): Promise<void> {
    const from = this.#log.length;
    const { ready = "Ready to accept connections" } = this.#how.mode;
    return new Promise((resolve, reject) => {
      const fail = (why: string): void => {
        child.kill("SIGKILL");
        reject(new Error(`redis-server on port ${this.port} ${why}\n${this.#log.slice(from)}`));
      };
      const timer = setTimeout(() => fail(`was not ready within ${START_MS} ms`), START_MS);
      const hear = (text: Buffer): void => {
        this.#log += text.toString();
        if (!this.#log.includes(ready, from)) return;
        clearTimeout(timer);
        resolve();
      };
      child.stdout?.on("data", hear);
      child.stderr?.on("data", hear);
      child.once("error", (error) => (clearTimeout(timer), fail(`did not start: ${error.message}`)));
      // at "exit" its last words may not have been read yet
      child.once("close", (code, signal) => (clearTimeout(timer), fail(`ended with ${signal ?? code}`)));
    });
  }

  async #end(signal: NodeJS.Signals): Promise<void> {
    const child = this.#process;
    this.#process = undefined;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    child.ref();
    const gone = once(child, "exit");
    const timer = setTimeout(() => child.kill("SIGKILL"), STOP_MS);
    child.kill(signal);
    // A frozen process handles no other signal until it is thawed.
    child.kill("SIGCONT");
    await gone;
    clearTimeout(timer);
  }
}

/** Resolves when this server is a replica whose handshake is over: before that, its master lists it as a client. */
export async function untilInSync({ admin }: RedisServer): Promise<void> {
  const isInSync = async (): Promise<boolean> =>
    /role:slave[^]*master_link_status:up/.test(await admin.info("replication"));
  await eventually(isInSync, 30_000, "the replica is in sync");
}

const observers = new Set<Redis>();

/** Whether this native handle is the socket of a server's observer. */
export function isObserver(handle: object): boolean {
  // There is no other way from a handle to its user; with TLS it is the handle below.
  return [...observers].some(({ stream }) => {
    const own = (stream as { _handle?: { _parent?: object } } | undefined)?._handle;
    return own !== undefined && (own === handle || own?._parent === handle);
  });
}

/** The servers, each with its folder. */
const alive = new Map<ChildProcess, string>();

function killAll(): void {
  for (const [child, folder] of alive) {
    child.kill("SIGKILL");
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Parses a line of CLIENT LIST, or the answer of CLIENT INFO. */
export function parseClient(line: string): ListedClient {
  const fields = line
    .trim()
    .split(" ")
    .map((field) => [field.slice(0, field.indexOf("=")), field.slice(field.indexOf("=") + 1)] as const);
  const client = { id: "", addr: "", name: "", cmd: "", flags: "", db: "", user: "", multi: "" };
  Object.assign(client, Object.fromEntries(fields));
  // Outside of MULTI, Valkey 9 reports 0 instead of -1 for a connection that has used MULTI or WATCH. Only the flag "x"
  // tells it from a MULTI without commands.
  if (client.multi === "0" && !client.flags.includes("x")) client.multi = "-1";
  return client;
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false; // missing, or not executable for us: the next candidate
  }
}

export async function freePort(): Promise<number> {
  const probe = createServer().listen(0, "127.0.0.1");
  await once(probe, "listening");
  const port = portOf(probe);
  probe.close();
  await once(probe, "close");
  return port;
}
