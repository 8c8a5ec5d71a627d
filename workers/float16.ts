// Node 20 has neither Float16Array nor Math.f16round.
const float = new Float32Array(1);
const bits = new Uint32Array(float.buffer);

/** The largest value of IEEE half precision; larger values are held at it instead of becoming infinite. */
export const FLOAT16_MAX = 65_504;

let decoded: Float32Array | undefined;

/** The 16 bits of the nearest half (ties to even). */
export function toFloat16(value: number): number {
  float[0] = value > FLOAT16_MAX ? FLOAT16_MAX : value < -FLOAT16_MAX ? -FLOAT16_MAX : value;
  const word = bits[0]!;
  const sign = (word >>> 16) & 0x8000;
  const magnitude = word & 0x7fff_ffff;
  // Below 2^-14 halves are multiples of 2^-24, so that rounding is like an integer's.
  if (magnitude < 0x3880_0000) return sign | roundHalfToEven(Math.abs(float[0]) * 2 ** 24);
  const odd = (magnitude >>> 13) & 1;
  return sign | ((magnitude - 0x3800_0000 + 0xfff + odd) >>> 13);
}

/** The values of all 65 536 halves: a look-up is three times as fast as the arithmetic. */
export function float16Values(): Float32Array {
  return (decoded ??= Float32Array.from({ length: 65_536 }, (_, half) => fromFloat16(half)));
}

function fromFloat16(half: number): number {
  const sign = half & 0x8000 ? -1 : 1;
  const exponent = (half >>> 10) & 0x1f;
  const fraction = half & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? Number.NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

function roundHalfToEven(value: number): number {
  const floor = Math.floor(value);
  const rest = value - floor;
  return rest > 0.5 || (rest === 0.5 && floor % 2 === 1) ? floor + 1 : floor;
}
