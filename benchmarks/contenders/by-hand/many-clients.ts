import { parentPort, workerData } from "node:worker_threads";
import { Redis } from "ioredis";
import type { Place } from "../contender.js";

const { port, clients } = workerData as Place & { readonly clients: number };
const all = Array.from({ length: clients }, () => new Redis(port));
await Promise.all(all.map((redis) => redis.ping()));
parentPort!.postMessage("connected");
