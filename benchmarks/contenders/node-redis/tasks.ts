import { createClient, RESP_TYPES } from "redis";
import { placeOfThread } from "../contender.js";
import { digest, type Item } from "../work.js";

/** The other client for Node, in a module variable; it writes once per loop turn by itself. */
const connecting = createClient({ socket: { host: "127.0.0.1", port: placeOfThread().port } })
  .withTypeMapping({ [RESP_TYPES.BLOB_STRING]: Buffer })
  .connect();

export default async function item({ key, rounds }: Item): Promise<number> {
  const redis = await connecting;
  const value = (await redis.get(key)) ?? Buffer.alloc(0);
  await redis.set(`out:${key}`, digest(value, rounds));
  return value.length;
}
