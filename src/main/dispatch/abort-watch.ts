interface Watched<T> {
  readonly items: Set<T>;
  readonly stop: () => void;
}

/** One listener per signal, however many tasks share it: Node warns of a leak at the eleventh. */
export class AbortWatch<T> {
  readonly #onAbort: (item: T, reason: unknown) => void;
  readonly #watched = new Map<AbortSignal, Watched<T>>();

  constructor(onAbort: (item: T, reason: unknown) => void) {
    this.#onAbort = onAbort;
  }

  add(signal: AbortSignal, item: T): void {
    const watched = this.#watched.get(signal) ?? this.#watch(signal);
    watched.items.add(item);
  }

  delete(signal: AbortSignal, item: T): void {
    const watched = this.#watched.get(signal);
    if (!watched?.items.delete(item) || watched.items.size > 0) return;
    this.#watched.delete(signal);
    watched.stop();
  }

  #watch(signal: AbortSignal): Watched<T> {
    const items = new Set<T>();
    const onAbort = (): void => {
      this.#watched.delete(signal);
      for (const item of items) this.#onAbort(item, signal.reason);
    };
    signal.addEventListener("abort", onAbort, { once: true });
    const watched = { items, stop: () => signal.removeEventListener("abort", onAbort) };
    this.#watched.set(signal, watched);
    return watched;
  }
}
