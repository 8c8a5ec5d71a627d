import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { copyFile, cp, mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath, pathToFileURL } from "node:url";

const root = fileURLToPath(new URL("../../../", import.meta.url));
const tsc = join(root, "node_modules", "typescript", "bin", "tsc");
const limit = { timeout: 120_000 };

interface Face {
  readonly types: string;
  readonly default: string;
}

interface Manifest {
  readonly exports: Readonly<Record<string, Face | string>>;
  readonly dependencies: Readonly<Record<string, string>>;
  readonly peerDependencies: Readonly<Record<string, string>>;
}

const manifest = JSON.parse(await readFile(join(root, "package.json"), "utf8")) as Manifest;
const faces = Object.entries(manifest.exports).filter((entry): entry is [string, Face] => typeof entry[1] !== "string");

let project: string;
/** All public declarations. */
let declared: string;

before(async () => {
  project = await mkdtemp(join(tmpdir(), "redthread-declarations-"));
  const modules = join(project, "node_modules");
  // As pnpm lays it out: what redthread depends on is there for redthread alone.
  const store = join(modules, ".pnpm", "redthread", "node_modules");
  const packed = join(store, "redthread");
  const declarations = await readdir(join(root, "lib"), { recursive: true });
  const names = declarations.filter((name) => name.endsWith(".d.ts"));
  declared = (await Promise.all(names.map((name) => readFile(join(root, "lib", name), "utf8")))).join("");
  await Promise.all([
    cp(join(root, "lib"), join(packed, "lib"), { recursive: true }).then(() =>
      copyFile(join(root, "package.json"), join(packed, "package.json")),
    ),
    ...Object.keys(manifest.dependencies).map((name) => link(join(root, "node_modules", name), join(store, name))),
    ...["@types/node", ...Object.keys(manifest.peerDependencies)].flatMap((name) => [
      link(join(root, "node_modules", name), join(store, name)),
      link(join(root, "node_modules", name), join(modules, name)),
    ]),
    writeFile(join(project, "package.json"), JSON.stringify({ private: true, type: "module" })),
    writeFile(join(project, "tasks.ts"), TASKS),
    writeFile(join(project, "shown.d.ts"), SHOWN),
  ]);
  await link(packed, join(modules, "redthread"));
});
after(() => rm(project, { recursive: true, force: true }));

/** Types as values, whose declarations then name all that they are made of. */
const SHOWN = `
type Parts<T> = T extends (...args: infer Args) => infer Result ? { args: Args; result: Result } : T;
export declare function called<Args extends readonly unknown[], Result>(
  fn: (...args: Args) => Result,
): { readonly args: Args; readonly result: Result };
export declare function parts<T>(): { [K in keyof T]: T[K] extends (...args: infer Args) => infer Result ? { args: Args; result: Result } : T[K] };
`;

const TASKS = `
import type { TaskContext } from "redthread/worker";
export async function score({ id }: { id: number }, { taskId }: TaskContext): Promise<number> { return id + taskId.length; }
export async function none(): Promise<void> {}
export function either(input: string): Promise<"text">;
export function either(input: number, context: TaskContext): "number";
export function either(input: string | number): unknown { return typeof input; }
`;

async function link(folder: string, as: string): Promise<void> {
  await mkdir(dirname(as), { recursive: true });
  await symlink(folder, as, "dir");
}

interface Compiled {
  /** What the compiler complains about. */
  readonly errors: string;
  /** The declarations of the program. */
  readonly declarations: string;
}

/** Compiles one program alone, so that it sees no more of redthread than it imports. */
async function compile(name: string, text: string): Promise<Compiled> {
  const file = join(project, `${name}.ts`);
  await writeFile(file, text);
  const config = join(project, `tsconfig.${name}.json`);
  const compilerOptions = {
    strict: true,
    exactOptionalPropertyTypes: true,
    skipLibCheck: true,
    declaration: true,
    module: "nodenext",
    target: "es2022",
    lib: ["es2023", "esnext.disposable"],
    types: ["node"],
    outDir: `out/${name}`,
  };
  await writeFile(config, JSON.stringify({ compilerOptions, files: [file] }));
  const errors = await new Promise<string>((resolve) => {
    execFile(process.execPath, [tsc, "-p", config, "--pretty", "false"], { cwd: project }, (_, stdout) => {
      resolve(stdout);
    });
  });
  return { errors, declarations: await readFile(join(project, "out", name, `${name}.d.ts`), "utf8").catch(() => "") };
}

