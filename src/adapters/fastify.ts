import type { FastifyInstance } from "fastify";
import { within } from "../core/waiting.js";
import {
  type AnyTasks,
  ConfigInvalidError,
  ConnectFailedError,
  ConnectionManager,
  type ManagerOptions,
} from "../index.js";

/**
 * The types of your tasks, for `fastify.redthread.run`: in your own code,
 * `declare module "redthread/fastify" { interface FastifyTasks { tasks: typeof import("./tasks.js") } }`.
 */
export interface FastifyTasks {}

type Tasks = FastifyTasks extends { tasks: infer Given extends object } ? Given : AnyTasks;

declare module "fastify" {
  interface FastifyInstance {
    readonly redthread: ConnectionManager<Tasks>;
  }
}

export interface FastifyRedthreadOptions {
  /**
   * A manager that you made, or the options of one to make. Either is shut down with the server: requests under way have
   * its `shutdown.drainMs` to end, tasks `closeMs` more; then connections that are still open are cut.
   */
  readonly manager: ConnectionManager<Tasks> | ManagerOptions;
  /** Path of the health route, which answers 200 or 503 with the reasons; false for none. Default "/health". */
  readonly health?: string | false | undefined;
  /**
   * The server is not ready before the manager is, and fails to start if that one cannot get ready within 80 % of fastify's
   * `pluginTimeout` (10 s). Default true.
   */
  readonly awaitReady?: boolean | undefined;
  /**
   * From the call of `close()`: health is 503, everything else is still served, so that a load balancer can turn away
   * first. Needs `fastify({ return503OnClosing: false })`: by default Fastify itself answers 503 to everything at once.
   * Takes the place of the manager's `shutdown.lameDuckMs`. Default 0.
   */
  readonly lameDuckMs?: number | undefined;
}

/**
 * Decorates the server with `fastify.redthread` and ties their lives: the manager is ready before the server listens;
 * at `close()` health turns 503, requests under way finish with their tasks, and only then the manager shuts down: within
 * lameDuckMs and its drainMs + closeMs + 500 ms.
 * @throws REDTHREAD_CONFIG_INVALID, and from `listen()` or `ready()` what `manager.ready()` throws
 */
async function redthread(fastify: FastifyInstance, options: FastifyRedthreadOptions): Promise<void> {
  const { health = "/health", awaitReady = true, lameDuckMs = 0 } = options;
  check(options.manager, lameDuckMs);
  const manager = isManager(options.manager) ? options.manager : new ConnectionManager<Tasks>(options.manager);
  let isClosing = false;
  let onAnswered!: () => void;
  const answered = new Promise<void>((resolve) => (onAnswered = resolve));
  const end = (reason: string, until?: Promise<void>): Promise<unknown> =>
    manager.shutdown({ reason, lameDuckMs: 0, until });

  fastify.decorate("redthread", manager);
  if (health !== false) {
    fastify.get(health, { logLevel: "warn" }, (_request, reply) => {
      const { live, ready, reasons } = manager.health();
      const all = isClosing ? ["the server is closing", ...reasons] : reasons;
      void reply.code(ready && !isClosing ? 200 : 503).header("cache-control", "no-store");
      return { live, ready: ready && !isClosing, reasons: all };
    });
  }
  if (awaitReady) {
    fastify.addHook("onReady", async () => {
      // Fastify gives up at its own limit, without a word of Redis and of what this manager goes on with.
      const { pluginTimeout = 0 } = fastify.initialConfig;
      const ready = manager.ready();
      const late = (): Error =>
        new ConnectFailedError(
          `not ready within fastify's pluginTimeout of ${pluginTimeout} ms: ${manager.health().reasons.join(", ")}`,
          { outcome: "not-sent" },
        );
      try {
        await (pluginTimeout > 0 ? within(ready, pluginTimeout * 0.8, late) : ready);
      } catch (error) {
        await end("the server could not start"); // nobody closes a server that never was
        throw error;
      }
    });
  }
  // Fastify says so to requests that come now, but not to those under way: their clients would hold on to the connection.
  fastify.addHook("onSend", (request, reply, _payload, done) => {
    if (isClosing && request.raw.httpVersionMajor === 1) reply.header("connection", "close");
    done();
  });
  // Before the server stops to listen, and before it waits for what is under way.
  fastify.addHook("preClose", async () => {
    isClosing = true;
    if (lameDuckMs > 0) await new Promise((resolve) => setTimeout(resolve, lameDuckMs));
    const { server } = fastify;
    server.keepAliveTimeout = 1; // of answers whose headers are gone already; 0 would be for ever
    const closeAll = (): void => server.closeAllConnections?.(); // HTTP/2 has none
    void end("the server closed", answered).then(closeAll, closeAll);
  });
  // After the last request was answered.
  fastify.addHook("onClose", async () => {
    onAnswered();
    await end("the server closed");
  });
}

/** Not `instanceof`: two copies of this package can be about. */
function isManager(given: ConnectionManager<Tasks> | ManagerOptions): given is ConnectionManager<Tasks> {
  return typeof given.shutdown === "function";
}

function check(manager: unknown, lameDuckMs: unknown): void {
  const problems: string[] = [];
  if (typeof manager !== "object" || manager === null)
    problems.push("manager: must be a manager or the options of one");
  if (!Number.isInteger(lameDuckMs) || Number(lameDuckMs) < 0) problems.push("lameDuckMs: must be a whole number");
  if (problems.length === 0) return;
  throw new ConfigInvalidError(`redthread/fastify: ${problems.join("; ")}`, { problems });
}

// What fastify-plugin would do: the decorator is for the whole server, and the name shows in its messages.
export default Object.assign(redthread, {
  [Symbol.for("skip-override")]: true,
  [Symbol.for("fastify.display-name")]: "redthread",
  [Symbol.for("plugin-meta")]: { fastify: "4.x || 5.x", name: "redthread" },
});
