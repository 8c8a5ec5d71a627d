import { once } from "node:events";
import { createServer, connect, type Server, type Socket } from "node:net";

const CATCH_UP_MS = 500;

/** A TCP proxy on loopback that misbehaves on request; on a free port unless `at` names one. */
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
  /** Whether it is a black hole. */
  isDark: boolean;
}

export class Proxy implements AsyncDisposable {
  /** Added to every chunk in each direction; the order is kept. */
  latencyMs = 0;
  /** For each connection, in each direction. */
  bytesPerSecond = Infinity;
  /** What is left of the bytes that the server sends. It can also cut the connection, or let it fall into a black hole. */
  filterReplies: ((chunk: Buffer, end: (how: "cut" | "dark") => void) => Buffer) | undefined;
  /** The target of new connections; open connections stay. */
  targetPort: number;
  readonly #host: string;
  readonly #links = new Set<Link>();
  #server: Server | undefined;
  #port: number;
  #blackhole = false;
  /** The bytes that still pass before the next cut, and before each cut after it. */
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

  /** The number of connections that are open through the proxy. */
  get connections(): number {
    return this.#links.size;
  }

  /**
   * While on, nothing passes in either direction, not even a FIN; connects are accepted and get no answer. Switching it
   * off lets everything pass that was held.
   */
  blackhole(on: boolean): void {
    this.#blackhole = on;
    for (const link of this.#links) darken(link, on);
  }

  /** Open connections fall into a black hole, and stay there until `blackhole(false)`; new ones pass. */
  strand(): void {
    this.#blackhole = false;
    for (const link of this.#links) darken(link, true);
  }

  /** As `strand`, for the connection with this port at the server. */
  strandOne(portAtServer: number): void {
    for (const link of this.#links) if (link.upstream.localPort === portAtServer) darken(link, true);
  }

  /** Sends RST to every client, as a crashed host does. */
  reset(): void {
    for (const { client, upstream } of this.#links) {
      client.resetAndDestroy();
      upstream.destroy();
    }
  }

  /** Sends FIN to every client, as a server does that closes politely. */
  fin(): void {
    for (const { client, upstream } of this.#links) {
      client.end();
      upstream.destroy();
    }
  }

  /**
   * Lets `n` more bytes of replies pass, counted over all connections, then cuts the connection in the middle of that
   * reply. Then the same with each of `others`.
   */
  cutAfterReplyBytes(n: number, ...others: number[]): void {
    this.#cuts = { side: "replies", left: [n, ...others] };
  }

  /** The same for requests: the server gets no more of them, the client no replies. */
  cutAfterRequestBytes(n: number, ...others: number[]): void {
    this.#cuts = { side: "requests", left: [n, ...others] };
  }

  /** Forgets the cuts that have not happened yet. */
  cutNothing(): void {
    this.#cuts.left.length = 0;
  }

  /** The port that the server sees for the connection with this port at the client; undefined when it is gone. */
  portAtServer(clientPort: number | undefined): number | undefined {
    return [...this.#links].find(({ client }) => client.remotePort === clientPort)?.upstream.localPort;
  }

  /** Refuses new connects; open connections stay (see `reset`). */
  down(): void {
    this.#server?.close();
    this.#server = undefined;
  }

  /** Listens again on the same port. */
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
    this.#pump(link, upstream, client, (chunk) => {
      const end = (how: "cut" | "dark"): void => {
        if (how === "dark") darken(link, true);
        else client.resetAndDestroy();
      };
      const left = this.filterReplies?.(chunk, end) ?? chunk;
      return left.length === 0 || this.#pass("replies", link, left);
    });
    for (const [socket, other] of [
      [client, upstream],
      [upstream, client],
    ] as const) {
      // A refused or broken side closes the other one; that is all that it reports.
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
      // A link with a given speed makes up for timers that fire late on a loaded machine.
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
