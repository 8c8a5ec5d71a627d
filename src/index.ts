export * from "./common/errors.js";
export { connect, disconnect } from "./common/connect.js";
export { loadConfig } from "./common/env.js";
export { cached, threadCached, type Cached, type CacheOptions, type ThreadCacheOptions } from "./common/memo.js";
export { connRetry } from "./common/retry.js";
export { ConnectionManager, type Health, type ShutdownOptions } from "./main/manager.js";
export type {
  AcquireOptions,
  Config,
  ConnectOptions,
  Credentials,
  CredentialsProvider,
  ManagerOptions,
  RedisOptions,
} from "./common/options.js";
export type {
  AcquireMessage,
  BreakerMessage,
  ConnectionMessage,
  ExecutionMessage,
  LeaseMessage,
  RotationMessage,
  TaskMessage,
  ThreadMessage,
  TraceContext,
} from "./common/channels.js";
export type { ChainableCommander, RedisCommander, RedisHandle, Result } from "./common/ioredis.js";
export type { Logger } from "./common/log.js";
export type { RetryOptions } from "./common/retry.js";
export type { DashboardOptions, RequestHandler } from "./main/dashboard.js";
export type { RunOptions } from "./main/job.js";
export type { ShutdownReport } from "./main/shutdown.js";
export type { Stats, ThreadStats, Totals } from "./main/stats.js";
export type { OnMessage, SubscribeOptions } from "./main/subscriptions.js";
export type { MapOptions, MapOutcome } from "./main/task-map.js";
export type { AnyTasks, TaskInput, TaskName, TaskResult } from "./main/task-types.js";
