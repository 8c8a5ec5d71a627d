import { createHash } from "node:crypto";

export type Argument = string | number | Buffer;
export type Command = readonly [name: string, ...args: Argument[]];

/** The commands of the n-th step of a way to change a key. After each step the key has another value, or none. */
export type Path = (key: string, n: number) => readonly Command[];

/** A key beside the one that is read, outside of the prefixes. */
function other(key: string): string {
  return `other ${key}`;
}

/** Odd steps make the key, and even ones take it away. */
function taking(take: (key: string) => readonly Command[]): Path {
  return (key, n) => (n % 2 === 1 ? [["set", key, n]] : take(key));
}

/** The key comes from another one. */
function from(make: (key: string, source: string) => Command): Path {
  return (key, n) => [["set", other(key), n], make(key, other(key))];
}

const SET = `return redis.call("set", KEYS[1], ARGV[1])`;
/** The server does nothing else meanwhile. */
export const LONG_SCRIPT_MS = 1_500;
const ENDS = {
  error: `return redis.error_reply("ERR after the write")`,
  "no reply": `return "no reply"`,
  "late reply": `return "late reply"`,
  "long script": `local from = redis.call("time") repeat local t = redis.call("time")
    until (t[1] - from[1]) * 1000 + (t[2] - from[2]) / 1000 > ${LONG_SCRIPT_MS}`,
};

/** The function that the test loads into the server. */
export const LIBRARY = `#!lua name=near
redis.register_function("near_set", function(keys, args) return redis.call("set", keys[1], args[1]) end)`;

/** A script that names no key; the test loads it into the server. */
export const FLUSHES = `return redis.call("flushdb")`;
const FLUSHES_SHA = createHash("sha1").update(FLUSHES).digest("hex");

/** Commands that the server of the test has under names that no client knows, as those of modules are. */
export const RENAMED = { psetex: "near.set", evalsha: "near.run" };

/** Everything that can change what a key has. */
export const PATHS: Readonly<Record<string, Path>> = {
  set: (key, n) => [["set", key, n]],
  "a key in bytes": (key, n) => [["set", Buffer.from(key), n]],
  "a name in capitals": (key, n) => [["SET", key, n]],
  mset: (key, n) => [["mset", other(key), 1, key, n]],
  getset: (key, n) => [["getset", key, n]],
  setex: (key, n) => [["setex", key, 1_000, n]],
  del: taking((key) => [["del", key]]),
  unlink: taking((key) => [["unlink", other(key), key]]),
  getdel: taking((key) => [["getdel", key]]),
  getex: taking((key) => [["getex", key, "PXAT", 1]]),
  pexpireat: taking((key) => [["pexpireat", key, 1]]),
  flushdb: taking(() => [["flushdb"]]),
  flushall: taking(() => [["flushall", "SYNC"]]),
  swapdb: taking(() => [["swapdb", 0, 1]]),
  "rename away": taking((key) => [["rename", key, other(key)]]),
  move: taking((key) => [["move", key, 1]]),
  "sort store": taking((key) => [
    ["del", other(key)],
    ["sort", other(key), "STORE", key],
  ]),
  bitfield: taking((key) => [["bitfield", key, "SET", "u8", 0, 90]]),
  incr: (key) => [["incr", key]],
  decrby: (key) => [["decrby", key, 3]],
  incrbyfloat: (key) => [["incrbyfloat", key, "1.5"]],
  append: (key) => [["append", key, "1"]],
  setrange: (key, n) => [["setrange", key, 0, String(n).padStart(6, "0")]],
  setbit: (key, n) => [["setbit", key, n, 1]],
  rename: from((key, source) => ["rename", source, key]),
  copy: from((key, source) => ["copy", source, key, "REPLACE"]),
  bitop: from((key, source) => ["bitop", "NOT", key, source]),
  pfadd: (key, n) => [["pfadd", key, n]],
  pfcount: (key, n) => [n % 2 === 1 ? ["pfadd", key, n] : ["pfcount", key]],
  pfmerge: (key, n) => [
    ["pfadd", other(key), n],
    ["pfmerge", key, other(key)],
  ],
  eval: (key, n) => [["eval", SET, 1, key, n]],
  fcall: (key, n) => [["fcall", "near_set", 1, key, n]],
  "the command of a module": (key, n) => [["near.set", key, 100_000, n]],
  "the command of a module that names no key": taking(() => [["near.run", FLUSHES_SHA, 0]]),
};

/** The key is changed, and then the command fails: by an error, or because the proxy keeps this reply. */
export function failing(how: keyof typeof ENDS): Path {
  const script = `redis.call("set", KEYS[1], ARGV[1]) ${ENDS[how]}`;
  return (key, n) => [["eval", script, 1, key, n]];
}
