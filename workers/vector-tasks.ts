import { getRedis, near, transfer, type TaskContext } from "../src/worker.js";
import { BlockCache } from "./block-cache.js";
import { LazyTensor } from "./lazy-tensor.js";
import { QUANTIZERS, type QuantizerName } from "./quantize.js";
import { exactCosines, SearchBlock } from "./search-block.js";
import { PART_BYTES, PartReader, partKeys } from "./tensor-parts.js";
import { HEADER_BYTES, packTensor, payloadBytes, readHeader, unpackTensor } from "./tensor.js";
import { TopK, type Hits } from "./top-k.js";

/** How a tensor lies in Redis: under its key, or in parts that are read through the near cache. */
export type Storage = "key" | "near";

export interface StoreInput {
  readonly key: string;
  readonly storage: Storage;
  readonly quantizer: QuantizerName;
  readonly dimensions: number;
  /** Row after row; move it here with `transferList`. */
  readonly values: Float32Array<ArrayBuffer>;
  /** The keys expire, in case the writer dies before it deletes them. Default: kept until deleted. */
  readonly ttlSeconds?: number;
}

export interface SearchInput {
  readonly key: string;
  readonly storage: Storage;
  /** Added to the rows of the hits: the number of rows before this block. */
  readonly firstRow: number;
  readonly query: Float32Array<ArrayBuffer>;
  readonly k: number;
}

export interface SearchSignsInput extends SearchInput {
  /** The same rows in a form that is precise enough to rank by. */
  readonly rankKey: string;
  readonly rankStorage: Storage;
  /** The number of rows to rank. */
  readonly candidates: number;
}

export interface SearchExactlyInput extends Omit<SearchInput, "query" | "storage"> {
  /** Several queries at once, because each call loads and decodes the block. */
  readonly queries: readonly Float32Array<ArrayBuffer>[];
}

/** Per thread; enough for 50 000 words in every form, or for all 341 479 as int8. */
const CACHED_BYTES = 64 * 1024 * 1024;

const blocks = new BlockCache<SearchBlock>(CACHED_BYTES);
const lazyTensors = new Map<string, Promise<LazyTensor>>();

/** Quantizes a block of rows and stores it. */
export async function store(input: StoreInput): Promise<{ bytes: number }> {
  const { key, storage, quantizer, dimensions, values, ttlSeconds } = input;
  const bytes = packTensor(QUANTIZERS[quantizer], values, dimensions);
  const redis = await getRedis();
  const keys = storage === "near" ? partKeys(key, bytes.length) : [key];
  const partBytes = storage === "near" ? PART_BYTES : bytes.length;
  const stored = keys.map((one, part) => {
    const value = Buffer.from(bytes.buffer).subarray(part * partBytes, (part + 1) * partBytes);
    return ttlSeconds === undefined ? redis.set(one, value) : redis.set(one, value, "EX", ttlSeconds);
  });
  await Promise.all(stored);
  return { bytes: bytes.length };
}

/** The k rows of a block with the largest cosine to the query, by the packed or decoded rows. */
export async function search({ key, storage, firstRow, query, k }: SearchInput): Promise<Hits> {
  const block = await searchBlock(key, storage);
  return moved(best(block.cosines(query), k).hits((row) => row + firstRow));
}

/** As `search`, in two steps: candidates by their sign bits, ranked by rows that are loaded for them alone. */
export async function searchSigns(input: SearchSignsInput): Promise<Hits> {
  const { key, storage, rankKey, rankStorage, firstRow, query, k, candidates } = input;
  const block = await searchBlock(key, storage);
  const { rows } = best(block.cosines(query), candidates).hits();
  const tensor = await lazyTensor(rankKey, rankStorage);
  const ranked = best(exactCosines(await tensor.rows(rows), query), k);
  return moved(ranked.hits((candidate) => rows[candidate]! + firstRow));
}

/** The result of `search` for each query, from float32 rows and in double precision: the others are measured by it. */
export async function searchExactly(input: SearchExactlyInput, { signal }: TaskContext): Promise<Hits[]> {
  const { key, firstRow, queries, k } = input;
  const { header, packed } = unpackTensor(await load(key, "key"), key);
  const values = QUANTIZERS[header.quantizer].decode(packed, header.dimensions);
  return queries.map((query) => {
    signal.throwIfAborted();
    return best(exactCosines(values, query), k).hits((row) => row + firstRow);
  });
}

export function teardown(): void {
  blocks.clear();
  lazyTensors.clear();
}

function searchBlock(key: string, storage: Storage): Promise<SearchBlock> | SearchBlock {
  return blocks.get(key, async () => SearchBlock.from(await load(key, storage), key));
}

async function load(key: string, storage: Storage): Promise<Buffer> {
  if (storage === "near") return loadParts(new PartReader(near), key);
  const redis = await getRedis();
  // A missing key is as wrong as an empty one: the reader of the header reports it.
  return (await redis.getBuffer(key)) ?? Buffer.alloc(0);
}

async function loadParts(reader: PartReader, key: string): Promise<Buffer> {
  const header = readHeader(await reader.getrangeBuffer(key, 0, HEADER_BYTES - 1), key);
  return reader.getrangeBuffer(key, 0, HEADER_BYTES + payloadBytes(header) - 1);
}

/** Without a limit, because a tensor that stays in Redis costs only its header here. */
function lazyTensor(key: string, storage: Storage): Promise<LazyTensor> {
  const known = lazyTensors.get(key);
  if (known) return known;
  const opening = openTensor(key, storage);
  lazyTensors.set(key, opening);
  opening.catch(() => lazyTensors.delete(key));
  return opening;
}

async function openTensor(key: string, storage: Storage): Promise<LazyTensor> {
  if (storage === "key") return LazyTensor.open(await getRedis(), key);
  // One range over all rows, because a range costs the copies of its parts, and no command.
  return LazyTensor.open(new PartReader(near), key, { maxGapBytes: Infinity });
}

function best(scores: Float32Array | Float64Array, k: number): TopK {
  const top = new TopK(Math.min(k, scores.length));
  for (let row = 0; row < scores.length; row++) top.offer(row, scores[row]!);
  return top;
}

function moved(hits: Hits): Hits {
  return transfer(hits, [hits.rows.buffer, hits.scores.buffer]);
}
