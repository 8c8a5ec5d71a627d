import type { Command as IoredisCommand, Redis as Ioredis } from "ioredis";
import { requirePackage } from "./packages.js";

export type { RedisOptions } from "ioredis";

const ioredis = requirePackage<typeof import("ioredis")>("ioredis");

export const { Command, Redis } = ioredis;

/** An ioredis client, whoever made it: what users hold. */
export type RedisHandle = Ioredis;
export type QueuedCommand = IoredisCommand;
export type CommandStream = Parameters<RedisHandle["sendCommand"]>[1];
