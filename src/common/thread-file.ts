import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { bundled } from "./packages.js";

/**
 * The file that a thread of ours loads. Its place is relative to the module that asks, so it is lost when a bundler moves
 * that module into another file; the thread would then be waited for in vain. Asked for by a function, because a bundle
 * in CommonJS has no `import.meta.url`.
 */
export function threadFile(place: () => URL): string {
  const file = existingFile(place);
  if (file !== undefined) return file;
  throw bundled("the file that redthread's threads load is missing,");
}

function existingFile(place: () => URL): string | undefined {
  try {
    const file = fileURLToPath(place());
    return existsSync(file) ? file : undefined;
  } catch {
    return undefined; // there is no such place
  }
}
