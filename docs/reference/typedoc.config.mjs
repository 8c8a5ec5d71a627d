// Writes docs/api from the docstrings: a page for each name that users import.
import { readFileSync } from "node:fs";
import { Converter } from "typedoc";

const { exports } = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8"));
const faces = Object.entries(exports).flatMap(([path, face]) =>
  typeof face === "string"
    ? []
    : [[face.default.replace(/^\.\/lib\/src\/(.*)\.js$/, "$1"), `redthread${path.slice(1)}`]],
);
const names = new Map(faces);

/** typedoc names a page after its source file. */
function nameAsImported(app) {
  app.converter.on(Converter.EVENT_RESOLVE_BEGIN, ({ project }) => {
    for (const face of project.children) face.name = names.get(face.name);
  });
}

export default {
  plugin: ["typedoc-plugin-markdown", nameAsImported],
  tsconfig: "../../tsconfig.json",
  entryPoints: faces.map(([file]) => `../../src/${file}.ts`),
  out: "../api",
  router: "module",
  readme: "none",
  disableSources: true,
  excludeInternal: true,
  excludeExternals: true,
  hideBreadcrumbs: true,
  hidePageHeader: true,
  parametersFormat: "table",
  interfacePropertiesFormat: "table",
  typeDeclarationFormat: "table",
  validation: { notExported: false },
  skipErrorChecking: true, // npm run typecheck does it, with the TypeScript of the project
};
