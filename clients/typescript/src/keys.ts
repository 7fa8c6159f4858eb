// What a caller hands in: refuses what is no object, and every key that does not exist. An ignored
// key would be a task that runs with other caps than its caller wrote.

import { InvalidArgumentError } from "./errors.js";

/** Every key of T: the compiler compares the list with the type. */
export type Keys<T> = Readonly<Record<keyof T, true>>;

/** What to say of a key that has another name, or belongs elsewhere. */
export type Hints = Readonly<Record<string, string>>;

/** Throws unless it is an object with named fields: no list, no Map, no promise. */
export function checkObject(where: string, value: unknown): asserts value is object {
  const kind = Object.prototype.toString.call(value);
  if (kind === "[object Object]" && !(Symbol.iterator in (value as object))) return;
  throw new InvalidArgumentError(`${where}: ${kind.slice(8, -1)} is no object with named fields`);
}

/** Throws unless it is an object, all of whose keys are known. */
export function checkKeys(
  where: string,
  value: unknown,
  known: Readonly<Record<string, true>>,
  hints: Hints = {},
): asserts value is object {
  checkObject(where, value);
  // Inherited keys are read, too.
  for (const key in value) {
    if (Object.hasOwn(known, key)) continue;
    const names = Object.keys(known);
    const near = nearest(key, names);
    const guess = Object.hasOwn(hints, key)
      ? `${hints[key]} `
      : near === undefined
        ? ""
        : `Did you mean '${near}'? `;
    throw new InvalidArgumentError(`${where}: there is no key '${key}'`, {
      advice: `${guess}There are ${names.join(", ")}.`,
    });
  }
}

export function checkFlag(name: string, value: unknown): boolean {
  if (value === undefined) return false;
  if (typeof value === "boolean") return value;
  throw new InvalidArgumentError(`${name} is neither true nor false`);
}

export function checkHandler(name: string, value: unknown): void {
  if (value !== undefined && typeof value !== "function")
    throw new InvalidArgumentError(`${name} is not a function`);
}

/** A task's id. */
export function checkId(name: string, id: unknown): bigint {
  const whole = typeof id === "bigint" || Number.isSafeInteger(id) ? BigInt(id as number) : -1n;
  if (whole >= 0n && whole < 1n << 64n) return whole;
  throw new InvalidArgumentError(`${name}: ${String(id)} is no task's id`);
}

const plain = (key: string): string => key.toLowerCase().replace(/[_-]/g, "");

/** The known key that was probably meant. */
function nearest(key: string, names: readonly string[]): string | undefined {
  const word = plain(key);
  let best: string | undefined;
  let steps = Math.max(1, Math.floor(word.length / 3)) + 1;
  for (const name of names) {
    const own = plain(name);
    const begins =
      Math.min(word.length, own.length) >= 3 && (own.startsWith(word) || word.startsWith(own));
    const away = begins ? Math.min(1, distance(word, own)) : distance(word, own);
    if (away < steps) [best, steps] = [name, away];
  }
  return best;
}

// Letters to add, drop, change or swap with their neighbour. A long word is no typing error.
const WORD_LETTERS_MAX = 32;

function distance(a: string, b: string): number {
  if (a.length > WORD_LETTERS_MAX) return Infinity;
  let before: number[] = [];
  let last = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; ++i) {
    const row = [i];
    for (let j = 1; j <= b.length; ++j) {
      let steps = Math.min((last[j] ?? 0) + 1, (row[j - 1] ?? 0) + 1);
      steps = Math.min(steps, (last[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1));
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1])
        steps = Math.min(steps, (before[j - 2] ?? 0) + 1);
      row.push(steps);
    }
    [before, last] = [last, row];
  }
  return last[b.length] ?? Infinity;
}
