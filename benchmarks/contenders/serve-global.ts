import { Redis } from "ioredis";
import { placeOfThread } from "./place.js";
import { type Request, serve } from "./request.js";

const redis = new Redis(placeOfThread().port);

export default async function request(input: Request): Promise<void> {
  await serve(redis, input);
}
