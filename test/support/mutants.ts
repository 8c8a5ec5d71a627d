/**
 * `npm run test:mutants -- [NAME ...]`: takes one mechanism after the other out of the sources and expects tests to
 * fail. Each file of test/mutants, or each named one, is a patch with a heading: `What:` says which mechanism it takes
 * out, and every `Test:` names a test file that must fail. A hang counts as a failure. The exit code is 1 if a patch
 * does not apply or does not build, if one of its test files passes, or if a named file fails without a patch.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync, realpathSync, rmSync } from "node:fs";
import { copyFile, mkdir, readdir, rm, symlink } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

interface Mutant {
  readonly name: string;
  readonly patch: string;
  readonly what: string;
  readonly tests: readonly string[];
}

interface Ended {
  readonly code: number | null;
  readonly output: string;
  readonly hasHung: boolean;
}

/** The copies are built and tested side by side; each test file starts its own servers and threads. */
const AT_ONCE = 2;
/** Of one test file. */
const TEST_MS = 120_000;
const BUILD_MS = 300_000;
/** The lines of a failed build that are printed. */
const BUILD_LINES = 20;

const root = realpathSync(fileURLToPath(new URL("../../../", import.meta.url)));
const copies = join(root, ".cache", "mutants");
const running = new Set<ChildProcess>();

// An interrupted run leaves neither servers nor copies.
process.on("exit", () => {
  running.forEach(killGroup);
  rmSync(copies, { recursive: true, force: true });
});
for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => process.exit(1));

const mutants = await mutantsOf(process.argv.slice(2));
await rm(copies, { recursive: true, force: true });
const isSound = await checkUnmutated(new Set(mutants.flatMap(({ tests }) => tests)));
const verdicts = isSound ? await eachOf(mutants, judge) : [];
process.exit(isSound && verdicts.every(Boolean) ? 0 : 1);

async function mutantsOf(names: readonly string[]): Promise<Mutant[]> {
  const folder = join(root, "test", "mutants");
  const all = (await readdir(folder)).filter((file) => file.endsWith(".patch")).map((file) => file.slice(0, -6));
  const unknown = names.filter((name) => !all.includes(name));
  if (unknown.length > 0) throw new Error(`unknown: ${unknown.join(", ")}; there are ${all.join(", ")}`);
  return (names.length > 0 ? names : all.toSorted()).map((name) => parse(name, join(folder, `${name}.patch`)));
}

function parse(name: string, patch: string): Mutant {
  const [heading = ""] = readFileSync(patch, "utf8").split(/^(?:diff --git|---) /m);
  const valuesOf = (key: string): string[] =>
    [...heading.matchAll(new RegExp(`^${key}: (.+)$`, "gm"))].map(([, value]) => value!.trim());
  const [what] = valuesOf("What");
  const tests = valuesOf("Test");
  if (!what || tests.length === 0) throw new Error(`${patch} begins with no "What: …" or no "Test: …"`);
  return { name, patch, what, tests };
}

/** If a test fails without a patch, every mutant would look noticed. */
async function checkUnmutated(tests: ReadonlySet<string>): Promise<boolean> {
  return inCopy("unmutated", async (copy) => {
    const problem = await build(copy);
    if (problem) return report(false, "the sources as they are: DO NOT BUILD", [problem]);
    const results = await eachOf([...tests], async (file) => ({ file, failed: await failuresOf(copy, file) }));
    const broken = results.flatMap(({ file, failed }) => failed.map((name) => `${file}: ${name}`));
    if (broken.length > 0) return report(false, "the sources as they are: RED", broken);
    return report(true, `the sources as they are: green, ${tests.size} test files`);
  });
}

async function judge({ name, patch, what, tests }: Mutant): Promise<boolean> {
  return inCopy(name, async (copy) => {
    const applied = await run("git", ["apply", "-p1", patch], copy, BUILD_MS);
    if (applied.code !== 0) return report(false, `${name}: DOES NOT APPLY`, [applied.output]);
    const problem = await build(copy);
    if (problem) return report(false, `${name}: DOES NOT BUILD`, [problem]);
    const lines: string[] = [what];
    let isNoticed = true;
    for (const file of tests) {
      const failed = await failuresOf(copy, file);
      if (failed.length === 0) isNoticed = false;
      lines.push(`${file}: ${failed.length > 0 ? "red" : "GREEN"}`, ...failed.map((test) => `  ${test}`));
    }
    return report(isNoticed, `${name}: ${isNoticed ? "red" : "GREEN"}`, lines);
  });
}

