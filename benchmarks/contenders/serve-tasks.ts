import { getRedis } from "redthread/worker";
import { type Request, serve } from "./request.js";

export async function request(input: Request): Promise<void> {
  await serve(await getRedis(), input);
}
