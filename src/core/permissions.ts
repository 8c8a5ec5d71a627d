// Node's permission model, which is on where a process was started with `--permission`.

const MODEL = /^--(?:(?:experimental-)?permission$|allow-(?:fs|addons|child|worker|wasi|net|inspector))/;
const PATHS = /^--allow-fs-(?:read|write)$/;

/**
 * What a thread with an `execArgv` of its own needs there: Node gives such a thread the permission model, and what is
 * granted, only where both are named again, and every right otherwise.
 */
export function permissionFlags(argv: readonly string[] = process.execArgv): string[] {
  return argv.filter((arg, i) => MODEL.test(arg) || PATHS.test(argv[i - 1] ?? ""));
}
