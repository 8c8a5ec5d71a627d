import { hostname } from "node:os";
import { threadId } from "node:worker_threads";

/** `owned` belongs to whoever called `connect()`; `dedicated` to one lease at a time; the others are shared. */
export type ClientRole = "owned" | "primary" | "thread" | "dedicated" | "subscriber" | "sync";

/** `redthread:<app>:<host>:<pid>:<threadId>:<role>`. In containers every process is pid 1: only the host tells them apart. */
export function connectionName(appName: string, role: ClientRole, thread = threadId): string {
  const host = hostname().replaceAll(/[^\w.-]/g, "-");
  return ["redthread", appName, host, process.pid, thread, role].join(":");
}
