import type { TracingChannel } from "node:diagnostics_channel";

export interface Listeners<Message extends object> {
  readonly start?: (message: Message) => void;
  readonly error?: (message: Message) => void;
  readonly asyncEnd?: (message: Message) => void;
}

/** Node takes fewer than all five listeners; its types do not. */
export function listen<Message extends object>(
  channel: TracingChannel<unknown, Message>,
  listeners: Listeners<Message>,
): () => void {
  const taken = listeners as Parameters<typeof channel.subscribe>[0];
  channel.subscribe(taken);
  return () => channel.unsubscribe(taken);
}
