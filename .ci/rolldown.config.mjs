// What is published: lib/, laid out as dist/ is, with the modules and the public declarations merged into a few files. A
// thread loads four of ours instead of fifty.
import { readFileSync } from "node:fs";
import { dirname, join, relative, sep } from "node:path";
import { decode, encode } from "@jridgewell/sourcemap-codec";
import { defineConfig } from "rolldown";
import { dts } from "rolldown-plugin-dts";

const root = dirname(import.meta.dirname);
const { exports, bin } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
const faces = Object.values(exports).flatMap((face) => (typeof face === "string" ? [] : [nameOf(face.default)]));
const entries = [
  ...faces,
  ...Object.values(bin).map(nameOf),
  "src/thread/serve",
  "workers/sync-entry",
  "workers/keeper-entry",
];

/** From the bottom up: the modules of each import only those of the files before it. */
const CHUNKS = ["base", "connection", "thread", "sync", "config", "dispatch", "main"];

/**
 * Merged is what loads the same packages and is loaded together: what a thread has no use for is not in its files, and it
 * loads neither piscina nor dotenv, `redthread/sync` not even ioredis. test/architecture.test.ts holds it.
 */
function chunkOf(id, graph) {
  const file = relative(root, id).replaceAll(sep, "/");
  if (/^src\/(?:main\/|index\.ts)/.test(file)) {
    if (file.startsWith("src/main/observe/dashboard-")) return undefined; // the page is loaded by the first look at it
    return closureOf(id, graph).packages.has("piscina") ? "main" : "dispatch";
  }
  if (!/^src\/\w+\//.test(file) || /^src\/(?:helper|keeper|locks|near|adapters|cli)\//.test(file)) return undefined; // a face, too
  const isLoadedWith = (...tops) => tops.some((top) => closureOf(join(root, top), graph).files.has(id));
  if (!isLoadedWith("src/thread/serve.ts", "src/worker.ts")) {
    if (isLoadedWith("src/sync.ts")) return "sync";
    return isLoadedWith("src/config/env.ts") ? "config" : undefined; // a Cluster
  }
  const { packages } = closureOf(id, graph);
  if (packages.has("generic-pool")) return "thread";
  return packages.has("ioredis") ? "connection" : "base";
}

const closures = new Map();

/** All that is loaded with a module, by itself and by its imports. */
function closureOf(id, graph) {
  let closure = closures.get(id);
  if (!closure) {
    closure = { files: new Set([id]), packages: new Set() };
    for (const file of closure.files) {
      const { code, importedIds } = graph.getModuleInfo(file);
      for (const [, name] of code.matchAll(/const .* = requirePackage(?:<.*>)?\("([^"]+)"\);$/gm)) {
        closure.packages.add(name);
      }
      for (const imported of importedIds) if (isOurs(imported)) closure.files.add(imported);
    }
    closures.set(id, closure);
  }
  return closure;
}

/** The file that piscina loads, CommonJS among modules, is as tsc wrote it. */
const commonJsEntry = {
  name: "CommonJS entry",
  generateBundle() {
    const fileName = "workers/entry.cjs";
    const source = readFileSync(join(root, "dist", fileName), "utf8");
    this.emitFile({ type: "asset", fileName, source: source.replaceAll(/\/\*\*[^]*?\*\/\n|\/\/#.*\n?/g, "") });
  },
};

/**
 * A map names the source line of each line and no column: the columns are nine tenths of a map, and a stack trace is as
 * useful without them.
 */
const thinMaps = {
  name: "thin maps",
  generateBundle(_options, bundle) {
    for (const file of Object.values(bundle)) {
      if (!file.fileName.endsWith(".map")) continue;
      const map = JSON.parse(file.source);
      const mappings = encode(decode(map.mappings).map(([first]) => (first ? [[0, first[1], first[2], 0]] : [])));
      file.source = JSON.stringify({ ...map, names: [], mappings });
    }
  },
};

/** Each statement has its line, for stack traces, but without the indentation: it is a twelfth of the bytes that a thread loads. */
const flatLines = {
  name: "flat lines",
  generateBundle(_options, bundle) {
    for (const file of Object.values(bundle)) {
      if (file.type !== "chunk") continue;
      const texts = textsIn(this.parse(file.code));
      file.code = file.code.replaceAll(/^\t+/gm, (tabs, at) =>
        texts.some(([start, end]) => start < at && at < end) ? tabs : "",
      );
    }
  },
};

/** Where the templates are: their lines are part of their text. */
function textsIn(node) {
  if (node === null || typeof node !== "object") return [];
  if (node.type === "TemplateElement") return [[node.start, node.end]];
  return Object.values(node).flatMap(textsIn);
}

function nameOf(file) {
  return file.replace(/^(?:\.\/)?lib\//, "").replace(/\.js$/, "");
}

function isOurs(id) {
  return /^[./]|^[a-z]:\\/i.test(id);
}

const modules = defineConfig({
  input: Object.fromEntries(entries.map((name) => [name, `${name}.ts`])),
  platform: "node",
  experimental: { attachDebugInfo: "none" },
  external: (id) => !isOurs(id),
  plugins: [commonJsEntry, thinMaps, flatLines],
  output: {
    dir: "lib",
    cleanDir: true,
    format: "esm",
    sourcemap: true,
    sourcemapExcludeSources: true,
    comments: false,
    // Local names are half of the code's bytes, and nobody meets them: functions and classes, which stack traces name, keep
    // theirs. Statements are not joined either: each keeps its line.
    minify: {
      compress: { sequences: false, joinVars: false, keepNames: { function: true, class: true } },
      mangle: { toplevel: true, keepNames: { function: true, class: true } },
      codegen: { removeWhitespace: false },
    },
    // As deep as the modules in them are in dist: what they find by `import.meta.url` is where they look for it.
    chunkFileNames: "src/chunks/[name].js",
    codeSplitting: {
      groups: CHUNKS.map((chunk, i) => ({
        name: (id, graph) => (chunkOf(id, graph) === chunk ? chunk : null),
        debugName: chunk,
        priority: CHUNKS.length - i,
      })),
    },
  },
});

/** The declarations of a file do not say in which files of dist they were. */
const noFileNames = {
  name: "no file names",
  generateBundle(_options, bundle) {
    for (const file of Object.values(bundle))
      if (file.type === "chunk") file.code = file.code.replaceAll(/^\/\/ dist\/.*\n/gm, "");
  },
};

/** Of what tsc wrote, what the public faces refer to. */
const declarations = defineConfig({
  input: Object.fromEntries(faces.map((name) => [name, join(root, "dist", `${name}.d.ts`)])),
  external: (id) => !isOurs(id),
  plugins: [dts({ dtsInput: true, tsconfig: false }), noFileNames],
  output: { dir: "lib", chunkFileNames: "src/chunks/[name].d.ts" },
});

export default [modules, declarations];
