import { Decoder, GlideClient } from "@valkey/valkey-glide";
import { placeOfThread } from "../contender.js";
import { digest, type Item } from "../work.js";

/** Valkey's client with a core in Rust, one per thread. */
const connecting = GlideClient.createClient({
  addresses: [{ host: "127.0.0.1", port: placeOfThread().port }],
  defaultDecoder: Decoder.Bytes,
  // After the default of 250 ms a machine that does other things as well fails a request. No other contender has such a limit.
  requestTimeout: 10_000,
});

export default async function item({ key, rounds }: Item): Promise<number> {
  const redis = await connecting;
  const value = ((await redis.get(key)) as Buffer | null) ?? Buffer.alloc(0);
  await redis.set(`out:${key}`, digest(value, rounds));
  return value.length;
}
