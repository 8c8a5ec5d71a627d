import { once } from "node:events";
import { createServer, connect, type Server, type Socket } from "node:net";

const CATCH_UP_MS = 500;

/** A TCP proxy on loopback that misbehaves on request; on a free port unless `at` says where. */
export async function startProxy(targetPort: number, at: Partial<Address> = {}): Promise<Proxy> {
  const proxy = new Proxy(targetPort, at);
  await proxy.up();
  return proxy;
}

interface Address {
  readonly host: string;
  readonly port: number;
}

interface Link {
  readonly client: Socket;
  readonly upstream: Socket;
  /** In a black hole. */
  isDark: boolean;
}

export class Proxy implements AsyncDisposable {
  /** Added to every chunk, each way; order is kept. */
  latencyMs = 0;
  /** Of each connection, each way. */
  bytesPerSecond = Infinity;
  /** Where new connections lead; those that are open stay. */
  targetPort: number;
  readonly #host: string;
  readonly #links = new Set<Link>();
  #server: Server | undefined;
  #port: number;
  #blackhole = false;
  /** How many bytes still pass before a cut, and before each one after it. */
  #cuts: { readonly side: "requests" | "replies"; readonly left: number[] } = { side: "replies", left: [] };

  constructor(targetPort: number, { host = "127.0.0.1", port = 0 }: Partial<Address> = {}) {
    this.targetPort = targetPort;
    this.#host = host;
    this.#port = port;
  }

  get port(): number {
    return this.#port;
  }

  get url(): string {
    return `redis://127.0.0.1:${this.#port}`;
  }

  /** Connections open through the proxy now. */
  get connections(): number {
    return this.#links.size;
  }

  /** While on, nothing passes either way, not even a FIN; connects are accepted and hear nothing. Switched off, all that was held passes. */
  blackhole(on: boolean): void {
    this.#blackhole = on;
    for (const link of this.#links) darken(link, on);
  }

  /** What is open now falls into a black hole, and stays there until `blackhole(false)`; new connects pass. */
  strand(): void {
    this.#blackhole = false;
    for (const link of this.#links) darken(link, true);
  }

  /** RST to every client, as from a crashed host. */
  reset(): void {
    for (const { client, upstream } of this.#links) {
      client.resetAndDestroy();
      upstream.destroy();
    }
  }

  /** FIN to every client, as from a server that closes politely. */
  fin(): void {
    for (const { client, upstream } of this.#links) {
      client.end();
      upstream.destroy();
    }
  }

  /**
   * Lets `n` more bytes of replies through, counted over all connections, then cuts the connection in the middle of that reply.
   * Then the same with each of `others`.
   */
  cutAfterReplyBytes(n: number, ...others: number[]): void {
    this.#cuts = { side: "replies", left: [n, ...others] };
  }

  /** As `cutAfterReplyBytes`, but of requests: the server gets no more of them, the client no replies. */
  cutAfterRequestBytes(n: number, ...others: number[]): void {
    this.#cuts = { side: "requests", left: [n, ...others] };
  }

  /** The cuts that have not come are not coming. */
  cutNothing(): void {
    this.#cuts.left.length = 0;
  }

  /** Of the connection that has this port at the client: the port that the server sees; undefined once it is gone. */
  portAtServer(clientPort: number | undefined): number | undefined {
    return [...this.#links].find(({ client }) => client.remotePort === clientPort)?.upstream.localPort;
  }

  /** Refuses new connects; those open stay (see `reset`). */
  down(): void {
    this.#server?.close();
    this.#server = undefined;
  }

  /** Listens, on the same port as before. */
  async up(): Promise<void> {
    if (this.#server) return;
    const server = createServer({ allowHalfOpen: true, pauseOnConnect: true }, (client) => this.#join(client));
    this.#server = server;
    server.listen(this.#port, this.#host);
    await once(server, "listening");
    server.unref();
    this.#port = portOf(server);
  }

  close(): void {
    this.down();
    this.#blackhole = false;
    for (const { client, upstream } of this.#links) {
      client.destroy();
      upstream.destroy();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }

  #join(client: Socket): void {
    const upstream = connect({ port: this.targetPort, host: "127.0.0.1", allowHalfOpen: true, noDelay: true });
    const link = { client, upstream, isDark: this.#blackhole };
    this.#links.add(link);
    client.setNoDelay(true);
    this.#pump(link, client, upstream, (chunk) => this.#pass("requests", link, chunk));
    this.#pump(link, upstream, client, (chunk) => this.#pass("replies", link, chunk));
    for (const [socket, other] of [
      [client, upstream],
      [upstream, client],
    ] as const) {
      // A refused or broken side shows as the close of the other; there is nobody here to tell.
      socket.on("error", () => undefined);
      socket.on("close", (hadError) => {
        this.#links.delete(link);
        if (hadError) other.resetAndDestroy();
        else other.destroySoon();
      });
    }
    if (link.isDark) upstream.pause();
    else client.resume();
  }

  #pump(link: Link, from: Socket, to: Socket, write: (chunk: Buffer) => boolean): void {
    let dueAt = 0;
    const later = (step: () => void, bytes = 0): void => {
      const now = performance.now();
      // A link of a given speed makes up for timers that come late on a loaded machine.
      const isCatchingUp = this.bytesPerSecond < Infinity && now - dueAt < CATCH_UP_MS;
      const sentAt = isCatchingUp ? dueAt : Math.max(dueAt, now + this.latencyMs);
      dueAt = sentAt + (1_000 * bytes) / this.bytesPerSecond;
      const wait = dueAt - performance.now();
      if (wait <= 0) step();
      else setTimeout(step, wait);
    };
    from.on("data", (chunk) => {
      const isThrottled = this.bytesPerSecond < Infinity;
      if (isThrottled) from.pause();
      later(() => {
        if (isThrottled && !link.isDark) from.resume();
        if (!to.writable || write(chunk)) return;
        from.pause();
        to.once("drain", () => link.isDark || from.resume());
      }, chunk.length);
    });
    from.on("end", () => later(() => to.end()));
  }

  #pass(side: "requests" | "replies", link: Link, chunk: Buffer): boolean {
    const { client, upstream } = link;
    const to = side === "requests" ? upstream : client;
    const [left] = this.#cuts.left;
    if (side !== this.#cuts.side || left === undefined) return to.write(chunk);
    if (chunk.length < left) {
      this.#cuts.left[0] = left - chunk.length;
      return to.write(chunk);
    }
    this.#cuts.left.shift();
    this.#links.delete(link);
    (to === client ? upstream : client).destroy();
    to.end(chunk.subarray(0, left));
    return true;
  }
}

function darken(link: Link, on: boolean): void {
  link.isDark = on;
  for (const socket of [link.client, link.upstream]) {
    if (on) socket.pause();
    else socket.resume();
  }
}

export function portOf(server: Server): number {
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("not listening on TCP");
  return address.port;
}
