#!/usr/bin/env node
import { parseArgs } from "node:util";
import { examine } from "./doctor.js";
import { asTable } from "./report.js";

const HELP = `Usage: redthread doctor [options]

Reads the configuration as a manager does (environment, .env, configFile), connects to Redis, and says
what is wrong and what to do about it. Options that your code passes to ConnectionManager are not seen.

Options:
  --config-file <path>  JSON file of options, as REDTHREAD_CONFIG_FILE
  --json                the report as JSON on stdout
  --help                this text

Exit code: 0 no check failed (warnings allowed), 1 a check failed, 2 wrong usage.
`;

process.exitCode = await main(process.argv.slice(2));

async function main(args: string[]): Promise<number> {
  let given;
  try {
    given = parseArgs({
      args,
      allowPositionals: true,
      options: { "config-file": { type: "string" }, json: { type: "boolean" }, help: { type: "boolean", short: "h" } },
    });
  } catch (error) {
    return misused((error as Error).message);
  }
  const { values, positionals } = given;
  if (values.help) {
    process.stdout.write(HELP);
    return 0;
  }
  if (positionals.length !== 1 || positionals[0] !== "doctor") {
    return misused(positionals.length === 0 ? "no command given" : `unknown command: ${positionals.join(" ")}`);
  }
  const configFile = values["config-file"];
  const report = await examine(configFile === undefined ? {} : { configFile });
  process.stdout.write(values.json ? `${JSON.stringify(report, null, 2)}\n` : asTable(report));
  return report.ok ? 0 : 1;
}

function misused(why: string): number {
  process.stderr.write(`${why}\n\n${HELP}`);
  return 2;
}