/** What a program that imports an entry has imported besides. */
const BESIDE: Readonly<Record<string, readonly string[]>> = {
  "redthread/bullmq": ["bullmq", "redthread", "redthread/testing"],
  "redthread/bullmq/worker": ["bullmq", "redthread/worker"],
  "redthread/dashboard": ["redthread"],
  "redthread/fastify": ["fastify", "redthread"],
  "redthread/otel": ["redthread"],
  "redthread/prometheus": ["redthread"],
  "redthread/testing": ["redthread"],
};

/** A program that exports something of the type of everything that an entry exports. */
async function sampleOf(specifier: string, face: Face): Promise<string> {
  const entry = (await import(pathToFileURL(join(root, face.default)).href)) as Record<string, unknown>;
  const lines = Object.entries(entry).flatMap(([name, value]) =>
    typeof value !== "function" || /^class\b/.test(String(value))
      ? []
      : [`export const called_${name} = called(face.${name});`],
  );
  const declarations = await readFile(join(root, face.types), "utf8");
  const exported = /export \{([^}]*)\};?\s*$/.exec(declarations)![1]!;
  for (const [, isType, name] of exported.matchAll(/(type )?(?:[\w$]+ as )?([\w$]+)/g)) {
    const isClass = typeof entry[name!] === "function" && /^class\b/.test(String(entry[name!]));
    if (isType || isClass) lines.push(`export const parts_${name} = parts<face.${name}${argumentsOf(name!)}>();`);
  }
  return [
    ...(BESIDE[specifier] ?? []).map((other) => `import type {} from "${other}";`),
    `import * as face from "${specifier}";`,
    `import { called, parts } from "./shown.js";`,
    ...lines,
  ].join("\n");
}

/** For the type parameters that have no default. */
function argumentsOf(name: string): string {
  const parameters = new RegExp(`(?:interface|class|type) ${name}<(.*?)>(?= extends|[^>]* implements| [{=])`).exec(
    declared,
  )?.[1];
  const needed = parameters?.split(/,(?![^<[{(]*[>\]})])/).filter((one) => !one.includes("=")) ?? [];
  return needed.length > 0 ? `<${needed.map(() => "any").join(", ")}>` : "";
}

for (const [path, face] of faces) {
  const specifier = `redthread${path.slice(1)}`;
  test(`declarations can name all that ${specifier} gives and takes`, limit, async () => {
    const name = `face-${path.replaceAll(/\W/g, "") || "main"}`;
    const { errors, declarations } = await compile(name, await sampleOf(specifier, face));
    assert.equal(errors, "");
    assert.doesNotMatch(declarations, /node_modules|chunks/);
  });
}

test("a client, a cached function and a pipeline are exported without an annotation", limit, async () => {
  const { errors, declarations } = await compile(
    "inferred",
    `
import { cached, connRetry, getRedis } from "redthread/worker";
export async function client() { return getRedis(); }
export async function pipeline() { return { pipeline: (await client()).pipeline() }; }
export const user = cached(async (id: number) => ({ id }));
export const retry = connRetry("Redis", "reading");
`,
  );
  assert.equal(errors, "");
  assert.doesNotMatch(declarations, /node_modules|chunks/);
});

test("a script is typed by one declaration, on every client and in pipelines", limit, async () => {
  const { errors } = await compile(
    "scripts",
    `
import { ConnectionManager } from "redthread";
import { getRedis, type Result } from "redthread/worker";
declare module "redthread/worker" {
  interface RedisCommander<Context> {
    take(key: string, count: number): Result<number, Context>;
  }
}
declare const manager: ConnectionManager;
export const counts: Promise<number>[] = [
  getRedis().then((redis) => redis.take("k", 1)),
  manager.use((redis) => redis.take("k", 1)),
];
export const piped = getRedis().then((redis) => redis.pipeline().take("k", 1).get("k").exec());
export const wrong = getRedis().then((redis) => redis.take("k", "1"));
`,
  );
  assert.deepEqual(linesOf(errors), ["15"], errors);
});

