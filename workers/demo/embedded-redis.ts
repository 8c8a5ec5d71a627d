// The program of a child process: a Redis written in JavaScript, for machines without one. In a process of its own so
// that it does not take its time from the main thread, and so that nobody else pays for loading it.
import { subscribe } from "node:diagnostics_channel";
import type { Socket } from "node:net";
import { createRedisMock } from "js-redis-server";

// It writes a pipeline's replies one by one: without this, Nagle's algorithm holds them back for 40 ms at a time.
subscribe("net.server.socket", (message) => (message as { socket: Socket }).socket.setNoDelay(true));
const server = await createRedisMock();
process.send?.(server.url);
// However the demo ended, its server ends too.
process.once("disconnect", () => process.exit(0));
