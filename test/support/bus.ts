import { once } from "node:events";
import { connect, createServer, type Socket } from "node:net";
import { portOf } from "./proxy.js";
import type { RedisServer } from "./redis-server.js";

/** The offset of the name of the sender in each message of the bus. */
const SENDER = { from: 40, to: 80 };

interface Link {
  readonly sockets: readonly Socket[];
  readonly receiver: string;
  sender: string | undefined;
}

/** The bus of a Cluster over proxies: a node can be cut off from the other nodes, but not from its clients. */
export class Bus {
  readonly #links = new Set<Link>();
  readonly #ids = new Map<RedisServer, string>();
  readonly #cut = new Set<string>();

  /** Must be called before the node has met another one. */
  async join(node: RedisServer, busPort: number): Promise<void> {
    const id = String(await node.admin.cluster("MYID"));
    this.#ids.set(node, id);
    const server = createServer((socket) => this.#relay(socket, busPort, id));
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    server.unref();
    await node.admin.config("SET", "cluster-announce-bus-port", portOf(server));
  }

  cut(node: RedisServer): void {
    this.#cut.add(this.#ids.get(node)!);
    for (const link of this.#links) this.#look(link);
  }

  heal(node: RedisServer): void {
    this.#cut.delete(this.#ids.get(node)!);
  }

  #relay(socket: Socket, busPort: number, receiver: string): void {
    const upstream = connect(busPort, "127.0.0.1");
    const link: Link = { sockets: [socket, upstream], receiver, sender: undefined };
    this.#links.add(link);
    socket.on("data", (chunk: Buffer) => {
      if (link.sender === undefined && chunk.length >= SENDER.to) {
        link.sender = chunk.toString("latin1", SENDER.from, SENDER.to);
        this.#look(link);
      }
      if (!upstream.destroyed) upstream.write(chunk);
    });
    upstream.pipe(socket);
    for (const end of link.sockets) {
      end.unref();
      end.on("error", () => {}); // closes
      end.on("close", () => this.#end(link));
    }
    this.#look(link);
  }

  #look(link: Link): void {
    if (this.#cut.has(link.receiver) || (link.sender && this.#cut.has(link.sender))) this.#end(link);
  }

  #end(link: Link): void {
    this.#links.delete(link);
    for (const socket of link.sockets) socket.destroy();
  }
}
