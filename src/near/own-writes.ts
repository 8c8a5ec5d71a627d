import { type QueuedCommand, isInTable, isReadOnly } from "../commands/ioredis.js";
import { ownWrites } from "../commands/own-writes.js";
import type { CommandTrait } from "../commands/traits.js";
import type { NearMemory } from "./near-memory.js";

interface Watcher {
  readonly memory: NearMemory;
  readonly prefixes: readonly Buffer[];
}

/** The near caches of the process, which this thread's writes concern. */
const watchers = new Set<Watcher>();
/** The keys of the MULTI that is open on a connection: they are written with its EXEC. */
const transactions = new WeakMap<object, Dropped>();

/** These name no keys and change many. */
const FLUSHING: ReadonlySet<string> = new Set(["flushall", "flushdb", "swapdb", "function", "debug"]);
/** By its flags it only reads, but it stores what it has counted. */
const COUNTING = "pfcount";

/** A transaction with more keys drops everything. */
const MAX_BUCKETS = 10_000;

/**
 * From now on this thread's writes drop what they change before their promises settle, because the server's own word comes later
 * than its reply. Gives the function that ends this. `keyPrefix` stands before the prefixes.
 */
export function watchOwnWrites(memory: NearMemory, keyPrefix: string, prefixes: readonly string[]): () => void {
  const watcher: Watcher = { memory, prefixes: prefixes.map((prefix) => Buffer.from(keyPrefix + prefix)) };
  watchers.add(watcher);
  ownWrites.note = note;
  return () => {
    watchers.delete(watcher);
    if (watchers.size === 0) delete ownWrites.note;
  };
}

/** What a command may have changed. */
class Dropped {
  readonly #buckets: [NearMemory, bucket: number][] = [];
  #isAll = false;

  get isEmpty(): boolean {
    return this.#buckets.length === 0 && !this.#isAll;
  }

  add(memory: NearMemory, bucket: number): void {
    if (this.#buckets.length >= MAX_BUCKETS) this.#isAll = true;
    else this.#buckets.push([memory, bucket]);
  }

  addAll(other?: Dropped): void {
    if (!other || other.#isAll) this.#isAll = true;
    else for (const [memory, bucket] of other.#buckets) this.add(memory, bucket);
  }

  drop(): void {
    if (this.#isAll) for (const { memory } of watchers) memory.flush();
    else for (const [memory, bucket] of this.#buckets) memory.invalidate(bucket);
  }
}

function note(queue: object, command: QueuedCommand, trait: CommandTrait): void {
  if (trait === "multi") return void transactions.set(queue, new Dropped());
  const open = transactions.get(queue);
  if (trait === "exec" || trait === "discard") {
    transactions.delete(queue);
    if (open && !open.isEmpty) beforeItSettles(command, () => open.drop());
    return;
  }
  if (trait !== "plain" && trait !== "blocking") return;
  const dropped = droppedBy(command);
  if (!dropped) return;
  open?.addAll(dropped);
  beforeItSettles(command, () => dropped.drop());
}

/** Also if it fails or is given up: it may have run. */
function beforeItSettles(command: QueuedCommand, act: () => void): void {
  for (const way of ["resolve", "reject"] as const) {
    const settle = command[way] as (outcome: unknown) => unknown;
    command[way] = (outcome: unknown) => {
      act();
      return Reflect.apply(settle, command, [outcome]);
    };
  }
}

/**
 * Every argument that could be a key of the cache counts as one, wherever it stands. Where a command has its keys is then not
 * asked: a value that reads like a key drops too much, and never too little.
 */
function droppedBy({ name, args }: QueuedCommand): Dropped | undefined {
  const lower = name.toLowerCase();
  if (isReadOnly(name) && lower !== COUNTING) return undefined;
  const dropped = new Dropped();
  if (FLUSHING.has(lower)) dropped.addAll();
  else
    for (const watcher of watchers)
      for (const arg of args as readonly unknown[]) {
        const key = keyIn(arg, watcher.prefixes);
        if (key) dropped.add(watcher.memory, watcher.memory.bucketOf(watcher.memory.hashOf(key, key.length)));
      }
  // A command of a module may change keys that it does not name.
  if (dropped.isEmpty && !isInTable(name)) dropped.addAll();
  return dropped.isEmpty ? undefined : dropped;
}

function keyIn(arg: unknown, prefixes: readonly Buffer[]): Buffer | undefined {
  const bytes = Buffer.isBuffer(arg) ? arg : Buffer.from(String(arg as string | number));
  const isKey = prefixes.some(
    (prefix) => bytes.length >= prefix.length && prefix.compare(bytes, 0, prefix.length) === 0,
  );
  return isKey ? bytes : undefined;
}
