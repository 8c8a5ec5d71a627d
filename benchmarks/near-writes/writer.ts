/** Writes at a rate, with little CPU: what it sends is not made by a client's library. */
import { once } from "node:events";
import { connect } from "node:net";
import { seeded } from "../../test/support/seeded.js";
import { inputOfParent, serveParent } from "../support/own-process.js";

export interface WritesLoad {
  /** Infinity: as many as the server takes. */
  readonly perSecond: number;
  readonly ms: number;
}

export interface Written {
  readonly written: number;
  readonly ms: number;
}

const KEYS = 1_000_000;
const VALUE = "x".repeat(100);
const TICK_MS = 4;
const MOST_AT_ONCE = 1_000;
const OK_BYTES = "+OK\r\n".length;

const { port, prefix } = inputOfParent() as { port: number; prefix: string };
const random = seeded(1);
const socket = connect({ port, host: "127.0.0.1", noDelay: true });
await once(socket, "connect");
let bytesRead = 0;
let onAnswered = (): void => {};
socket.on("data", ({ length }: Buffer) => {
  bytesRead += length;
  onAnswered();
});

function sets(count: number): string {
  let commands = "";
  for (let i = 0; i < count; i++) {
    const key = prefix + Math.floor(random() * KEYS);
    commands += `*3\r\n$3\r\nSET\r\n$${key.length}\r\n${key}\r\n$${VALUE.length}\r\n${VALUE}\r\n`;
  }
  return commands;
}

/** Until the server has answered, or for a tick. */
function pause(isBusy: boolean): Promise<void> {
  return new Promise((resolve) => {
    if (isBusy) onAnswered = resolve;
    else setTimeout(resolve, TICK_MS);
  });
}

async function write({ perSecond, ms }: WritesLoad): Promise<Written> {
  const startedAt = performance.now();
  const before = bytesRead;
  let sent = 0;
  for (let now = startedAt; now < startedAt + ms; now = performance.now()) {
    const open = sent - (bytesRead - before) / OK_BYTES;
    // A millisecond ahead, because Infinity times 0 is no number.
    const due = Math.min((perSecond * (now - startedAt + 1)) / 1_000 - sent, MOST_AT_ONCE - open);
    if (due >= 1) {
      sent += Math.floor(due);
      socket.write(sets(Math.floor(due)));
    }
    await pause(perSecond === Infinity);
  }
  while (bytesRead - before < sent * OK_BYTES) await pause(true);
  return { written: sent, ms: performance.now() - startedAt };
}

serveParent(
  (load) => write(load as WritesLoad),
  async () => socket.destroy(),
);
