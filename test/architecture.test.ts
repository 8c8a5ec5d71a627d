import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { builtinModules } from "node:module";
import { basename, dirname, join, relative, resolve } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

// The import table. A row that is wrong here is wrong in docs/architecture.md as well: change all three, or none.

/** Each third-party package, and the one file of src that may import it. */
const IMPORTERS: Readonly<Record<string, string>> = {
  bullmq: "src/adapters/bullmq.ts",
  dotenv: "src/config/env.ts",
  fastify: "src/adapters/fastify.ts",
  "generic-pool": "src/pool/pool-entries.ts",
  ioredis: "src/commands/ioredis.ts",
  piscina: "src/main/threads/threads.ts",
  winston: "src/main/observe/logger.ts",
  "@opentelemetry/api": "src/adapters/otel.ts",
  "prom-client": "src/adapters/prometheus.ts",
};

/** The rooms of src that both sides of a link use. Each may import itself and the rooms that are named here. */
const CORE = ["core"];
const CONFIG = [...CORE, "config"];
const LINK = [...CONFIG, "link"];
const GATE = [...LINK, "gate"];
const COMMANDS = [...GATE, "commands"];
const CONNECTION = [...COMMANDS, "connection"];
const CLUSTER = [...CONNECTION, "cluster"];
const POOL = [...CORE, "pool"];
const CLIENTS = [...CLUSTER, "pool", "clients"];
const NEAR = [...CLIENTS, "near"];
const LOCKS = [...NEAR, "locks"];

/** What the files of a room, or a single file, may import: rooms with all that is in them, or single files. */
const MAY_IMPORT: Readonly<Record<string, readonly string[]>> = {
  core: CORE,
  config: CONFIG,
  link: LINK,
  gate: GATE,
  commands: COMMANDS,
  connection: CONNECTION,
  cluster: CLUSTER,
  pool: POOL, // it knows nothing of Redis
  clients: CLIENTS,
  near: NEAR,
  locks: LOCKS,
  main: [...LOCKS, "main"],
  "main/dispatch": [...CLIENTS, "main/dispatch", "main/threads"],
  "main/threads": [...CLIENTS, "main/threads"],
  "main/observe": [
    ...CLIENTS,
    "main/observe",
    "main/threads",
    "main/dispatch",
    "main/clients.ts",
    "near/near-stats.ts",
  ],
  thread: [...LOCKS, "thread"],
  "thread/sync": [...CLIENTS, "thread/sync"],
  helper: [...NEAR, "helper"],
  keeper: [...LOCKS, "keeper"],
  cli: [...CLIENTS, "cli"],
  // The faces, as users do, and tools without state that both sides have.
  adapters: [...CORE, "adapters", "index.ts", "worker.ts", "testing.ts"],
  "dashboard.ts": ["main"],
  "index.ts": [...LOCKS, "main"],
  "worker.ts": [...LOCKS, "thread"],
  "sync.ts": [...CLIENTS, "thread"],
  "testing.ts": [...CLIENTS, "main", "thread"], // both ends of a link in one thread
};

/** The packages that a process or thread has loaded with an entry. */
const LOADS: Readonly<Record<string, readonly string[]>> = {
  "src/worker.ts": ["ioredis"], // generic-pool with the first lease
  "src/thread/serve.ts": ["ioredis"],
  "workers/sync-entry.ts": ["ioredis"],
  "workers/keeper-entry.ts": ["ioredis"],
  "src/sync.ts": [], // a thread that only calls it needs no client
  "src/adapters/bullmq-worker.ts": [],
  "src/testing.ts": ["dotenv", "ioredis"],
};

/** Each of these was once a name here and told its reader something else. docs/architecture.md has a glossary of those in use. */
const UNCLEAR_NAMES = new Set(
  [
    "Traffic traffic Outbox outbox HeldCommands held-commands HandBack hand-back AtHand at-hand Arrival arrival",
    "Replacement replacement FencedFactory fence Slot Slots slots slot-pool Waiters waiters Permits permits MasterWatch",
    "master-watch cache Turnstile turnstile Pace pace Load Loads load loads LoadQueue load-queue Job job envelope Line line",
    "greeted heard hungUp mourn bury",
  ].flatMap((names) => names.split(" ")),
);

/** The most that a thread may load of ours: each byte is parsed in every thread, and is garbage of its start. */
const THREAD_BYTES = 147_900;

