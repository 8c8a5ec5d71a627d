import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { cpSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { resolve } from "node:path";
import { fileURLToPath } from "node:url";
import type { BenchOptions } from "./options.js";

/** The compiled benchmarks, where `import "redthread"` finds one build of the library. */
export class Build {
  /** dist/benchmarks, or a copy of it. */
  readonly #folder: URL;
  readonly #suffix: string;

  constructor(folder: URL, suffix: string) {
    this.#folder = folder;
    this.#suffix = suffix;
  }

  /** The names of a contender with this build, for `interleave`. */
  named(contender: string): { name: string; twinOf?: string } {
    return this.#suffix === "" ? { name: contender } : { name: contender + this.#suffix, twinOf: contender };
  }

  /** `path` is relative to the folder of the compiled benchmarks. */
  script(path: string): URL {
    return new URL(path, this.#folder);
  }

  async load<Module>(path: string): Promise<Module> {
    return (await import(this.script(path).href)) as Module;
  }
}

/** From dist/benchmarks/support. */
const REPOSITORY = new URL("../../../", import.meta.url);
const TODAY = new Build(new URL("../", import.meta.url), "");

/** Today's build, and with `--beside` the packed one after it. */
export function buildsOf({ beside }: Pick<BenchOptions, "beside">): readonly [Build, ...Build[]] {
  return beside === undefined ? [TODAY] : [TODAY, packed(beside)];
}

/**
 * Today's benchmarks with a packed build: a file of the copy finds the installed package in the folder above it, while
 * the original finds the package that it is part of. Other imports are found further up, in the repository.
 */
function packed(tarball: string): Build {
  const hash = createHash("sha256").update(readFileSync(tarball)).digest("hex").slice(0, 12);
  const folder = new URL(`.cache/beside/${hash}/`, REPOSITORY);
  if (!existsSync(new URL("node_modules/redthread/package.json", folder))) install(tarball, folder);
  for (const part of ["dist/benchmarks/", "dist/test/support/"]) {
    cpSync(new URL(part, REPOSITORY), new URL(part, folder), { recursive: true });
  }
  return new Build(new URL("dist/benchmarks/", folder), " beside");
}

function install(tarball: string, folder: URL): void {
  mkdirSync(folder, { recursive: true });
  // With the name redthread, its files would find this package instead of the installed one.
  const manifest = { name: "beside", private: true, type: "module" };
  writeFileSync(new URL("package.json", folder), JSON.stringify(manifest));
  const flags = ["--no-audit", "--no-fund", "--ignore-scripts", "--prefer-offline"];
  // npm takes a relative path as relative to its prefix.
  const args = ["install", "--prefix", fileURLToPath(folder), ...flags, resolve(tarball)];
  const { status, stderr } = spawnSync("npm", args, { encoding: "utf8" });
  if (status !== 0) throw new Error(`--beside: npm could not install ${tarball}\n${stderr}`);
}
