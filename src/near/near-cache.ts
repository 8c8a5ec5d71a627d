import type { RedisHandle } from "../commands/ioredis.js";
import type { Config } from "../config/options.js";
import { sharedClock } from "../core/clock.js";
import { CommandRefusedError } from "../core/errors.js";
import { isAhead } from "../core/shared-time.js";
import { NEAR_FIELDS, type NearField } from "../link/ledger.js";
import { Flights, type NearCounters, type Reply } from "./flights.js";
import { deepFreeze } from "./json.js";
import type { NearBuffers } from "./near-buffers.js";
import { type KeyInBytes, MAX_KEY_BYTES, NearLog } from "./near-log.js";
import { type NearMemory, TRACKING } from "./near-memory.js";
import { type Decoded, type OwnEntry, OwnTable } from "./own-table.js";

type Key = string | Buffer;

export interface NearOptions {
  /** Asks Redis. Default false. */
  readonly fresh?: boolean | undefined;
}

/** Hot keys, read from memory that all threads of the process share. */
export interface Near {
  /**
   * The value of a key as text, or null if there is none. It was the server's at most `nearCache.maxStaleMs` before this call, and
   * is no older than a write of this manager or one of its threads that has resolved. Where that is not known, Redis is asked.
   * @throws REDTHREAD_COMMAND_REFUSED if the key begins with none of `nearCache.prefixes`; REDTHREAD_CONFIG_INVALID without
   * `nearCache.prefixes`; TypeError if the key is neither text nor a Buffer; what getRedis() and GET reject with
   */
  get(key: string | Buffer, options?: NearOptions): Promise<string | null>;
  /** As `get`, in bytes: a copy for this caller. */
  getBuffer(key: string | Buffer, options?: NearOptions): Promise<Buffer | null>;
  /**
   * As `get`, parsed as JSON. A thread parses a value once: all its callers get the same object, which is deeply frozen.
   * @throws SyntaxError if the value is no JSON
   */
  json<T = unknown>(key: string | Buffer, options?: NearOptions): Promise<T | null>;
  /**
   * As `get`, for many keys: those that are not in memory are asked for together. It rejects if one of them holds no text.
   * @throws as `get`; TypeError if `keys` is no array
   */
  mget(keys: readonly (string | Buffer)[], options?: NearOptions): Promise<(string | null)[]>;
  /**
   * As `get`, but at once, also in a computation that does not return to the loop. Undefined where Redis would have to be asked.
   * @throws REDTHREAD_COMMAND_REFUSED, REDTHREAD_CONFIG_INVALID, TypeError, as `get`
   */
  peek(key: string | Buffer): string | null | undefined;
}

export interface NearCacheOptions {
  readonly config: Config;
  readonly buffers: NearBuffers;
  readonly memory: NearMemory;
  /** A number above 0 that no other thread of the process has ever had. */
  readonly owner: number;
  readonly getRedis: () => Promise<RedisHandle>;
  readonly counter: (field: NearField) => () => void;
  readonly onClose: () => void;
}

/** No text that is well formed begins with it: what was asked for in bytes cannot be taken for a text. */
const IN_BYTES = "\udc00";

/** So much of a key is shown in a message. */
const NAMED = 100;

/** A parsed value takes about as many times the bytes of its text. */
const OBJECT_SHARE = 2;

/** The near cache in one thread. */
export class NearCache implements Near {
  readonly #memory: NearMemory;
  readonly #log: NearLog;
  readonly #own: OwnTable;
  readonly #flights: Flights;
  readonly #prefixes: readonly string[];
  readonly #count: NearCounters;
  /** The key that was looked up last, with `redis.keyPrefix` before it. */
  readonly #place: KeyInBytes;
  readonly #prefixLength: number;
  /** Values of this epoch may be served here, because this thread is not connected to another server than the tracked one. */
  #servedEpoch: number | undefined;
  /** The server that this thread's client is connected to. */
  #server: string | undefined;
  readonly #onClose: () => void;