interface Import {
  readonly specifier: string;
  /** Gone once compiled. */
  readonly isType: boolean;
  readonly isDynamic: boolean;
}

/** What is required inside a function is loaded by its first call. */
const REQUIRED = /^([ \t]*)const .* = requirePackage(?:<.*>)?\("([^"]+)"\);$/gm;

/** The same as published: the names of a file's own functions are shortened. */
const PUBLISHED = /^([ \t]*)const .* = [\w$]+\("(dotenv|generic-pool|ioredis|piscina|winston)"\);$/gm;

const root = rootFrom(dirname(fileURLToPath(import.meta.url)));
const files = readdirSync(join(root, "src"), { recursive: true, encoding: "utf8" })
  .filter((name) => name.endsWith(".ts"))
  .map((name) => join("src", name));
const sources = new Map(
  [...files, "workers/entry.cts", "workers/sync-entry.ts", "workers/keeper-entry.ts"].map((file) => [
    file,
    codeOf(file),
  ]),
);

/** The tests run from a build folder, at whatever depth. */
function rootFrom(folder: string): string {
  return existsSync(join(folder, "package.json")) ? folder : rootFrom(dirname(folder));
}

/** Without comments: they may name what the code must not. */
function codeOf(file: string): string {
  return readFileSync(join(root, file), "utf8").replaceAll(/\/\*[\s\S]*?\*\/|(?<![:"'])\/\/.*$/gm, "");
}

function importsOf(file: string): Import[] {
  const code = sources.get(file) ?? codeOf(file);
  const fixed = [...code.matchAll(/^(?:import|export)\s+(type\s)?(?:[^"';]*?\bfrom\s*)?"([^"]+)"/gm)];
  const dynamic = [...code.matchAll(/(?<!typeof )\bimport\(\s*"([^"]+)"\s*\)/g)];
  return [
    ...fixed.map(([, type, specifier]) => ({ specifier: specifier!, isType: type !== undefined, isDynamic: false })),
    ...dynamic.map(([, specifier]) => ({ specifier: specifier!, isType: false, isDynamic: true })),
    ...[...code.matchAll(REQUIRED)].map(([, indent, specifier]) => ({
      specifier: specifier!,
      isType: false,
      isDynamic: indent !== "",
    })),
  ];
}

const isRelative = ({ specifier }: Import): boolean => specifier.startsWith(".");

/** The file that a relative import means. */
function target(file: string, { specifier }: Import): string {
  return relative(root, resolve(root, dirname(file), specifier)).replace(/\.js$/, ".ts");
}

function isPackage(one: Import): boolean {
  const { specifier } = one;
  return !isRelative(one) && !specifier.startsWith("node:") && !builtinModules.includes(specifier);
}

function packagesOf(file: string): string[] {
  const foreign = importsOf(file).filter(isPackage);
  return foreign.map(({ specifier }) => specifier);
}

/** Every file that `file` brings with it at run time, itself included; dynamic imports only on request. */
function loadedBy(file: string, loaded = new Set<string>()): Set<string> {
  if (loaded.has(file)) return loaded;
  loaded.add(file);
  for (const one of importsOf(file)) {
    if (isRelative(one) && !one.isType && !one.isDynamic) loadedBy(target(file, one), loaded);
  }
  return loaded;
}

/** What an entry of the published package brings with it; some of the packages are required. */
function publishedLoads(entry: string): { loaded: Set<string>; packages: Set<string>; required: Set<string> } {
  const loaded = new Set([join(root, "lib", entry.replace(/\.ts$/, ".js"))]);
  const packages = new Set<string>();
  const required = new Set<string>();
  for (const file of loaded) {
    const code = readFileSync(file, "utf8");
    for (const [, indent, name] of code.matchAll(PUBLISHED)) if (indent === "") required.add(name!);
    for (const [, specifier = ""] of code.matchAll(/^(?:import|export)\b[^"'=]*"([^"]+)";$/gm)) {
      if (specifier.startsWith(".")) loaded.add(resolve(dirname(file), specifier));
      else if (!specifier.startsWith("node:")) packages.add(specifier);
    }
  }
  for (const name of required) packages.add(name);
  return { loaded, packages, required };
}

/** The modules of a published file: its map names them. */
function mergedInto(file: string): string[] {
  if (!existsSync(`${file}.map`)) return [];
  const { sources: named } = JSON.parse(readFileSync(`${file}.map`, "utf8")) as { sources: string[] };
  return named.map((name) => relative(root, resolve(dirname(file), name)));
}

test("the import table is about files that exist, and finds their imports", () => {
  assert.ok(files.length > 20);
  for (const file of Object.values(IMPORTERS)) assert.ok(files.includes(file), file);
  for (const file of sources.keys()) {
    for (const one of importsOf(file).filter(isRelative)) {
      assert.ok(sources.has(target(file, one)), `${file} imports ${one.specifier}, which is outside src`);
    }
  }
});

test("each third-party package has exactly one importer", () => {
  const found = files.flatMap((file) => [...new Set(packagesOf(file))].map((name) => [name, file] as const));
  assert.deepEqual(Object.fromEntries(found), IMPORTERS);
  assert.equal(new Set(found.map(String)).size, Object.keys(IMPORTERS).length);
  const { dependencies, peerDependencies } = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as {
    dependencies: object;
    peerDependencies: object;
  };
  const declared = Object.keys({ ...dependencies, ...peerDependencies });
  assert.deepEqual(declared.toSorted(), Object.keys(IMPORTERS).toSorted());
});

test("the imports of each room run one way, and main, thread, helper and keeper never import each other", () => {
  for (const file of files) {
    const place = relative("src", file);
    const allowed = MAY_IMPORT[place] ?? MAY_IMPORT[dirname(place)];
    assert.ok(allowed, `${file} lies outside the rooms`);
    for (const one of importsOf(file).filter(isRelative)) {
      const imported = relative("src", target(file, one));
      const isAllowed = allowed.some((room) => imported === room || imported.startsWith(`${room}/`));
      assert.ok(isAllowed, `${file} must not import src/${imported}`);
    }
  }
});

test("no file imports itself by way of others", () => {
  const done = new Set<string>();
  const visit = (file: string, path: readonly string[]): void => {
    assert.ok(!path.includes(file), `a circle: ${[...path, file].join(" -> ")}`);
    if (done.has(file)) return;
    for (const one of importsOf(file).filter(isRelative)) visit(target(file, one), [...path, file]);
    done.add(file);
  };
  for (const file of sources.keys()) visit(file, []);
});

test("an adapter for both sides loads neither's code, and nobody loads an adapter: its peer need not be there", () => {
  for (const adapter of ["src/adapters/otel.ts", "src/adapters/prometheus.ts"]) {
    const sides = [...loadedBy(adapter)].filter((file) => /^src\/(main|thread|helper|\w+\.ts)/.test(file));
    assert.deepEqual(sides, [], adapter);
  }
  // Of Fastify the types are enough.
  assert.ok(
    importsOf("src/adapters/fastify.ts")
      .filter(isPackage)
      .every(({ isType }) => isType),
  );
  for (const entry of ["src/index.ts", "src/worker.ts", "src/sync.ts", "src/thread/serve.ts"]) {
    assert.ok(
      [...loadedBy(entry)].every((file) => !file.startsWith("src/adapters")),
      entry,
    );
  }
});

test("only env.ts reads the environment", () => {
  const readers = files.filter((file) =>
    /\bprocess\s*\.\s*env\b|\benv\b.*\bfrom "node:process"/.test(sources.get(file)!),
  );
  assert.deepEqual(readers, ["src/config/env.ts"]);
});

test("protocol.ts holds types only", () => {
  const declared = [...sources.get("src/link/protocol.ts")!.matchAll(/^(?:export\s+)?(?:declare\s+)?(\w+)/gm)];
  const kinds = new Set(declared.map(([, keyword]) => keyword));
  for (const allowed of ["import", "interface", "type"]) kinds.delete(allowed);
  assert.deepEqual([...kinds], []);
  assert.ok(importsOf("src/link/protocol.ts").every(({ isType }) => isType));
});

test("a thread loads neither piscina nor winston, and dotenv only when it has no manager", () => {
  for (const [entry, expected] of Object.entries(LOADS)) {
    const imported = [...loadedBy(entry)]
      .flatMap(importsOf)
      .filter((one) => isPackage(one) && !one.isType && !one.isDynamic);
    const packages = new Set(imported.map(({ specifier }) => specifier));
    assert.deepEqual([...packages].toSorted(), expected, entry);
  }
});

test("a thread loads no Cluster, no synchronous client and no options' table before it has a use for them", () => {
  const all = ["src/cluster/client.ts", "src/thread/sync/sync-helper.ts", "src/config/option-table.ts"];
  for (const file of all) assert.ok(sources.has(file), file);
  const loaded = new Set([...loadedBy("src/thread/serve.ts"), ...loadedBy("src/worker.ts")]);
  assert.deepEqual(
    all.filter((file) => loaded.has(file)),
    [],
  );
});

test("so do the published files, and a thread loads four of them, with nothing in them that it has no use for", () => {
  for (const [entry, expected] of Object.entries(LOADS)) {
    const { packages } = publishedLoads(entry);
    assert.deepEqual([...packages].toSorted(), expected, entry);
  }
  const published = [...publishedLoads("src/thread/serve.ts").loaded];
  assert.deepEqual(published.map((file) => relative(join(root, "lib/src"), file)).toSorted(), [
    "chunks/base.js",
    "chunks/connection.js",
    "chunks/thread.js",
    "thread/serve.js",
  ]);
  const bytes = published.map((file) => statSync(file).size).reduce((sum, size) => sum + size);
  assert.ok(bytes <= THREAD_BYTES, `a thread loads ${bytes} bytes`);
  const inThem = published.flatMap(mergedInto);
  const needed = new Set([...loadedBy("src/thread/serve.ts"), ...loadedBy("src/worker.ts")]);
  assert.ok(inThem.length > 40, "each merged module is named by the map");
  assert.deepEqual(
    inThem.filter((file) => !needed.has(file)),
    [],
  );
});

test("all of them are required: for the first one that is imported, Node compiles a lexer, in each thread anew", () => {
  for (const entry of Object.keys(LOADS)) {
    const { packages, required } = publishedLoads(entry);
    assert.deepEqual(packages, required, entry);
  }
});

test("the main thread loads ioredis with its first client: while its threads load theirs, and not before they are started", () => {
  assert.deepEqual([...publishedLoads("src/index.ts").packages].toSorted(), ["dotenv", "piscina"]);
});

test("what piscina requires is CommonJS: a thread that is ended while it requires a module takes the process with it", () => {
  const { specifier, isDynamic } = importsOf("workers/entry.cts").at(-1)!;
  assert.deepEqual({ specifier, isDynamic }, { specifier: "../src/thread/serve.js", isDynamic: true });
  assert.match(sources.get("src/main/threads/threads.ts")!, /threadFile\("entry\.cjs"/);
  assert.ok(!existsSync(join(root, "lib/workers/entry.js")) && existsSync(join(root, "lib/workers/entry.cjs")));
});

test("no benchmark loads what the tests count open handles by: under its hook every promise costs several times as much", () => {
  const all = readdirSync(join(root, "benchmarks"), { recursive: true, encoding: "utf8" });
  const benchmarks = all.filter((name) => name.endsWith(".ts")).map((name) => join("benchmarks", name));
  const counting = benchmarks.filter((file) => loadedBy(file).has("test/support/open-handles.ts"));
  // What becomes of calls when a master is killed is no question of their cost.
  assert.deepEqual(counting, ["benchmarks/cluster.ts"]);
});

test("the dashboard's page is loaded by the first look at it", () => {
  assert.ok(loadedBy("src/index.ts").has("src/main/observe/dashboard.ts"));
  assert.ok(!loadedBy("src/index.ts").has("src/main/observe/dashboard-page.ts"));
});

test("the main thread loads winston only when nobody gave it a logger", () => {
  const imported = importsOf("src/main/observe/logger.ts").filter(({ specifier }) => specifier === "winston");
  assert.ok(imported.length > 0 && imported.every(({ isType, isDynamic }) => isType || isDynamic));
});

test("no class, file or exported identifier has a name of another meaning than the field gives it", () => {
  const exported = /^export (?:abstract )?(?:class|interface|type|function|const) (\w+)/gm;
  const classes = /^(?:abstract )?class (\w+)/gm;
  const names = [...sources.values()].flatMap((code) =>
    [...code.matchAll(exported), ...code.matchAll(classes)].map(([, name]) => name!),
  );
  const stems = files.map((file) => basename(file, ".ts"));
  assert.deepEqual(
    [...names, ...stems].filter((name) => UNCLEAR_NAMES.has(name)),
    [],
  );
});
