import { type AnyClient, clientOf } from "../clients/open-client.js";
import type { RedisHandle } from "../commands/ioredis.js";
import { Client } from "../connection/client.js";
import { monotonic, sharedClock } from "../core/clock.js";
import { timeWord } from "../core/shared-time.js";
import type { NearField } from "../link/ledger.js";
import type { KeyInBytes, NearLog, Ticket } from "./near-log.js";
import { type NearMemory, TRACKING } from "./near-memory.js";

type Key = string | Buffer;

/** The pause between two questions for a server's name. */
const IDENTIFY_MS = 10_000;
/** A record that ends so little earlier is as good as a new one. */
const SAME_MS = 1_000;

export type NearCounters = Readonly<Record<NearField, () => void>>;

export interface FlightsOptions {
  readonly memory: NearMemory;
  readonly log: NearLog;
  readonly getRedis: () => Promise<RedisHandle>;
  readonly maxValueBytes: number;
  readonly maxAgeMs: number;
  readonly count: NearCounters;
}

/** The answer to a GET. Those who share it must not change it. */
export class Reply {
  readonly bytes: Buffer | null;
  /** Undefined: it is not kept. */
  readonly kept: (Ticket & { readonly bucket: number; readonly deadline: number }) | undefined;
  #text: string | null | undefined;
  #json: unknown;

  constructor(bytes: Buffer | null, kept: Reply["kept"]) {
    this.bytes = bytes;
    this.kept = kept;
  }

  get text(): string | null {
    return (this.#text ??= this.bytes && this.bytes.toString());
  }

  /** What the text takes in memory. */
  get textBytes(): number {
    const { length } = this.text ?? "";
    return length === this.bytes?.length ? length : 2 * length; // V8 has two bytes for each character, unless all are Latin-1
  }

  /** What `parse` makes of the text, once. */
  json(parse: (text: string | null) => unknown): unknown {
    return (this.#json ??= parse(this.text));
  }
}

interface Flight {
  /** Undefined when it has landed. */
  reply: Promise<Reply> | undefined;
  readonly bucket: number;
  /** What the key was when the command was sent; undefined before that. */
  ticket: Ticket | undefined;
  /** The command may have left. */
  hasLeft: boolean;
}

/** A reply of the server, and the connection that it came on. */
interface Received<T> {
  readonly value: T;
  readonly stream: unknown;
  readonly server: string | undefined;
}

/** The GETs of a thread that are under way. Callers who miss the same key share one, and its value is kept for all threads. */
export class Flights {
  readonly #options: FlightsOptions;
  /** The latest one for each key. */
  readonly #flights = new Map<string, Flight>();

  #identifyAt = 0;

  constructor(options: FlightsOptions) {
    this.#options = options;
  }

  /** `place`: where the key is, if it can be kept. `mayJoin`: the lease says that writes since then would be known. */
  get(id: string, key: Key, place: KeyInBytes | undefined, mayJoin: boolean): Promise<Reply> {
    const last = this.#flights.get(id);
    if (last?.reply && this.#isShared(last, mayJoin)) return last.reply;
    const flight: Flight = { reply: undefined, bucket: place?.bucket ?? -1, ticket: undefined, hasLeft: false };
    // Copies: the place is used for each key, and the caller may change the bytes of its key before the command leaves.
    const asked = typeof key === "string" ? key : Buffer.from(key);
    const kept = place && { ...place, bytes: Buffer.from(place.bytes.subarray(0, place.length)) };
    const reply = (flight.reply = this.#ask(flight, asked, kept));
    this.#flights.set(id, flight);
    const landed = (): void => {
      flight.reply = undefined; // old tables of the Map may hold the flight until the next full collection, see ArrayMap
      if (this.#flights.get(id) === flight) this.#flights.delete(id);
    };
    reply.then(landed, landed);
    return reply;
  }

  /**
   * A caller may join a command that has not left yet, because it will be answered after this moment. Later its answer is as good
   * as a value in memory: only while its ticket is current, and while writes of others are known.
   */
  #isShared({ bucket, ticket, hasLeft }: Flight, mayJoin: boolean): boolean {
    if (!hasLeft) return true;
    return ticket !== undefined && mayJoin && this.#isCurrent(bucket, ticket);
  }

  #isCurrent(bucket: number, { version, epoch }: Ticket): boolean {
    const { memory } = this.#options;
    return memory.epoch === epoch && memory.versionOf(bucket) === version;
  }

  async #ask(flight: Flight, key: Key, place: KeyInBytes | undefined): Promise<Reply> {
    const { memory, getRedis, count } = this.#options;
    const redis = await getRedis();
    flight.hasLeft = true; // the socket may be written to in this very turn
    if (!place || memory.state !== TRACKING) {
      const bytes = await redis.getBuffer(key);
      if (!place) count.nearOversize();
      return new Reply(bytes, undefined);
    }
    const ticket = (flight.ticket = { version: memory.versionOf(place.bucket), epoch: memory.epoch });
    const sentAt = sharedClock();
    const client = clientOf(redis);
    this.#identify(client);
    const ttl = received(client, redis.pttl(key)).catch(() => undefined); // without the right to ask nothing is kept
    const got = await received(client, redis.getBuffer(key));
    const deadline = this.#deadline(sentAt, got, await ttl);
    if (deadline === undefined || !this.#keep(place, ticket, deadline, got)) return new Reply(got.value, undefined);
    return new Reply(got.value, { ...ticket, bucket: place.bucket, deadline });
  }

  /** Undefined if the two replies do not belong together, or the value is at its end. */
  #deadline(sentAt: number, got: Received<Buffer | null>, ttl: Received<number> | undefined): number | undefined {
    if (!ttl || ttl.stream !== got.stream) return undefined;
    const leftMs = Number(ttl.value); // with `stringNumbers` it is a text
    if (leftMs === -2 && got.value) return undefined; // it was made in between: its end is not known
    const { maxAgeMs } = this.#options;
    const ms = leftMs < 0 ? maxAgeMs : Math.min(leftMs, maxAgeMs);
    return ms > 0 ? timeWord(sentAt + ms) : undefined;
  }

  #keep(place: KeyInBytes, ticket: Ticket, deadline: number, { value, server }: Received<Buffer | null>): boolean {
    const { memory, log, maxValueBytes, count } = this.#options;
    if (server === undefined || !memory.isServer(server)) return refuse(count.nearElsewhere);
    if (value && value.length > maxValueBytes) return refuse(count.nearOversize);
    if (!this.#isCurrent(place.bucket, ticket)) return refuse(count.nearOutdated);
    // Threads that miss a key at the same time have the same value: one record is enough.
    const isThere = log.find(place, ticket.epoch, (deadline - SAME_MS) | 0) && log.version === ticket.version;
    const isKept = isThere || log.append(place, ticket, deadline, value);
    if (isKept) count.nearFills();
    return isKept;
  }

  /** The server did not tell its name when the connection was made: it may by now, because the keeper has learnt it. */
  #identify(client: AnyClient | undefined): void {
    if (!(client instanceof Client) || client.server !== undefined || monotonic() < this.#identifyAt) return;
    this.#identifyAt = monotonic() + IDENTIFY_MS;
    client.identify().catch(() => {}); // the connection is gone, and the next one is asked
  }
}

function refuse(count: () => void): false {
  count();
  return false;
}

/** The reply with the connection of the moment in which it came: its promise settles in the turn that reads it. */
async function received<T>(client: AnyClient | undefined, reply: Promise<T>): Promise<Received<T>> {
  const value = await reply;
  return { value, stream: client?.redis.stream, server: client instanceof Client ? client.server : undefined };
}
