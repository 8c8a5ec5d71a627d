import { ConfigInvalidError } from "../core/errors.js";

/** @throws REDTHREAD_CONFIG_INVALID if there are any problems; `context` precedes them in its message */
export function refuse(problems: readonly string[], context = ""): void {
  if (problems.length > 0) throw new ConfigInvalidError(context + problems.join("; "), { problems });
}

/**
 * An adapter checks the version of its library when it is imported. A peer dependency with a range would keep npm from
 * installing redthread beside another version, also in services that do not use the adapter.
 * @throws REDTHREAD_CONFIG_INVALID
 */
export function needs(what: string, isThere: boolean): void {
  refuse(isThere ? [] : [`${what} or later is needed`], "redthread: ");
}
