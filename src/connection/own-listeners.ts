import type { EventEmitter } from "node:events";

/** Tells the library's own listeners on a handle from those of whoever holds it. */
export class OwnListeners {
  readonly #emitter: EventEmitter;
  readonly #own: ReadonlyMap<string | symbol, ReadonlySet<unknown>>;

  /** All that listen now are its own. */
  constructor(emitter: EventEmitter) {
    this.#emitter = emitter;
    const events = emitter.eventNames();
    this.#own = new Map(events.map((event) => [event, new Set<unknown>(emitter.rawListeners(event))]));
  }

  removeForeign(): void {
    for (const event of this.#emitter.eventNames()) {
      const own = this.#own.get(event);
      for (const listener of this.#emitter.rawListeners(event)) {
        if (!own?.has(listener)) this.#emitter.removeListener(event, listener as () => void);
      }
    }
  }
}