/** Runs in a copy of the working tree, uncommitted changes included; the copy is deleted afterwards. */
async function inCopy<T>(name: string, work: (copy: string) => Promise<T>): Promise<T> {
  const copy = join(copies, name);
  try {
    await copyTree(copy);
    return await work(copy);
  } finally {
    await rm(copy, { recursive: true, force: true });
  }
}

async function copyTree(copy: string): Promise<void> {
  const { output } = await run("git", ["ls-files", "-co", "--exclude-standard", "-z"], root, BUILD_MS, "inherit");
  const files = output.split("\0").filter((file) => file !== "" && file !== "node_modules");
  for (const folder of new Set(files.map(dirname))) await mkdir(join(copy, folder), { recursive: true });
  await Promise.all(
    files.map((file) =>
      copyFile(join(root, file), join(copy, file)).catch((error: NodeJS.ErrnoException) => {
        if (error.code !== "ENOENT") throw error; // git still lists a file that was deleted and not committed
      }),
    ),
  );
  await symlink(realpathSync(join(root, "node_modules")), join(copy, "node_modules"));
}

/** The description of the failure, if there is one. */
async function build(copy: string): Promise<string | undefined> {
  const { code, output } = await run("npm", ["run", "build", "--silent"], copy, BUILD_MS);
  return code === 0 ? undefined : output.split("\n").slice(0, BUILD_LINES).join("\n");
}

/** The names of the failed tests, or that the file did not end. */
async function failuresOf(copy: string, file: string): Promise<string[]> {
  const built = join(copy, "dist", file.replace(/\.ts$/, ".js"));
  const { code, output, hasHung } = await run(
    process.execPath,
    ["--test", "--test-reporter=tap", built],
    copy,
    TEST_MS,
  );
  const failed = [...output.matchAll(/^ *not ok \d+ - (.*)$/gm)].map(([, name]) => name!.replace(`${copy}/`, ""));
  if (hasHung) failed.push(`the file has not ended within ${TEST_MS / 1_000} s`);
  else if (code !== 0 && failed.length === 0) failed.push(`exit code ${code}`);
  return failed;
}

/** All its processes are in one group: nothing else would end the servers of a test file that hangs. */
async function run(
  command: string,
  args: readonly string[],
  cwd: string,
  limitMs: number,
  stderr: "pipe" | "inherit" = "pipe",
): Promise<Ended> {
  const child = spawn(command, args, { cwd, env: environment(), detached: true, stdio: ["ignore", "pipe", stderr] });
  running.add(child);
  let output = "";
  let hasHung = false;
  for (const stream of [child.stdout, child.stderr]) {
    stream?.setEncoding("utf8").on("data", (text: string) => (output += text));
  }
  const timer = setTimeout(() => {
    hasHung = true;
    killGroup(child);
  }, limitMs);
  try {
    const [code] = (await once(child, "close")) as [number | null];
    return { code, output, hasHung };
  } finally {
    clearTimeout(timer);
    running.delete(child);
  }
}

/**
 * Inside of a repository `git apply` silently skips what is not below the current folder of that repository: a copy
 * must not count as a part of the repository that it is in.
 */
function environment(): NodeJS.ProcessEnv {
  const ours = Object.entries(process.env).filter(([name]) => !/^GIT_|^NODE_TEST_CONTEXT$|^npm_/.test(name));
  return { ...Object.fromEntries(ours), GIT_CEILING_DIRECTORIES: copies };
}

function killGroup({ pid }: ChildProcess): void {
  try {
    if (pid !== undefined) process.kill(-pid, "SIGKILL");
  } catch {
    // The group has ended by itself meanwhile.
  }
}

async function eachOf<T, R>(items: readonly T[], work: (item: T) => Promise<R>): Promise<R[]> {
  const results: R[] = [];
  const left = items.entries();
  const worker = async (): Promise<void> => {
    for (const [i, item] of left) results[i] = await work(item);
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
  return results;
}

function report(isGood: boolean, verdict: string, lines: readonly string[] = []): boolean {
  const text = [verdict, ...lines.flatMap((line) => line.trimEnd().split("\n")).map((line) => `  ${line}`)].join("\n");
  if (isGood) console.log(text);
  else console.error(text);
  return isGood;
}
