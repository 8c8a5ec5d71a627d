import type { LogFormat, Logger, LogLevel } from "../core/log.js";

// The parts are types, because an interface that a user's declarations name would have to be exported.

/** The configuration in effect: complete, checked, deeply frozen, and plain data, so that it can cross to a thread. */
export interface Config {
  /** The tasks module, as a file: href. A thread that no manager started has none. */
  readonly tasks?: string;
  /** Appears in the names of connections. Characters outside `A-Z a-z 0-9 _ . -` become `-`; cut at 64. Default "app". */
  readonly appName: string;
  readonly redis: RedisConfig;
  readonly primary: PrimaryConfig;
  readonly threads: ThreadsConfig;
  readonly dedicated: DedicatedConfig;
  readonly nearCache: NearCacheConfig;
  readonly retry: RetryConfig;
  readonly connections: ConnectionsConfig;
  readonly queue: QueueConfig;
  readonly shutdown: ShutdownConfig;
  readonly log: LogConfig;
}

export type RedisConfig = {
  /** A name or an address. An IPv6 address may have brackets. Default "127.0.0.1". */
  readonly host: string;
  /** Default 6379. */
  readonly port: number;
  /** A Unix socket. If it is set, host and port mean nothing. */
  readonly path?: string;
  /** Sentinels, asked for the master's address at every connect. If they are set, host, port and path mean nothing. */
  readonly sentinels?: readonly Endpoint[];
  /** The master's name among the sentinels. */
  readonly sentinelName?: string;
  readonly sentinelUsername?: string;
  readonly sentinelPassword?: string;
  /** As `tls`, for the connections to the sentinels. Default false. */
  readonly sentinelTls?: false | TlsOptions;
  /** Some nodes of a Cluster, which tell where all nodes are. If they are set, host, port and path mean nothing. */
  readonly clusterNodes?: readonly Endpoint[];
  /** Addresses in place of the `host:port` that sentinels and nodes of a Cluster tell, if this process cannot reach them. */
  readonly natMap?: Readonly<Record<string, Endpoint>>;
  readonly username?: string;
  readonly password?: string;
  /** Default 0. */
  readonly db: number;
  /** Options of `tls.connect`, or false for plain TCP (the default). */
  readonly tls: false | TlsOptions;
  /** Stands before every key. Default "". */
  readonly keyPrefix: string;
  /** Lua scripts. Each becomes a method of that name. */
  readonly scripts: Readonly<Record<string, ScriptOptions>>;
  /** Options of ioredis that cannot break a promise of redthread. */
  readonly ioredis: IoredisOptions;
  /** TCP, TLS, handshake and first PING together. Default 10 000. */
  readonly connectTimeoutMs: number;
  /** From the call of a command to its reply. Default 5 000. */
  readonly commandTimeoutMs: number;
  /** A client that received nothing for this long is checked by a PING before it is handed out. Default 500. */
  readonly idleCheckMs: number;
  /** A connection that is silent for this long is checked by a PING, and replaced if it does not answer. Default 10 000. */
  readonly heartbeatMs: number;
  /** A command issued while Redis is away: wait until its deadline (the default), or reject NOT_SENT at once. */
  readonly whenDown: "wait" | "fail";
  /**
   * A command that was written and lost its connection: REPLY_LOST (the default), or, if it only reads, written once more
   * after the reconnect. Never in a pipeline or transaction, never twice, never past its deadline.
   */
  readonly resend: "never" | "readonly";
  /**
   * In a Cluster: which node runs single commands that only read, outside of WATCH. A replica may lag behind its master. While no
   * replica serves, the master does. Default "master".
   */
  readonly readFrom: "master" | "replica";
};

export type Endpoint = {
  readonly host: string;
  readonly port: number;
};

export type ScriptOptions = {
  readonly lua: string;
  /** Without it the first argument of each call tells how many keys follow. */
  readonly numberOfKeys?: number | undefined;
  readonly readOnly?: boolean | undefined;
};

type Pem = string | Uint8Array | readonly (string | Uint8Array)[];

/** The part of `tls.connect`'s options that is plain data. */
export type TlsOptions = {
  readonly ca?: Pem;
  readonly cert?: Pem;
  readonly key?: Pem;
  readonly pfx?: Pem;
  readonly crl?: Pem;
  readonly passphrase?: string;
  readonly servername?: string;
  readonly rejectUnauthorized?: boolean;
  readonly minVersion?: "TLSv1.2" | "TLSv1.3";
  readonly maxVersion?: "TLSv1.2" | "TLSv1.3";
  readonly ciphers?: string;
  readonly ecdhCurve?: string;
  readonly sigalgs?: string;
};

