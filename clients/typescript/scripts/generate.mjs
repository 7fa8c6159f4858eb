// Makes src/generated from the schema: its classes by capnp-es, and the constants, which capnp-es
// leaves out, by `capnp eval`. Needs the `capnp` command.
import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { compileAll } from "capnp-es/compiler";

const here = dirname(dirname(fileURLToPath(import.meta.url)));
const schema = process.env.MAYFLY_SCHEMA ?? join(here, "../../include/mayfly/mayfly.capnp");
const out = join(here, "src/generated");
const CONSTANTS = ["protocolVersion", "messageBytesMax", "chunkBytesMax"];

const capnp = (...args) => execFileSync("capnp", args, { maxBuffer: 64 << 20 });

// An unchanged file keeps its time.
function put(name, text) {
  const path = join(out, name);
  let old;
  try {
    old = readFileSync(path, "utf8");
  } catch {
    old = undefined;
  }
  if (old !== text) writeFileSync(path, text);
}

mkdirSync(out, { recursive: true });
const request = capnp("compile", "-o-", `--src-prefix=${dirname(schema)}`, schema);
const { files } = await compileAll(request, { ts: true, js: false, dts: false });
const classes = [...files].find(([name]) => name.endsWith("mayfly.ts"))?.[1];
if (classes === undefined) throw new Error(`capnp-es made nothing of ${schema}`);
// capnp-es's code does not pass this package's stricter settings.
put("mayfly.ts", `// @ts-nocheck\n${classes}`);
const constants = CONSTANTS.map((name) => {
  const value = capnp("eval", schema, name).toString().trim();
  if (!/^\d+$/.test(value)) throw new Error(`${name} is no number in ${schema}: ${value}`);
  return `export const ${name} = ${value};\n`;
});
put("constants.ts", `// Made from mayfly.capnp.\n${constants.join("")}`);
