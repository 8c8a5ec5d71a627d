// The program of a child process: a Redis written in JavaScript, for machines without one. In a process of its own so
// that it does not take its time from the main thread, and so that nobody else pays for loading it.
import { createRedisMock } from "js-redis-server";

const server = await createRedisMock();
process.send?.(server.url);
// However the demo ended, its server ends too.
process.once("disconnect", () => process.exit(0));
