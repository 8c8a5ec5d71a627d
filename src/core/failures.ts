// Failures that no repetition mends. They are recognized by their codes, because some errors come from other realms.

/** The call or the configuration is wrong: the same call fails in the same way, also elsewhere and later. */
const POINTLESS: ReadonlySet<unknown> = new Set([
  "REDTHREAD_CONFIG_INVALID",
  "REDTHREAD_NEEDS_DEDICATED",
  "REDTHREAD_COMMAND_REFUSED",
  "REDTHREAD_NOT_IN_CLUSTER",
  "REDTHREAD_TASK_NOT_FOUND",
  "REDTHREAD_NOT_CLONEABLE",
]);
/** This manager or client cannot do it any more. */
const OVER: ReadonlySet<unknown> = new Set(["REDTHREAD_AUTH_FAILED", "REDTHREAD_SHUTTING_DOWN"]);

/** Whether the same call can never succeed, anywhere. */
export function isPointless(error: unknown): boolean {
  return POINTLESS.has(codeOf(error));
}

/** Whether the same call cannot succeed here any more. */
export function isFinal(error: unknown): boolean {
  const code = codeOf(error);
  return POINTLESS.has(code) || OVER.has(code) || isDenied(error);
}

/** Whether Node's permission model denies the process what it needs. */
export function isDenied(error: unknown, depth = 3): boolean {
  const { code, cause } = Object(error) as { code?: unknown; cause?: unknown };
  return code === "ERR_ACCESS_DENIED" || (depth > 0 && cause !== undefined && isDenied(cause, depth - 1));
}

function codeOf(error: unknown): unknown {
  return (Object(error) as { code?: unknown }).code;
}
