import type { Config } from "./options.js";

/** What a server has room for, against what one process may open. */
export interface Capacity {
  /** Infinity where the server names none. */
  readonly maxclients: number;
  /** Connected now, without whoever asks. */
  readonly others: number;
  /** The most that one process of this configuration opens. */
  readonly needed: number;
  readonly isEnough: boolean;
}

/** By the server's answer to INFO clients. */
export function capacityOf(info: string, config: Config): Capacity {
  const maxclients = Number(/^maxclients:(\d+)/m.exec(info)?.[1] ?? Infinity);
  const others = Number(/^connected_clients:(\d+)/m.exec(info)?.[1] ?? 1) - 1;
  const needed = mostConnections(config);
  return { maxclients, others, needed, isEnough: others + needed <= maxclients };
}

/** One per thread (and per successor of one that is recycled) and its dedicated ones, the primary and its successor, the subscriber. */
function mostConnections({ threads, dedicated, connections }: Config): number {
  const isRecycling = threads.maxTasks !== undefined || threads.maxHeapMb !== undefined;
  return connections.max ?? (threads.count + Number(isRecycling)) * (1 + dedicated.max) + 3;
}
