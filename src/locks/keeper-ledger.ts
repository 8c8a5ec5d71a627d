import { isAhead } from "../core/shared-time.js";
import { type Loss, LOSSES } from "./lock-table.js";

const FIELDS = [
  "open", // the keeper's main connection
  "replicasOpen", // its connection for locks with replicas
  "held", // locks at the keeper's last look …
  "heldUntil", // … and the latest time at which one of them ends if it is not extended
  "extended",
  "extensionFailures",
  ...LOSSES, // lost locks: written by the keeper, and by an owner that found the loss itself
] as const;
type Field = (typeof FIELDS)[number];

const INDEX = Object.fromEntries(FIELDS.map((field, i) => [field, i])) as Record<Field, number>;

/** Numbers of a process's locks in shared memory, which can be read while the keeper and the owners are blocked or gone. */
export class KeeperLedger {
  readonly buffer: SharedArrayBuffer;
  readonly #cells: BigInt64Array<SharedArrayBuffer>;

  constructor(buffer: SharedArrayBuffer = new SharedArrayBuffer(FIELDS.length * BigInt64Array.BYTES_PER_ELEMENT)) {
    this.buffer = buffer;
    this.#cells = new BigInt64Array(buffer);
  }

  get(field: Field): number {
    return Number(Atomics.load(this.#cells, INDEX[field]));
  }

  set(field: Field, value: number): void {
    Atomics.store(this.#cells, INDEX[field], BigInt(value));
  }

  add(field: Field, by: number): void {
    Atomics.add(this.#cells, INDEX[field], BigInt(by));
  }

  /** How many locks were lost, by reason. */
  get losses(): Record<Loss, number> {
    const counts = LOSSES.map((loss) => [loss, this.get(loss)]);
    return Object.fromEntries(counts) as Record<Loss, number>;
  }

  lost(loss: Loss): void {
    this.add(loss, 1);
  }

  /** How many locks are held: none after the time of the latest one, although no keeper looks any more. */
  held(now: number): number {
    return isAhead(this.get("heldUntil"), now) ? this.get("held") : 0;
  }
}
