import { MessagePort } from "node:worker_threads";

/** Contained in messages that the other side must not be able to read. */
export const UNREADABLE = "this cannot be read";

/**
 * From now on each new port of this thread that gets a listener turns messages with the mark into the event by which
 * Node reports that it could not read one. The link, its order and its counts are the real ones.
 */
export function makeUnreadable(): void {
  const { prototype } = MessagePort;
  const on = Reflect.get(prototype, "on") as (name: string, listener: Listener) => MessagePort;
  Reflect.set(prototype, "on", function (this: MessagePort, name: string, listener: Listener) {
    return Reflect.apply(on, this, [
      name,
      (message: unknown) => {
        if (name !== "message" || !isMarked(message)) listener(message);
        else this.emit("messageerror", new Error("the message could not be deserialized"));
      },
    ]);
  });
}

type Listener = (message: unknown) => void;

function isMarked(part: unknown): boolean {
  if (typeof part !== "object" || part === null) return part === UNREADABLE;
  if (part instanceof Map) return [...part.values()].some(isMarked);
  const prototype: unknown = Object.getPrototypeOf(part);
  return (Array.isArray(part) || prototype === Object.prototype) && Object.values(part).some(isMarked);
}
