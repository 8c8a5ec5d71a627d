/**
 * A Map by number for some entries that come and go all the time, in no order. A Map makes its table anew every so many
 * deletions, and each old table knows the next one: once the garbage collector has taken an old one for long-lived, all
 * that follow live on with what was in them, until its next full round. Looking up is linear, and fast for what
 * one thread is given at once, up to some hundreds.
 */
export class ArrayMap<V> {
  readonly #keys: number[] = [];
  readonly #values: V[] = [];

  get size(): number {
    return this.#keys.length;
  }

  /** Of a key that is not in it. */
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
