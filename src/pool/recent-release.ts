/** What came back in this loop turn, for the next one who asks in it; at the turn's end it is put away. */
export class RecentRelease<V> {
  readonly #putAway: (value: V) => void;
  #value: V | undefined;
  #isEndAwaited = false;

  constructor(putAway: (value: V) => void) {
    this.#putAway = putAway;
  }

  holds(value: V): boolean {
    return this.#value === value;
  }

  /** The one before it is put away first. */
  keep(value: V): void {
    this.#end();
    this.#value = value;
    if (this.#isEndAwaited) return;
    this.#isEndAwaited = true;
    setImmediate(this.#endTurn);
  }

  take(): V | undefined {
    const value = this.#value;
    this.#value = undefined;
    return value;
  }

  #end(): void {
    const value = this.take();
    if (value !== undefined) this.#putAway(value);
  }

  readonly #endTurn = (): void => {
    this.#isEndAwaited = false;
    this.#end();
  };
}
