import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { bundled } from "./packages.js";

/**
 * The file that a thread of ours loads, by its place relative to the module that asks: `here` is that one's `import.meta.url`.
 * The place is lost when a bundler moves that module into another file; the thread would then be waited for in vain. It is not
 * written as bundlers look for it, `new URL("…", import.meta.url)`: Turbopack and webpack would copy the file, without what it
 * imports. Asked for by a function, because a bundle in CommonJS has no `import.meta.url`.
 */
export function threadFile(name: string, here: () => string): string {
  const file = existingFile(`../../workers/${name}`, here);
  if (file !== undefined) return file;
  throw bundled("the file that redthread's threads load is missing,");
}

function existingFile(path: string, here: () => string): string | undefined {
  try {
    const file = fileURLToPath(new URL(path, here()));
    return existsSync(file) ? file : undefined;
  } catch {
    return undefined; // there is no such place
  }
}
