import { crc32 } from "node:zlib";
import { QUANTIZERS, type Quantizer, type QuantizerName } from "./quantize.js";

/** The header of a packed block. */
export interface TensorHeader {
  readonly quantizer: QuantizerName;
  readonly rows: number;
  readonly dimensions: number;
  /** CRC-32 of the packed rows. */
  readonly checksum: number;
}

export interface Tensor {
  readonly header: TensorHeader;
  /** The rows, still packed, in their own aligned memory. */
  readonly packed: Uint8Array<ArrayBuffer>;
}

/** A stored tensor's header does not describe its bytes. */
export class TensorInvalidError extends Error {
  readonly code = "TENSOR_INVALID";

  constructor(message: string, fields: object) {
    super(message);
    this.name = "TensorInvalidError";
    Object.assign(this, fields);
  }
}

/**
 * magic "RTEN" · version u8 · dtype u8 · reserved u16 · rows u32 · dimensions u32 · checksum of the rows u32 · reserved
 * u64 · checksum of the 28 bytes before u32. Little-endian; a multiple of 8, so that the rows behind it are aligned.
 */
export const HEADER_BYTES = 32;

const MAGIC = 0x4e45_5452;
const VERSION = 1;
const CHECKED_BYTES = 28;
/** The most bytes in a Redis string. */
const MAX_BYTES = 512 * 1024 * 1024;
/** The index is the code in the header. Append only, because stored blocks refer to it. */
const DTYPES: readonly QuantizerName[] = ["float32", "float16", "int8", "uint8", "sign"];

export function packTensor(quantizer: Quantizer, values: Float32Array, dimensions: number): Uint8Array<ArrayBuffer> {
  const packed = quantizer.encode(values, dimensions);
  const bytes = new Uint8Array(HEADER_BYTES + packed.length);
  const header = { quantizer: quantizer.name, rows: values.length / dimensions, dimensions, checksum: crc32(packed) };
  writeHeader(bytes, header);
  bytes.set(packed, HEADER_BYTES);
  return bytes;
}

/** @throws TENSOR_INVALID if header, length or checksum do not agree; `name` is for the message */
export function unpackTensor(bytes: Uint8Array, name: string): Tensor {
  const header = readHeader(bytes, name);
  // A copy, because a reply is an unaligned slice of a larger buffer, and would keep all of it alive.
  const packed = new Uint8Array(bytes.subarray(HEADER_BYTES));
  const expected = payloadBytes(header);
  if (packed.length !== expected) {
    throw invalid(name, `holds ${packed.length} bytes of rows where its header says ${expected}`, header);
  }
  if (crc32(packed) !== header.checksum) throw invalid(name, "has rows that do not match their checksum", header);
  return { header, packed };
}

/** Reads only the header; `bytes` may be longer. @throws TENSOR_INVALID */
export function readHeader(bytes: Uint8Array, name: string): TensorHeader {
  if (bytes.length < HEADER_BYTES) {
    throw invalid(name, `has ${bytes.length} bytes where a header of ${HEADER_BYTES} should be`);
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, HEADER_BYTES);
  if (view.getUint32(0, true) !== MAGIC) throw invalid(name, "does not begin with a tensor's magic number");
  const version = view.getUint8(4);
  if (version !== VERSION) throw invalid(name, `is of version ${version}; this one reads version ${VERSION}`);
  if (view.getUint32(CHECKED_BYTES, true) !== crc32(bytes.subarray(0, CHECKED_BYTES))) {
    throw invalid(name, "has a header that does not match its checksum");
  }
  return checkHeader(view, name);
}

export function payloadBytes({ quantizer, rows, dimensions }: TensorHeader): number {
  return rows * QUANTIZERS[quantizer].bytesPerVector(dimensions);
}

/** Writes `header` over the first bytes. */
export function writeHeader(bytes: Uint8Array, header: TensorHeader): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, HEADER_BYTES);
  view.setUint32(0, MAGIC, true);
  view.setUint8(4, VERSION);
  view.setUint8(5, DTYPES.indexOf(header.quantizer));
  view.setUint32(8, header.rows, true);
  view.setUint32(12, header.dimensions, true);
  view.setUint32(16, header.checksum, true);
  view.setUint32(CHECKED_BYTES, crc32(bytes.subarray(0, CHECKED_BYTES)), true);
}

export function invalid(name: string, what: string, fields: object = {}): TensorInvalidError {
  return new TensorInvalidError(`tensor "${name}" ${what}`, { key: name, ...fields });
}

/** An intact header may describe something that this code does not know. */
function checkHeader(view: DataView, name: string): TensorHeader {
  const dtype = view.getUint8(5);
  const quantizer = DTYPES[dtype];
  if (quantizer === undefined) throw invalid(name, `has rows of an unknown type, ${dtype}`);
  const rows = view.getUint32(8, true);
  const dimensions = view.getUint32(12, true);
  const header = { quantizer, rows, dimensions, checksum: view.getUint32(16, true) };
  if (dimensions === 0) throw invalid(name, "has rows of no dimensions", header);
  if (payloadBytes(header) > MAX_BYTES) {
    throw invalid(name, `claims ${rows} rows of ${dimensions} dimensions: more than Redis holds under one key`, header);
  }
  return header;
}
