import { MessagePort } from "node:worker_threads";

/** Contained in what the other side is not to be able to read. */
export const UNREADABLE = "this cannot be read";

/**
 * From now on a message that contains the mark arrives, at each port of this thread that is listened to from now on, as
 * the event by which Node tells that it could not read one. The link, its order and its counts are the real ones.
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
