import { isDeepStrictEqual } from "node:util";
import type { View } from "./session-others.js";
import { isDeaf, type State } from "./session-server.js";

export interface Expected {
  /** The users that it may be logged in as. */
  readonly users: readonly string[];
  readonly protocol: 2 | 3;
  /**
   * `redis.keyPrefix`, which sharded channels have too; undefined if the run's channels may belong to another
   * connection.
   */
  readonly prefix: string | undefined;
}

/** How the server's view of the connection differs from this state, if at all. */
export function difference(state: State, { client, ...view }: View, expected: Expected): string | undefined {
  if (!client) return "not listed";
  const { subscribe, psubscribe, ssubscribe } = state.subscribed;
  const isOpen = state.queue !== undefined;
  const isFailing = state.isAborted || state.isDirty; // then the server queues no more
  const fields: Record<string, unknown> = {
    db: state.db,
    sub: subscribe.length,
    psub: psubscribe.length,
    ssub: ssubscribe.length,
    resp: expected.protocol,
    ...(isOpen && !isFailing && { multi: state.queue.length }),
  };
  const flags = {
    x: isOpen,
    d: state.isDirty,
    O: state.isMonitoring,
    P: subscribe.length + psubscribe.length + ssubscribe.length > 0,
    b: false,
  };
  for (const [field, value] of Object.entries(fields))
    if (field in client && client[field] !== String(value))
      return `${field}=${client[field]} instead of ${String(value)}`;
  for (const [flag, isSet] of Object.entries(flags))
    if (client.flags.includes(flag) !== isSet) return `flags=${client.flags} ${isSet ? "without" : "with"} ${flag}`;
  // A new login waits for the end of a transaction, and cannot come if nothing else may run.
  const isWaiting = isOpen || state.isMonitoring || isDeaf(state, "echo", expected);
  if (!isWaiting && !expected.users.includes(client.user))
    return `user=${client.user} instead of ${expected.users.join(" or ")}`;
  const { prefix } = expected;
  if (prefix === undefined) return undefined;
  const sharded = ssubscribe.map((channel) => prefix + channel);
  return listed("channels", view.channels, subscribe) ?? listed("sharded channels", view.shardChannels, sharded);
}

function listed(what: string, seen: readonly string[], expected: readonly string[]): string | undefined {
  const isSame = isDeepStrictEqual(seen.toSorted(), expected.toSorted());
  return isSame ? undefined : `${what} (${seen.join(", ")}) instead of (${expected.join(", ")})`;
}

/** What the commands of one role have written, compared with what they should have written. */
export class Journal {
  /** Tokens read since the last agreement. */
  #read: string[] = [];
  /** Tokens that may have been written, and may still be written. */
  readonly #maybe = new Set<string>();
  /** Scripts sent again behind other commands after a SCRIPT FLUSH: on a client of many callers these have no order. */
  readonly #unordered = new Set<string>();

  unordered(token: string): void {
    this.#unordered.add(token);
  }

  read(entries: readonly string[]): void {
    this.#read.push(...entries);
  }

  difference({ journal, maybe }: State): string | undefined {
    const tokens = this.#read.map(tokenOf);
    const twice = tokens.find((token, i) => tokens.indexOf(token) !== i);
    if (twice) return `${twice} was written twice`;
    const torn = maybe.find((group) => new Set(group.map((token) => tokens.includes(token))).size > 1);
    if (torn) return `of a transaction (${torn.join(" ")}) only a part was written`;
    const mayBe = new Set([...this.#maybe, ...maybe.flat()]);
    const certain = this.#read.filter((entry) => !mayBe.has(tokenOf(entry)));
    const expected = [0, 1, 2].flatMap((db) => journal.filter((entry) => entry.startsWith(`${db} `)));
    const isSame = isDeepStrictEqual(this.#ordered(certain), this.#ordered(expected));
    return isSame ? undefined : `the journal has (${certain.join(", ")}) instead of (${expected.join(", ")})`;
  }

  agreed(states: readonly State[]): void {
    for (const { maybe } of states) for (const token of maybe.flat()) this.#maybe.add(token);
    this.#read = [];
  }

  #ordered(entries: readonly string[]): string[] {
    const isFree = (entry: string): boolean => this.#unordered.has(tokenOf(entry));
    return [...entries.filter((entry) => !isFree(entry)), ...entries.filter(isFree).toSorted()];
  }
}

function tokenOf(entry: string): string {
  return entry.slice(entry.indexOf(" ") + 1);
}
