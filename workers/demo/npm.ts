import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, readdir, rename, rm } from "node:fs/promises";
import { join } from "node:path";

export interface NpmArchive {
  readonly name: string;
  readonly version: string;
  /** Base64 of the archive's sha512, as in a lock file. */
  readonly sha512: string;
}

export interface NpmOptions {
  readonly env: NodeJS.ProcessEnv;
  readonly signal: AbortSignal;
}

const QUIET = ["--prefer-offline", "--loglevel=error", "--no-audit", "--no-fund", "--no-update-notifier"];

/**
 * The path of a package's archive; the npm client fetches it if its cache does not hold it yet. It is read from that
 * cache: `npm cache add` streams into it with a peak of 210 MB, `npm pack` holds the archive in memory twice, with 500
 * MB.
 */
export async function fetchArchive(archive: NpmArchive, folder: string, options: NpmOptions): Promise<string> {
  const cache = (await npm(["config", "get", "cache"], options)).trim();
  const hash = Buffer.from(archive.sha512, "base64").toString("hex");
  const cached = join(cache, "_cacache", "content-v2", "sha512", hash.slice(0, 2), hash.slice(2, 4), hash.slice(4));
  if (existsSync(cached)) return cached;
  const spec = `${archive.name}@${archive.version}`;
  await npm(["cache", "add", spec, ...QUIET], options);
  return existsSync(cached) ? cached : pack(spec, folder, options);
}

/** For an npm whose cache has another layout. */
async function pack(spec: string, folder: string, options: NpmOptions): Promise<string> {
  const temporary = await mkdtemp(join(folder, "pack-"));
  try {
    await npm(["pack", spec, "--pack-destination", temporary, ...QUIET], options);
    const [file] = await readdir(temporary);
    if (file === undefined) throw new Error(`npm pack ${spec} left no archive`);
    await rename(join(temporary, file), join(folder, file));
    return join(folder, file);
  } finally {
    await rm(temporary, { recursive: true, force: true });
  }
}

async function npm(args: readonly string[], { env, signal }: NpmOptions): Promise<string> {
  signal.throwIfAborted();
  // npm puts the path of its program into the environment of its scripts. By name it is a script, which Windows starts
  // only through a shell.
  const program = env["npm_execpath"];
  const child = program?.endsWith(".js")
    ? spawn(process.execPath, [program, ...args], { env, signal, stdio: ["ignore", "pipe", "pipe"] })
    : spawn("npm", args, { env, signal, stdio: ["ignore", "pipe", "pipe"], shell: process.platform === "win32" });
  const output = { out: "", err: "" };
  child.stdout.on("data", (text: Buffer) => (output.out += text.toString()));
  child.stderr.on("data", (text: Buffer) => (output.err += text.toString()));
  return new Promise((resolve, reject) => {
    child.once("error", (cause) => reject(signal.aborted ? signal.reason : new Error("npm cannot be run", { cause })));
    child.once("close", (code) => {
      if (code === 0) resolve(output.out);
      else reject(new Error(`npm ${args.slice(0, 3).join(" ")} ended with code ${code}: ${lastLines(output.err)}`));
    });
  });
}

function lastLines(text: string): string {
  return text.trim().split("\n").slice(-3).join(" ").slice(0, 500);
}