  constructor({ config, buffers, memory, owner, getRedis, counter, onClose }: NearCacheOptions) {
    const { ownTableBytes, prefixes, maxValueBytes, maxAgeMs } = config.nearCache;
    this.#memory = memory;
    this.#onClose = onClose;
    this.#log = new NearLog(memory, buffers, owner);
    this.#own = new OwnTable(ownTableBytes);
    this.#prefixes = prefixes!;
    const count = Object.fromEntries(NEAR_FIELDS.map((field) => [field, counter(field)])) as Record<
      NearField,
      () => void
    >;
    this.#count = count;
    this.#flights = new Flights({ memory, log: this.#log, getRedis, maxValueBytes, maxAgeMs, count });
    const bytes = Buffer.alloc(MAX_KEY_BYTES + 4); // room for a character that is too much
    this.#prefixLength = bytes.write(config.redis.keyPrefix);
    this.#place = { bytes, length: 0, hash: 0, bucket: 0 };
  }

  get(key: Key, options?: NearOptions): Promise<string | null> {
    return this.#read(key, options, this.#textNow, this.#textOf);
  }

  getBuffer(key: Key, options?: NearOptions): Promise<Buffer | null> {
    return this.#read(key, options, this.#bufferNow, this.#bufferOf);
  }

  json<T = unknown>(key: Key, options?: NearOptions): Promise<T | null> {
    return this.#read(key, options, this.#jsonNow, this.#jsonOf) as Promise<T | null>;
  }

  async mget(keys: readonly Key[], options?: NearOptions): Promise<(string | null)[]> {
    if (!Array.isArray(keys)) throw new TypeError("near.mget() needs an array of keys");
    return Promise.all(keys.map((key) => this.get(key, options)));
  }

  peek(key: Key): string | null | undefined {
    return this.#textNow(key, idOf(key));
  }

  /** This thread's client is connected to this server; undefined if the server does not tell its name. */
  identified(server: string | undefined): void {
    this.#server = server;
    this.#servedEpoch = undefined;
    if (server !== undefined && this.#memory.state === TRACKING && !this.#memory.isServer(server))
      this.#memory.foundElsewhere();
  }

  /** Another thread may fill what this one was filling. */
  close(): void {
    this.#log.close();
    this.#own.clear();
    this.#onClose();
  }

  /** From memory at once, or from Redis. */
  #read<T>(
    key: Key,
    options: NearOptions | undefined,
    now: (key: Key, id: string) => T | undefined,
    of: (reply: Reply, key: Key, id: string) => T,
  ): Promise<T> {
    const id = idOf(key);
    try {
      const value = options?.fresh ? undefined : now(key, id);
      if (value !== undefined) return Promise.resolve(value);
      return this.#ask(key, id, options?.fresh === true).then((reply) => of(reply, key, id));
    } catch (error) {
      return Promise.reject(error);
    }
  }

