// The program of a child process: a Redis written in JavaScript, for machines without one. It has its own process so
// that it takes no time from the main thread, and so that only the demo loads it.
import { subscribe } from "node:diagnostics_channel";
import type { Socket } from "node:net";
import { createRedisMock } from "js-redis-server";

// It writes a pipeline's replies one by one: without this, Nagle's algorithm delays each by 40 ms.
subscribe("net.server.socket", (message) => (message as { socket: Socket }).socket.setNoDelay(true));
const server = await createRedisMock();
process.send?.(server.url);
// However the demo ends, its server ends, too.
process.once("disconnect", () => process.exit(0));