test("a manager of tasks of unknown types takes any name and input", limit, async () => {
  const { errors } = await compile(
    "untyped",
    `
import { ConnectionManager } from "redthread";
import { runInProcess } from "redthread/testing";
const tasks = new URL("./tasks.js", import.meta.url);
const manager = new ConnectionManager({ tasks });
export const one: Promise<unknown> = manager.run("score", { id: 1 });
export const none: Promise<unknown> = manager.run("none");
export const all: AsyncIterable<unknown> = manager.map("score", [{ id: 1 }]);
export const alone: Promise<unknown> = (await runInProcess(tasks)).run("score", { id: 1 });
export const general: ConnectionManager = new ConnectionManager<typeof import("./tasks.js")>({ tasks });
`,
  );
  assert.equal(errors, "");
});

test("a wrong task name is answered with the names that are right", limit, async () => {
  const { errors } = await compile(
    "misspelt",
    `
import { ConnectionManager } from "redthread";
declare const manager: ConnectionManager<typeof import("./tasks.js")>;
manager.run("scroe", { id: 1 });
manager.map("scroe", [{ id: 1 }]);
`,
  );
  assert.deepEqual(linesOf(errors), ["4", "5"], errors);
  for (const line of errors.trim().split("\n")) {
    assert.match(line, /'"scroe"' is not assignable to parameter of type '"either" \| "none" \| "score"'\./);
  }
});

test("each overload of a task is one that run takes", limit, async () => {
  const { errors } = await compile(
    "overloads",
    `
import { ConnectionManager } from "redthread";
declare const manager: ConnectionManager<typeof import("./tasks.js")>;
export const both: Promise<"text" | "number">[] = [manager.run("either", "a"), manager.run("either", 1)];
manager.run("either", true);
manager.run("score", { id: "1" });
`,
  );
  assert.deepEqual(linesOf(errors), ["5", "6"], errors);
});

test("an option may be undefined, under exactOptionalPropertyTypes too", limit, async () => {
  const { errors } = await compile(
    "undefined",
    `
import type { ConnectionManager, ManagerOptions } from "redthread";
declare const manager: ConnectionManager<typeof import("./tasks.js")>;
declare const given: { signal: AbortSignal | undefined; timeoutMs: number | undefined; onReport: undefined };
export const result: Promise<number> = manager.run("score", { id: 1 }, given);
export const all: AsyncIterable<number> = manager.map("score", [{ id: 1 }], { ...given, onError: undefined });
await manager.subscribe("news", (text: string) => text, { buffers: undefined, onGap: undefined });
await manager.getRedis({ signal: given.signal });
await manager.shutdown({ drainMs: undefined });
export const options: ManagerOptions = {
  tasks: "/tasks.js",
  redis: { tls: { ca: undefined }, ioredis: { family: undefined }, scripts: { take: { lua: "", readOnly: undefined } } },
  threads: { resourceLimits: { stackSizeMb: undefined }, env: process.env },
};
`,
  );
  assert.equal(errors, "");
  // And every other one; those of these groups are mapped.
  const interfaces = [...declared.matchAll(/interface ((?!Tls|Ioredis)\w*Options)\b[^{]*\{([^]*?)\n\}/g)];
  assert.ok(interfaces.length > 15, String(interfaces.length));
  for (const [, name, body] of interfaces) {
    const strict = [...body!.matchAll(/^ {2}readonly (\w+)\?: (?!.*\bundefined;)(?!unknown;).*$/gm)];
    assert.deepEqual(
      strict.map(([, field]) => `${name}.${field}`),
      [],
    );
  }
});

function linesOf(errors: string): string[] {
  return [...errors.matchAll(/^\S+\.ts\((\d+),/gm)].map(([, line]) => line!);
}