  #ask(key: Key, id: string, isFresh: boolean): Promise<Reply> {
    const place = this.#locate(key) ? this.#place : undefined;
    const isServing = this.#memory.isServing(sharedClock()) && this.#isServed(this.#memory.epoch);
    this.#count.nearMisses();
    if (!isServing) this.#count.nearUnleased();
    return this.#flights.get(id, key, place, isServing && !isFresh);
  }

  // Fields, so that they can be handed to #read without a closure for each call.

  readonly #textNow = (key: Key, id: string): string | null | undefined => {
    const now = sharedClock();
    const entry = this.#own.text(id);
    if (entry && entry.value !== undefined && this.#isCurrent(entry, now)) return entry.value as string | null;
    if (!this.#find(key, now)) return undefined;
    const text = this.#log.text();
    if (!this.#isStill()) return undefined;
    this.#own.setText(id, this.#found(text), this.#log.valueBytes);
    return text;
  };

  readonly #jsonNow = (key: Key, id: string): unknown => {
    const now = sharedClock();
    const entry = this.#own.object(id);
    if (entry && entry.value !== undefined && this.#isCurrent(entry, now)) return entry.value;
    if (!this.#find(key, now)) return undefined;
    const text = this.#log.text();
    if (!this.#isStill()) return undefined;
    const value = parse(text, key);
    this.#own.setObject(id, this.#found(value), OBJECT_SHARE * this.#log.valueBytes);
    return value;
  };

  readonly #bufferNow = (key: Key): Buffer | null | undefined => {
    if (!this.#find(key, sharedClock())) return undefined;
    const value = this.#log.buffer();
    return this.#isStill() ? value : undefined;
  };

  readonly #textOf = (reply: Reply, _key: Key, id: string): string | null => {
    const { text } = reply;
    if (reply.kept) this.#own.setText(id, { ...reply.kept, value: text }, reply.textBytes);
    return text;
  };

  readonly #jsonOf = (reply: Reply, key: Key, id: string): unknown => {
    const value = reply.json((text) => parse(text, key));
    if (reply.kept) this.#own.setObject(id, { ...reply.kept, value }, OBJECT_SHARE * reply.textBytes);
    return value;
  };

  readonly #bufferOf = ({ bytes }: Reply): Buffer | null => bytes && Buffer.from(bytes);

  /** The lease first: what was told before it was moved is seen by the loads behind it. */
  #isCurrent({ bucket, version, epoch, deadline }: OwnEntry, now: number): boolean {
    const memory = this.#memory;
    const isCurrent =
      memory.isServing(now) &&
      memory.epoch === epoch &&
      this.#isServed(epoch) &&
      memory.versionOf(bucket) === version &&
      isAhead(deadline, now);
    if (isCurrent) this.#count.nearOwnHits();
    return isCurrent;
  }

  #find(key: Key, now: number): boolean {
    if (!this.#locate(key) || !this.#memory.isServing(now)) return false;
    const { epoch } = this.#memory;
    if (!this.#isServed(epoch)) return false;
    return this.#log.find(this.#place, epoch, now);
  }

  #isStill(): boolean {
    const isStill = this.#log.isStill();
    if (isStill) this.#count.nearSharedHits();
    return isStill;
  }

  /** An entry of what the log has found. */
  #found(value: unknown): Decoded {
    const { version, deadline } = this.#log;
    return { bucket: this.#place.bucket, version, epoch: this.#servedEpoch!, deadline, value };
  }

  #isServed(epoch: number): boolean {
    if (epoch === this.#servedEpoch) return true;
    if (this.#server !== undefined && !this.#memory.isServer(this.#server)) return false;
    this.#servedEpoch = epoch;
    return true;
  }

  /** Encodes the key. False if it is too long to be kept. @throws REDTHREAD_COMMAND_REFUSED */
  #locate(key: Key): boolean {
    if (typeof key !== "string" && !Buffer.isBuffer(key))
      throw new TypeError("a key of the near cache must be text or a Buffer");
    if (!this.#isInside(key)) throw outside(key);
    const place = this.#place;
    const room = MAX_KEY_BYTES - this.#prefixLength;
    if (key.length > room) return false;
    const written =
      typeof key === "string"
        ? encode(key, place.bytes, this.#prefixLength)
        : key.copy(place.bytes, this.#prefixLength);
    if (written > room) return false;
    const length = (place.length = this.#prefixLength + written);
    const hash = (place.hash = this.#memory.hashOf(place.bytes, length));
    place.bucket = this.#memory.bucketOf(hash);
    return true;
  }

  #isInside(key: Key): boolean {
    for (const prefix of this.#prefixes) if (beginsWith(key, prefix)) return true;
    return false;
  }
}

/** As `Buffer.write`, which for a short key takes longer than all else that a hit asks. Gives the number of bytes. */
function encode(key: string, bytes: Buffer, at: number): number {
  for (let i = 0; i < key.length; i++) {
    const code = key.charCodeAt(i);
    if (code >= 0x80) return bytes.write(key, at);
    bytes[at + i] = code;
  }
  return key.length;
}

/** A key that is neither is refused where it is looked up. */
function idOf(key: Key): string {
  if (typeof key === "string") return key.charCodeAt(0) === IN_BYTES.charCodeAt(0) ? IN_BYTES + key : key;
  return Buffer.isBuffer(key) ? IN_BYTES + key.toString("latin1") : key;
}

function beginsWith(key: Key, prefix: string): boolean {
  if (typeof key === "string") return key.startsWith(prefix);
  const bytes = Buffer.from(prefix);
  return key.subarray(0, bytes.length).equals(bytes);
}

function outside(key: Key): CommandRefusedError {
  const reason = "it begins with none of nearCache.prefixes, so that nobody would tell of its writes";
  return new CommandRefusedError(`${named(key)} is not read through the near cache: ${reason}`, {
    outcome: "refused",
    command: "get",
    reason,
  });
}

/** A key for a message: keys from outside may be long, and have line breaks in them. */
function named(key: Key): string {
  const text = (typeof key === "string" ? key : key.subarray(0, NAMED).toString()).slice(0, NAMED);
  return JSON.stringify(text) + (key.length > NAMED ? " …" : "");
}

/** V8's own message would show a part of the value. @throws SyntaxError */
function parse(text: string | null, key: Key): unknown {
  if (text === null) return null;
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new SyntaxError(`the value of ${named(key)} is no JSON`);
  }
  return deepFreeze(value);
}