export type IoredisOptions = {
  readonly family?: 0 | 4 | 6;
  readonly keepAlive?: number;
  readonly noDelay?: boolean;
  readonly stringNumbers?: boolean;
  readonly protocol?: 2 | 3;
  readonly replyMapping?: "legacy" | "resp3";
  readonly disableClientInfo?: boolean;
  readonly clientInfoTag?: string;
  readonly showFriendlyErrorStack?: boolean;
};

export type PrimaryConfig = {
  /** Age at which the primary client is replaced. Default 3 600 000. */
  readonly ttlMs: number;
  /** Share of the ttl by which it varies at random, so that many processes do not reconnect together. Default 0.1. */
  readonly jitter: number;
};

export type ThreadsConfig = {
  /** Default: the cores this process may use, cgroup quota included, at least 1. */
  readonly count: number;
  /** Tasks running at once in one thread. Default 32. */
  readonly concurrency: number;
  /** From birth to a loaded tasks module and a finished `setup`. Default 10 000. */
  readonly startTimeoutMs: number;
  /** A thread that has settled this many tasks is replaced without failing one. Default: none. */
  readonly maxTasks?: number;
  /** A thread that has settled a task is replaced as well when its V8 heap in use, with its buffers, exceeds this. Default: none. */
  readonly maxHeapMb?: number;
  readonly resourceLimits?: ResourceLimits;
  readonly execArgv?: readonly string[];
  /** The threads' process.env. Default: a copy of the main thread's. */
  readonly env?: Readonly<Record<string, string>>;
};

export type ResourceLimits = {
  readonly maxOldGenerationSizeMb?: number;
  readonly maxYoungGenerationSizeMb?: number;
  readonly codeRangeSizeMb?: number;
  readonly stackSizeMb?: number;
};

export type DedicatedConfig = {
  /** Dedicated clients per thread. Default 4. */
  readonly max: number;
  /** Default 30 000, at least 250. */
  readonly acquireTimeoutMs: number;
  /** Default 600 000. */
  readonly idleTimeoutMs: number;
  /** Default 1 800 000. */
  readonly maxLifetimeMs: number;
  /** A lease held for longer is logged as a warning, once, with the stack of its acquire; at least 100. Default: none. */
  readonly leakWarnMs?: number;
};

/** The near cache of hot keys, which all threads share; see `near`. */
export type NearCacheConfig = {
  /** The beginnings of the keys that are read through it, without `redis.keyPrefix`. Default: none, and no near cache. */
  readonly prefixes?: readonly string[];
  /** Memory for the values, once a process. Default: 64 MiB, or more if so many threads need more. */
  readonly maxBytes: number;
  /** Memory of each thread for the values that it has decoded. Default 1 MiB. */
  readonly ownTableBytes: number;
  /** A larger value is read from Redis each time. Default 64 KiB. */
  readonly maxValueBytes: number;
  /** A value that was served was the server's at most this long before the read began; from 20 to 24 h. Default 250. */
  readonly maxStaleMs: number;
  /** A value is read from Redis again after this time, also if nobody wrote it; up to 24 h. Default 60 000. */
  readonly maxAgeMs: number;
};

/** How connects are retried; see connRetry. */
export type RetryConfig = {
  /** Default 30 000. */
  readonly deadlineMs: number;
  /** Default 50. */
  readonly baseDelayMs: number;
  /** Default 1 000. */
  readonly maxDelayMs: number;
  /** Calls in all, the first one included. Default Infinity. */
  readonly attempts: number;
};

/** Limits of the whole process, over threads, pools, rotations and restarts. */
export type ConnectionsConfig = {
  /** Sockets to Redis at once; at least threads.count + 2. Default: no limit of its own. */
  readonly max?: number;
  /** Handshakes at once. Default 4. */
  readonly connecting: number;
};

export type QueueConfig = {
  /** Tasks that may wait for a thread; one more rejects QUEUE_FULL. Default 10 000. */
  readonly max: number;
};

export type ShutdownConfig = {
  /** How long tasks are still taken while `health().ready` is false already. Default 0. */
  readonly lameDuckMs: number;
  /** How long running tasks may take to finish. Default 10 000. */
  readonly drainMs: number;
  /** How long the clients may take to close. Default 2 000. */
  readonly closeMs: number;
  /** Between aborting a task's signal and ending its thread. Default 1 000. */
  readonly cancelGraceMs: number;
  /** Shut down on SIGTERM and SIGINT. Default false. */
  readonly handleSignals: boolean;
};

