// Numbers as short text, as `mayfly top` and the command line write them. Pure.

// Each function takes null or undefined for a number that nobody knows: it gives a dash.
export const NONE = "–";
const known = (value) => typeof value === "number" && Number.isFinite(value);

// Three digits that count: 0.012 -> "0.012", 1234.5 -> "1,235".
function digits(value) {
  const size = Math.abs(value);
  if (size >= 1000) return Math.round(value).toLocaleString("en");
  if (size >= 100 || value === 0) return value.toFixed(0);
  if (size >= 10) return trim(value.toFixed(1));
  return trim(value.toFixed(size >= 0.1 ? 2 : 3));
}
const trim = (text) => text.replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "");

export function count(value) {
  if (!known(value)) return NONE;
  if (Math.abs(value) >= 10_000_000) return digits(value / 1e6) + " M";
  return Math.round(value).toLocaleString("en");
}
export const rate = (value) => (known(value) ? digits(value) + "/s" : NONE);
export const number = (value) => (known(value) ? digits(value) : NONE);

export function seconds(value) {
  if (!known(value)) return NONE;
  if (value === 0) return "0 s";
  if (value < 0.001) return digits(value * 1e6) + " µs";
  if (value < 1) return digits(value * 1e3) + " ms";
  if (value < 120) return digits(value) + " s";
  if (value < 7200) return digits(value / 60) + " min";
  if (value < 172_800) return digits(value / 3600) + " h";
  return digits(value / 86_400) + " d";
}

export function bytes(value) {
  if (!known(value)) return NONE;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return digits(value) + " " + units[unit];
}

export function percent(share) {
  if (!known(share)) return NONE;
  if (share > 0 && share < 0.0001) return "< 0.01 %";
  return digits(share * 100) + " %";
}

export function amount(value, unit) {
  if (unit === "bytes") return bytes(value);
  if (unit === "seconds") return seconds(value);
  return unit === "count" ? count(value) : number(value);
}

// "firstByte", "first_byte" -> "first byte".
export const words = (name) => name.replace(/[A-Z]/g, (letter) => " " + letter.toLowerCase()).replaceAll("_", " ");

export const clock = (unixMs) => new Date(unixMs).toLocaleTimeString("en-GB");
