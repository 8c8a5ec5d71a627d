import { isInTable, isReadOnly, type QueuedCommand } from "../commands/ioredis.js";
import { ownWrites } from "../commands/own-writes.js";
import type { CommandTrait } from "../commands/traits.js";
import { MAX_KEY_BYTES } from "./near-log.js";
import type { NearMemory } from "./near-memory.js";

interface Prefix {
  readonly text: string;
  readonly bytes: Buffer;
}

interface Watcher {
  readonly memory: NearMemory;
  readonly prefixes: readonly Prefix[];
  /** Whether the server says that a command which ioredis does not know only reads. */
  readonly onlyReads: (name: string) => boolean;
}

/** The near caches of the process, which this thread's writes concern. */
const watchers = new Set<Watcher>();
/** What the commands of the MULTI that is open on a connection change, with its EXEC. */
const transactions = new WeakMap<object, Changes>();

/** These name no keys and change many. */
const FLUSHING: ReadonlySet<string> = new Set(["flushall", "flushdb", "swapdb", "function", "debug"]);
/** By its flags it only reads, but it stores what it has counted. */
const COUNTING = "pfcount";
/** A transaction that changes more keys drops everything. */
const MAX_CHANGES = 10_000;

/**
 * From now on what this thread's writes change is dropped before their promises settle, because the server tells of a write only
 * after its reply. `keyPrefix` stands before the prefixes. Gives the function that ends this.
 */
export function watchOwnWrites(
  memory: NearMemory,
  keyPrefix: string,
  prefixes: readonly string[],
  onlyReads: (name: string) => boolean,
): () => void {
  const whole = prefixes.map((prefix) => keyPrefix + prefix);
  const watcher = { memory, prefixes: whole.map((text) => ({ text, bytes: Buffer.from(text) })), onlyReads };
  watchers.add(watcher);
  setNoting(true);
  return () => {
    watchers.delete(watcher);
    if (watchers.size === 0) setNoting(false);
  };
}

function setNoting(isWanted: boolean): void {
  const notes = (ownWrites.notes ??= new Set());
  if (isWanted) notes.add(note);
  else notes.delete(note);
  ownWrites.note = notes.size === 0 ? undefined : (...noted) => notes.forEach((one) => one(...noted));
}

/** What commands may have changed: places in near caches, or everything. */
class Changes {
  readonly #places: [memory: NearMemory, bucket: number][] = [];
  #areAll = false;

  add(memory: NearMemory, bucket: number): void {
    if (this.#places.length < MAX_CHANGES) this.#places.push([memory, bucket]);
    else this.#areAll = true;
  }

  addAll(other?: Changes): void {
    if (!other || other.#areAll) this.#areAll = true;
    else for (const [memory, bucket] of other.#places) this.add(memory, bucket);
  }

  drop(): void {
    if (this.#areAll) for (const { memory } of watchers) memory.flush();
    else for (const [memory, bucket] of this.#places) memory.invalidate(bucket);
  }
}

function note(connection: object, command: QueuedCommand, trait: CommandTrait): void {
  const open = transactions.get(connection);
  // Inside a MULTI the server refuses another one and goes on with the first.
  if (trait === "multi") return void (open ?? transactions.set(connection, new Changes()));
  if (trait === "exec" || trait === "discard") {
    transactions.delete(connection);
    if (open) dropBeforeItSettles(command, open);
  } else if (trait === "plain" || trait === "blocking") {
    const changes = changesBy(command);
    if (!changes) return;
    open?.addAll(changes);
    dropBeforeItSettles(command, changes);
  }
}

/** Also if it fails or is given up: it may have run. */
function dropBeforeItSettles(command: QueuedCommand, changes: Changes): void {
  for (const way of ["resolve", "reject"] as const) {
    const settle = command[way] as (outcome: unknown) => unknown;
    command[way] = (outcome: unknown) => {
      changes.drop();
      return Reflect.apply(settle, command, [outcome]);
    };
  }
}

/**
 * Every argument that could be a key of the cache counts as one, wherever it stands. So it need not be known where a command has its
 * keys: a value that reads like a key drops too much, and never too little.
 */
function changesBy({ name, args }: QueuedCommand): Changes | undefined {
  const lower = name.toLowerCase();
  if (isReadOnly(name) && lower !== COUNTING) return undefined;
  let changes: Changes | undefined;
  if (FLUSHING.has(lower)) (changes = new Changes()).addAll();
  for (const { memory, prefixes } of watchers)
    for (const arg of args as readonly unknown[]) {
      const key = keyIn(arg, prefixes);
      if (key) (changes ??= new Changes()).add(memory, memory.bucketOf(memory.hashOf(key, key.length)));
    }
  // The command of a module may change keys that it does not name.
  if (!changes && !isInTable(name) && [...watchers].some(({ onlyReads }) => !onlyReads(lower)))
    (changes = new Changes()).addAll();
  return changes;
}

/** The bytes of an argument that could be a key. Longer keys are not kept. */
function keyIn(arg: unknown, prefixes: readonly Prefix[]): Buffer | undefined {
  if (Buffer.isBuffer(arg)) {
    const isKey = arg.length <= MAX_KEY_BYTES && prefixes.some(({ bytes }) => beginsWith(arg, bytes));
    return isKey ? arg : undefined;
  }
  const text = typeof arg === "string" ? arg : String(arg);
  const isKey = text.length <= MAX_KEY_BYTES && prefixes.some((prefix) => text.startsWith(prefix.text));
  return isKey ? Buffer.from(text) : undefined;
}

function beginsWith(bytes: Buffer, prefix: Buffer): boolean {
  return bytes.length >= prefix.length && prefix.compare(bytes, 0, prefix.length) === 0;
}
