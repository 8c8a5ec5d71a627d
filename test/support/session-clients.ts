import { randomUUID } from "node:crypto";
import { Breaker } from "../../src/gate/breaker.js";
import { ConnectGate } from "../../src/gate/connect-gate.js";
import type { RedisHandle } from "../../src/commands/ioredis.js";
import { Ledger } from "../../src/link/ledger.js";
import { Logins } from "../../src/connection/credentials.js";
import { type AnyClient, clientOf, openClient } from "../../src/clients/open-client.js";
import type { Config } from "../../src/config/options.js";
import { type DedicatedLease, ThreadClients } from "../../src/thread/clients.js";
import { configFor } from "./fast-config.js";
import { type Proxy, startProxy } from "./proxy.js";
import type { RedisServer } from "./redis-server.js";
import type { Plan } from "./session-steps.js";
import { silent } from "./silent.js";

export type Role = "owned" | "shared" | "dedicated";

const ADD_TOKEN = "redis.call('rpush', KEYS[1], ARGV[1]) return ARGV[1]";
const PATIENT_MS = 3_000;
const IMPATIENT_MS = 60;
const CLOSE_MS = 2_000;
const HEAL_MS = 10;

/** The clients of one run, behind their own proxy, and the users that they log in as. */
export class SessionClients {
  readonly proxy: Proxy;
  readonly #server: RedisServer;
  readonly #run: string;
  readonly #config: Config;
  readonly #hasLogins: boolean;
  readonly #gateMemory: SharedArrayBuffer;
  readonly #healing: NodeJS.Timeout;
  readonly #logins = new Logins(() => {});
  readonly #password = randomUUID();
  #users = 0;
  #revoked = 0;
  /** The newest user when the lease was acquired. */
  #leasedFor = 0;
  #owned: AnyClient | undefined;
  #thread: ThreadClients | undefined;
  #shared: RedisHandle | undefined;
  #lease: DedicatedLease | undefined;

  /** `run` is part of every name that must not be shared with another run. */
  static async open(server: RedisServer, plan: Plan, run: string): Promise<SessionClients> {
    const clients = new SessionClients(server, await startProxy(server.port), plan, run);
    try {
      await clients.#open(plan);
      return clients;
    } catch (error) {
      await clients.close();
      throw error;
    }
  }

