import type { FastifyInstance } from "fastify";
import { within } from "../core/waiting.js";
import { type AnyTasks, ConnectFailedError, ConnectionManager, type ManagerOptions } from "../index.js";
import { refuse } from "./refuse.js";

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
   * A manager, or the options of a new one. It is shut down with the server: requests in progress have its
   * `shutdown.drainMs` to end, tasks `closeMs` more; then connections that are still open are cut.
   */
  readonly manager: ConnectionManager<Tasks> | ManagerOptions;
  /** The path of the health route, which answers 200, or 503 with the reasons; false: no route. Default "/health". */
  readonly health?: string | false | undefined;
  /**
   * The server is not ready before the manager is. It fails to start if the manager is not ready within 80 % of fastify's
   * `pluginTimeout` (10 s). Default true.
   */
  readonly awaitReady?: boolean | undefined;
  /**
   * For so long after `close()` is called, health is 503 and everything else is still served, so that a load balancer can
   * react first. It needs `fastify({ return503OnClosing: false })`: by default Fastify itself answers 503 to everything at
   * once. It replaces the manager's `shutdown.lameDuckMs`. Default 0.
   */
  readonly lameDuckMs?: number | undefined;
}

/**
 * Adds the manager as `fastify.redthread` and ties it to the server. The manager is ready before the server listens. At
 * `close()` health becomes 503, requests in progress finish with their tasks, and then the manager shuts down: all within
 * lameDuckMs and its drainMs + closeMs + 500 ms.
 * @throws REDTHREAD_CONFIG_INVALID; `listen()` and `ready()` also throw what `manager.ready()` throws
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
      try {
        await readyInTime(manager, fastify.initialConfig.pluginTimeout);
      } catch (error) {
        await end("the server could not start"); // nobody closes a server that did not start
        throw error;
      }
    });
  }
  // Fastify does so for new requests only: clients of requests in progress would keep their connections.
  fastify.addHook("onSend", (request, reply, _payload, done) => {
    if (isClosing && request.raw.httpVersionMajor === 1) reply.header("connection", "close");
    done();
  });
  // Before the server stops listening and waits for requests in progress.
  fastify.addHook("preClose", async () => {
    isClosing = true;
    if (lameDuckMs > 0) await new Promise((resolve) => setTimeout(resolve, lameDuckMs));
    const { server } = fastify;
    server.keepAliveTimeout = 1; // for answers whose headers are sent already; 0 would mean for ever
    const closeAll = (): void => server.closeAllConnections?.(); // HTTP/2 has none
    void end("the server closed", answered).then(closeAll, closeAll);
  });
  // After the last request was answered.
  fastify.addHook("onClose", async () => {
    onAnswered();
    await end("the server closed");
  });
}

/** At its own limit Fastify would give up without a word about Redis, and leave the manager running. */
function readyInTime(manager: ConnectionManager<Tasks>, pluginTimeout = 0): Promise<void> {
  const late = (): Error => {
    const why = manager.health().reasons.join(", ");
    return new ConnectFailedError(`not ready within fastify's pluginTimeout of ${pluginTimeout} ms: ${why}`, {
      outcome: "not-sent",
    });
  };
  return pluginTimeout > 0 ? within(manager.ready(), pluginTimeout * 0.8, late) : manager.ready();
}

/** Not `instanceof`, because there can be two copies of this package. */
function isManager(given: ConnectionManager<Tasks> | ManagerOptions): given is ConnectionManager<Tasks> {
  return typeof given.shutdown === "function";
}

function check(manager: unknown, lameDuckMs: unknown): void {
  const problems: string[] = [];
  if (typeof manager !== "object" || manager === null)
    problems.push("manager: must be a manager or the options of one");
  if (!Number.isInteger(lameDuckMs) || Number(lameDuckMs) < 0) problems.push("lameDuckMs: must be a whole number");
  refuse(problems, "redthread/fastify: ");
}

// As fastify-plugin does: the whole server gets the decorator, and Fastify's messages show the name.
export default Object.assign(redthread, {
  [Symbol.for("skip-override")]: true,
  [Symbol.for("fastify.display-name")]: "redthread",
  [Symbol.for("plugin-meta")]: { fastify: "4.x || 5.x", name: "redthread" },
});
