/**
 * A map by number for entries that come and go all the time, in no order. A Map rebuilds its table after some deletions, and
 * each old table refers to the next one. Once an old table counts as long-lived, all later tables and their entries live on
 * until the next full garbage collection. A lookup here is linear, and fast for some hundreds of entries.
 */
export class ArrayMap<V> {
  readonly #keys: number[] = [];
  readonly #values: V[] = [];

  get size(): number {
    return this.#keys.length;
  }

  /** Adds an entry whose key is not in the map yet. */
  add(key: number, value: V): void {
    this.#keys.push(key);
    this.#values.push(value);
  }

  get(key: number): V | undefined {
    const at = this.#keys.indexOf(key);
    return at === -1 ? undefined : this.#values[at];
  }

  delete(key: number): void {
    const at = this.#keys.indexOf(key);
    if (at === -1) return;
    const lastKey = this.#keys.pop()!;
    const last = this.#values.pop()!;
    if (at === this.#keys.length) return;
    this.#keys[at] = lastKey;
    this.#values[at] = last;
  }

  values(): Iterable<V> {
    return this.#values.values();
  }
}
