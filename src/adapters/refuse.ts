import { ConfigInvalidError } from "../core/errors.js";

/**
 * npm may install redthread beside any version of another library, or a service could not use redthread without the
 * adapter: what that one needs, it asks for at its import. @throws REDTHREAD_CONFIG_INVALID
 */
export function needs(what: string, isThere: boolean): void {
  if (isThere) return;
  const problem = `${what} or later is needed`;
  throw new ConfigInvalidError(`redthread: ${problem}`, { problems: [problem] });
}
