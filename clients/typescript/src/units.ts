// Sizes, times and cores as people write them: the words of the command line and of a template's
// manifest.

import { InvalidArgumentError } from "./errors.js";

/** Bytes: 65536, "64KiB", "512MiB", "1.5GiB". */
export type Size = number | bigint | string;
/** "250ms", "30s", "1.5m", "2h". A number is refused: it could be milliseconds or seconds. */
export type Duration = string;
/** Cores: 1, 0.5, "0.25"; thousandths are the finest. */
export type Cores = number | string;

const BYTES: Record<string, bigint> = {
  "": 1n,
  b: 1n,
  kib: 1n << 10n,
  mib: 1n << 20n,
  gib: 1n << 30n,
  tib: 1n << 40n,
  kb: 1000n,
  mb: 1_000_000n,
  gb: 1_000_000_000n,
  tb: 1_000_000_000_000n,
  k: 1n << 10n,
  m: 1n << 20n,
  g: 1n << 30n,
  t: 1n << 40n,
};
const MS: Record<string, bigint> = { ms: 1n, s: 1000n, m: 60_000n, h: 3_600_000n };
const MILLI: Record<string, bigint> = { "": 1000n };
const COUNT: Record<string, bigint> = { "": 1n };

// Capitals do not matter, except in these: they are ambiguous (bits, months).
const AMBIGUOUS_SIZE = /^[KMGT]i?b$/;
const AMBIGUOUS_TIME = /^M$/;

const NUMBER = /^(\d{1,20})(?:\.(\d{1,9}))? *([A-Za-z]*)$/;

interface Kind {
  units: Record<string, bigint>;
  /** The factor of a plain number; undefined: it needs a unit. */
  plain: bigint | undefined;
  what: string;
  example: string;
}

// Exact: digits are counted in integers, because 0.1 has no exact double.
function scaled(text: string, units: Record<string, bigint>): bigint | undefined {
  const match = NUMBER.exec(text);
  if (match === null) return undefined;
  const written = match[3] ?? "";
  if ((units === MS ? AMBIGUOUS_TIME : AMBIGUOUS_SIZE).test(written)) return undefined;
  const unit = written.toLowerCase();
  const factor = Object.hasOwn(units, unit) ? units[unit] : undefined;
  if (factor === undefined) return undefined;
  const fraction = match[2] ?? "";
  const value = BigInt(`${match[1]}${fraction}`) * factor;
  const divisor = 10n ** BigInt(fraction.length);
  return value % divisor === 0n ? value / divisor : undefined;
}

function parse(name: string, value: unknown, kind: Kind, bits: bigint): bigint {
  let exact: bigint | undefined;
  if (typeof value === "string") exact = scaled(value, kind.units);
  else if (kind.plain !== undefined)
    if (typeof value === "bigint") exact = value < 0n ? undefined : value * kind.plain;
    else if (typeof value === "number") exact = scaled(String(value), { "": kind.plain });
  // All ones mean "not named" on the wire.
  if (exact !== undefined && exact < (1n << bits) - 1n) return exact;
  throw new InvalidArgumentError(
    `${name}: ${typeof value === "string" ? `'${value}'` : String(value)} is not ${kind.what}`,
    { advice: `Write it like ${kind.example}.` },
  );
}

/** @internal */
export function parseBytes(name: string, value: unknown): bigint {
  return parse(
    name,
    value,
    { units: BYTES, plain: 1n, what: "a size", example: '"512MiB", "64KiB", "1.5GiB" or 65536' },
    64n,
  );
}

/** @internal */
export function parseMs(name: string, value: unknown, bits = 64n): bigint {
  return parse(
    name,
    value,
    {
      units: MS,
      plain: undefined,
      what: ["number", "bigint"].includes(typeof value) ? "a time: it has no unit" : "a time",
      example: '"250ms", "30s", "1.5m" or "2h"',
    },
    bits,
  );
}

/** @internal */
export function parseCoresMilli(name: string, value: unknown): number {
  return Number(
    parse(
      name,
      value,
      {
        units: MILLI,
        plain: 1000n,
        what: "a number of cores",
        example: "0.5, 1 or 2 (thousandths are the finest)",
      },
      32n,
    ),
  );
}

/** @internal */
export function parseCount(name: string, value: unknown, bits: bigint): bigint {
  return parse(
    name,
    typeof value === "string" ? undefined : value,
    { units: COUNT, plain: 1n, what: "a whole number", example: "64" },
    bits,
  );
}
