import { once } from "node:events";
import { createServer, type Server, type Socket } from "node:net";
import type { TestContext } from "node:test";

/** A port in Redis's place that closes every connection, and counts them. */
export async function hangUpOn(
  port: number,
): Promise<{ server: Server; attempts: () => number; atOnce: () => number }> {
  const open = new Set<Socket>();
  let attempts = 0;
  let most = 0;
  const listening = createServer((socket) => {
    attempts++;
    open.add(socket);
    most = Math.max(most, open.size);
    socket.on("error", () => {}).on("close", () => open.delete(socket));
    // Late enough for other clients to come meanwhile. Not counted from here on, because its close event can come after
    // the next connection that it makes room for.
    setTimeout(() => {
      open.delete(socket);
      socket.destroy();
    }, 20);
  });
  listening.listen(port, "127.0.0.1");
  await once(listening, "listening");
  return { server: listening, attempts: () => attempts, atOnce: () => most };
}

export interface MutePort {
  /** Open connections. */
  readonly connections: number;
  /** Connections so far. */
  readonly accepted: number;
  close(): Promise<void>;
}

/** A port in Redis's place that accepts every connection and never answers, until it is closed or the test is over. */
export async function listenMutely(t: TestContext, port: number): Promise<MutePort> {
  const open = new Set<Socket>();
  let accepted = 0;
  const listening = createServer((socket) => {
    accepted++;
    open.add(socket);
    socket.on("error", () => {}).on("close", () => open.delete(socket));
  });
  listening.listen(port, "127.0.0.1");
  await once(listening, "listening");
  const close = async (): Promise<void> => {
    if (!listening.listening) return;
    const closed = once(listening, "close");
    listening.close();
    for (const socket of open) socket.destroy();
    await closed;
  };
  t.after(close);
  return {
    get connections() {
      return open.size;
    },
    get accepted() {
      return accepted;
    },
    close,
  };
}
