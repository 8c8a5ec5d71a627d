import { getRedis, transfer, type TaskContext } from "../src/worker.js";
import { BlockCache } from "./block-cache.js";
import { LazyTensor } from "./lazy-tensor.js";
import { QUANTIZERS, type QuantizerName } from "./quantize.js";
import { exactCosines, SearchBlock } from "./search-block.js";
import { packTensor, unpackTensor } from "./tensor.js";
import { TopK, type Hits } from "./top-k.js";

export interface StoreInput {
  readonly key: string;
  readonly quantizer: QuantizerName;
  readonly dimensions: number;
  /** Row after row; move it here with `transferList`. */
  readonly values: Float32Array<ArrayBuffer>;
  /** The keys expire, in case the writer dies before it deletes them. Default: kept until deleted. */
  readonly ttlSeconds?: number;
}

export interface SearchInput {
  readonly key: string;
  /** Added to the rows of the hits: the number of rows before this block. */
  readonly firstRow: number;
  readonly query: Float32Array<ArrayBuffer>;
  readonly k: number;
}

export interface SearchSignsInput extends SearchInput {
  /** The same rows in a form that is precise enough to rank by. */
  readonly rankKey: string;
  /** The number of rows to rank. */
  readonly candidates: number;
}

export interface SearchExactlyInput extends Omit<SearchInput, "query"> {
  /** Several queries at once, because each call loads and decodes the block. */
  readonly queries: readonly Float32Array<ArrayBuffer>[];
}

/** Per thread; enough for 50 000 words in every form, or for all 341 479 as int8. */
const CACHED_BYTES = 64 * 1024 * 1024;

const blocks = new BlockCache(CACHED_BYTES, loadBlock);
const lazyTensors = new Map<string, Promise<LazyTensor>>();

/** Quantizes a block of rows and stores it. */
export async function store(input: StoreInput): Promise<{ bytes: number }> {
  const { key, quantizer, dimensions, values, ttlSeconds } = input;
  const bytes = packTensor(QUANTIZERS[quantizer], values, dimensions);
  const packed = Buffer.from(bytes.buffer);
  const redis = await getRedis();
  if (ttlSeconds === undefined) await redis.set(key, packed);
  else await redis.set(key, packed, "EX", ttlSeconds);
  return { bytes: bytes.length };
}

/** The k rows of a block with the largest cosine to the query, by the packed or decoded rows. */
export async function search({ key, firstRow, query, k }: SearchInput): Promise<Hits> {
  const block = await blocks.get(key);
  return moved(best(block.cosines(query), k).hits((row) => row + firstRow));
}

/** As `search`, in two steps: candidates by their sign bits, ranked by rows that are loaded for them alone. */
export async function searchSigns(input: SearchSignsInput): Promise<Hits> {
  const { key, rankKey, firstRow, query, k, candidates } = input;
  const block = await blocks.get(key);
  const { rows } = best(block.cosines(query), candidates).hits();
  const tensor = await lazyTensor(rankKey);
  const ranked = best(exactCosines(await tensor.rows(rows), query), k);
  return moved(ranked.hits((candidate) => rows[candidate]! + firstRow));
}

/** The result of `search` for each query, from float32 rows and in double precision: the others are measured by it. */
export async function searchExactly(input: SearchExactlyInput, { signal }: TaskContext): Promise<Hits[]> {
  const { key, firstRow, queries, k } = input;
  const { header, packed } = unpackTensor(await load(key), key);
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

async function loadBlock(key: string): Promise<SearchBlock> {
  return SearchBlock.from(await load(key), key);
}

async function load(key: string): Promise<Buffer> {
  const redis = await getRedis();
  // A missing key is as wrong as an empty one: the reader of the header reports it.
  return (await redis.getBuffer(key)) ?? Buffer.alloc(0);
}

/** Without a limit, because a tensor in Redis costs only its header here. */
function lazyTensor(key: string): Promise<LazyTensor> {
  const known = lazyTensors.get(key);
  if (known) return known;
  const opening = getRedis().then((redis) => LazyTensor.open(redis, key));
  lazyTensors.set(key, opening);
  opening.catch(() => lazyTensors.delete(key));
  return opening;
}

function best(scores: Float32Array | Float64Array, k: number): TopK {
  const top = new TopK(Math.min(k, scores.length));
  for (let row = 0; row < scores.length; row++) top.offer(row, scores[row]!);
  return top;
}

function moved(hits: Hits): Hits {
  return transfer(hits, [hits.rows.buffer, hits.scores.buffer]);
}