  private constructor(server: RedisServer, proxy: Proxy, plan: Plan, run: string) {
    this.proxy = proxy;
    this.#server = server;
    this.#run = run;
    this.#hasLogins = plan.hasLogins;
    const login = plan.hasLogins ? {} : { username: this.#user, password: this.#password };
    const { db, resend, whenDown, isImpatient } = plan;
    this.#config = configFor(proxy, {
      redis: {
        ...login,
        db,
        resend,
        whenDown,
        keyPrefix: plan.hasPrefix ? `${run}:` : "",
        scripts: { addtoken: { lua: ADD_TOKEN, numberOfKeys: 1 } },
        ioredis: { protocol: plan.protocol },
        commandTimeoutMs: isImpatient ? IMPATIENT_MS : PATIENT_MS,
      },
      threads: { count: 1 },
      dedicated: { max: 1 },
      retry: { baseDelayMs: 1, maxDelayMs: 4 },
    });
    this.#gateMemory = ConnectGate.buffer(this.#config);
    // Handshakes are cut here, too. After one that was, the breaker would be open, and half a second for each would be
    // most of the run.
    const breaker = new Breaker(new Int32Array(this.#gateMemory, 0, Breaker.CELLS), 0);
    this.#healing = setInterval(() => breaker.dismiss(), HEAL_MS);
  }

  /** Connected; the lease is acquired unless there is one. */
  async handle(role: Role): Promise<RedisHandle> {
    if (role === "owned") return this.#owned!.redis;
    if (role === "shared") return (this.#shared = await this.#thread!.getRedis());
    if (!this.#lease) {
      this.#leasedFor = this.#users;
      this.#lease = await this.#thread!.acquireDedicated();
    }
    return this.#lease.redis;
  }

  /** The users that it may be logged in as. A lease keeps its user. */
  usersOf(role: Role): string[] {
    const oldest = role === "dedicated" ? Math.max(this.#leasedFor, this.#revoked) : this.#users;
    return Array.from({ length: this.#users + 1 - oldest }, (_, i) => `${this.#run}-${oldest + i}`);
  }

  /** The clients that are held now. */
  get held(): Role[] {
    const roles = { owned: this.#owned, shared: this.#shared, dedicated: this.#lease };
    return (Object.keys(roles) as Role[]).filter((role) => roles[role] !== undefined);
  }

  /** The address of its connection on the server, when it is up. */
  async addressOf(role: Role): Promise<string | undefined> {
    const redis = await this.handle(role);
    await clientOf(redis)!.connect();
    const { localPort } = redis.stream as { localPort?: number };
    const port = this.proxy.portAtServer(localPort);
    return port === undefined ? undefined : `127.0.0.1:${port}`;
  }

  async release(): Promise<void> {
    const lease = this.#lease;
    this.#lease = undefined;
    await lease?.release();
  }

  /** Releases the lease to a caller that waits for one: a clean lease changes hands in the same turn. */
  async handOver(): Promise<void> {
    this.#leasedFor = this.#users;
    const next = this.#thread!.acquireDedicated();
    await this.release();
    this.#lease = await next;
  }

  /** Creates a user; the returned function tells the clients about it, if they subscribe to such news. */
  async login(): Promise<() => void> {
    if (!this.#hasLogins) return () => {};
    const next = `${this.#run}-${this.#users + 1}`;
    await this.#addUser(next);
    return () => {
      this.#users++;
      this.#logins.came({ version: this.#users + 1, username: next, password: this.#password });
    };
  }

  /** The server deletes all users but the newest, and ends their connections. */
  async revoke(): Promise<void> {
    const old = this.#all().slice(this.#revoked, -1);
    this.#revoked += old.length;
    if (old.length > 0) await this.#server.admin.call("ACL", "DELUSER", ...old);
  }

  /** `+name` or `-name`, for all users of the run. */
  async permit(rule: string): Promise<void> {
    const users = this.#all().slice(this.#revoked);
    await Promise.all(users.map((user) => this.#server.admin.call("ACL", "SETUSER", user, rule)));
  }

  /** Nothing of the run is left, on either side. */
  async close(): Promise<void> {
    this.proxy.cutNothing();
    await this.release(); // otherwise the pool waits for it
    await Promise.all([this.#owned?.close(CLOSE_MS), this.#thread?.close(CLOSE_MS)]);
    clearInterval(this.#healing);
    const isOurs = ({ user }: { user: string }): boolean => this.#all().includes(user);
    await this.#server.waitForClients((clients) => !clients.some(isOurs), 5_000, "no connection of the run is left");
    this.proxy.close();
    await this.#server.admin.call("ACL", "DELUSER", ...this.#all());
  }

  /** The user that new connections log in as. */
  get #user(): string {
    return `${this.#run}-${this.#users}`;
  }

  #all(): string[] {
    return Array.from({ length: this.#users + 1 }, (_, i) => `${this.#run}-${i}`);
  }

  #addUser(name: string): Promise<unknown> {
    return this.#server.admin.call("ACL", "SETUSER", name, "on", `>${this.#password}`, "~*", "&*", "+@all");
  }

  async #open({ on }: Plan): Promise<void> {
    await Promise.all(this.#all().map((name) => this.#addUser(name)));
    this.#logins.came({ version: 1, username: this.#user, password: this.#password });
    const logins = this.#hasLogins ? this.#logins : undefined;
    const { redis, retry } = this.#config;
    if (on === "thread") {
      const managed = {
        row: new Ledger(1).row(0),
        gate: this.#gateMemory,
        slot: 0,
        logins,
        locks: { attach: () => Promise.reject(new Error("no locks here")) },
      };
      this.#thread = new ThreadClients({ config: this.#config, logger: silent, managed });
      return;
    }
    const gate = new ConnectGate(this.#gateMemory, this.#config, 0);
    const options = { redis, retry, gate, logins, role: "owned" as const, logger: silent, name: this.#run };
    this.#owned = await openClient(options, CLOSE_MS);
  }
}
