export * from "./core/errors.js";
export { connect, disconnect } from "./clients/connect.js";
export { loadConfig } from "./config/env.js";
export { cached, threadCached, type Cached, type CacheOptions, type ThreadCacheOptions } from "./core/memo.js";
export { connRetry } from "./core/retry.js";
export { ConnectionManager, type Health, type ShutdownOptions } from "./main/manager.js";
export type {
  AcquireOptions,
  Config,
  ConnectOptions,
  Credentials,
  CredentialsProvider,
  ManagerOptions,
  RedisOptions,
} from "./config/options.js";
export type {
  AcquireMessage,
  BreakerMessage,
  ConnectionMessage,
  ExecutionMessage,
  LeaseMessage,
  LockMessage,
  RotationMessage,
  TaskMessage,
  ThreadMessage,
  TraceContext,
} from "./core/channels.js";
export type { ChainableCommander, RedisCommander, RedisHandle, Result } from "./commands/ioredis.js";
export type { Near, NearOptions } from "./near/near-cache.js";
export type { Lock, SharedLock } from "./locks/held-lock.js";
export type { LockKeeping } from "./locks/kept-lock.js";
export type { LockOptions, SharedLockOptions } from "./locks/lock-options.js";
export type { Logger } from "./core/log.js";
export type { RetryOptions } from "./core/retry.js";
export type { DashboardOptions, RequestHandler } from "./main/observe/dashboard.js";
export type { RunOptions } from "./main/dispatch/task-run.js";
export type { ShutdownReport } from "./main/shutdown.js";
export type { KeeperStats, Stats, ThreadStats, Totals } from "./main/observe/stats.js";
export type { OffReason } from "./near/near-memory.js";
export type { NearCounts, NearStats } from "./near/near-stats.js";
export type { OnMessage, SubscribeOptions } from "./main/subscriptions.js";
export type { MapOptions, MapOutcome } from "./main/dispatch/task-map.js";
export type { AnyTasks, TaskInput, TaskName, TaskResult } from "./main/dispatch/task-types.js";