export type LogConfig = {
  /** Default "info". */
  readonly level: LogLevel;
  /** Default "json". */
  readonly format: LogFormat;
};

export interface Credentials {
  /** Default: the server's default user. */
  readonly username?: string | undefined;
  readonly password: string;
  /** When the server stops accepting them: ms since the epoch, or a Date. Without it they are renewed when they are rejected. */
  readonly expiresAt?: number | Date | undefined;
}

/** Credentials in use: plain data, the same for every connection of the process. */
export interface Login {
  /** Counts up from 1, so that a thread can tell which login was rejected. */
  readonly version: number;
  readonly username?: string;
  readonly password: string;
}

/** Gives valid credentials, for instance a fresh IAM token. It is asked again after a failure, until it succeeds. */
export type CredentialsProvider = () => Credentials | Promise<Credentials>;

/** An option that is missing or undefined comes from a weaker source, at last from the defaults. */
type Optional<T> = { readonly [K in keyof T]?: ({} extends T[K] ? Optional<T[K]> : T[K]) | undefined };

export type RedisOptions = Optional<
  Omit<RedisConfig, "tls" | "sentinels" | "sentinelTls" | "clusterNodes" | "natMap">
> & {
  /**
   * redis://user:password@host:port/db, rediss:// for TLS, unix:/path. Not used if a stronger source names another server.
   * username, password, db and tls beside it win.
   */
  readonly url?: string | undefined;
  readonly tls?: boolean | Optional<TlsOptions> | undefined;
  /** The default port is 26379. As a variable: `host:port,host:port`. */
  readonly sentinels?: readonly { readonly host: string; readonly port?: number | undefined }[] | undefined;
  readonly sentinelTls?: boolean | Optional<TlsOptions> | undefined;
  /** The default port is 6379. As a variable: `host:port,host:port`. */
  readonly clusterNodes?: readonly { readonly host: string; readonly port?: number | undefined }[] | undefined;
  /** By `host:port`, as the servers tell it. As a variable: `10.0.0.1:6379=localhost:7001,10.0.0.2:6379=…`. */
  readonly natMap?: Readonly<Record<string, { readonly host: string; readonly port?: number | undefined }>> | undefined;
  /**
   * In place of username and password, whose other sources are then not used. Called on the main thread, before the last
   * credentials expire and when the server rejects them.
   */
  readonly credentials?: CredentialsProvider | undefined;
};

/** The options of `connect` and of threads without a manager. Precedence: options, environment, .env, configFile. */
export interface ConnectOptions {
  readonly appName?: string | undefined;
  /** Read in place of process.env. */
  readonly env?: NodeJS.ProcessEnv | undefined;
  /** A JSON file of these options, without the keys env, configFile, logger and tasks. */
  readonly configFile?: string | undefined;
  readonly redis?: RedisOptions | undefined;
  readonly primary?: Optional<PrimaryConfig> | undefined;
  readonly threads?: Optional<ThreadsConfig> | undefined;
  readonly dedicated?: Optional<DedicatedConfig> | undefined;
  readonly nearCache?: Optional<NearCacheConfig> | undefined;
  readonly retry?: Optional<RetryConfig> | undefined;
  readonly connections?: Optional<ConnectionsConfig> | undefined;
  readonly queue?: Optional<QueueConfig> | undefined;
  readonly shutdown?: Optional<ShutdownConfig> | undefined;
  readonly log?: Optional<LogConfig> | undefined;
  /** Receives the records of all threads, on the main thread. Winston is loaded only when none is given. */
  readonly logger?: Logger | undefined;
}

export interface AcquireOptions {
  /** Ends the waiting for a client, which rejects with its reason. */
  readonly signal?: AbortSignal | undefined;
}

export interface ManagerOptions extends ConnectOptions {
  /** The tasks module, loaded by every thread: a file URL or an absolute path. */
  readonly tasks: URL | string;
}

/** Freezes in depth and in place. A thread needs it too, because the copy of a Config that crossed is not frozen. */
export function freezeConfig<T>(value: T): T {
  // Views of bytes (tls keys) cannot be frozen.
  if (typeof value !== "object" || value === null || ArrayBuffer.isView(value)) return value;
  for (const part of Object.values(value)) freezeConfig(part);
  return Object.freeze(value);
}
