// The page's language (`?lang=en` and `?lang=zh`, the one that was chosen before, or the browser's), and texts, numbers,
// sizes and times in it.

import { base } from "./upload.js";

const ITEM = `language ${base.pathname}`;

export let language;
let words, problems, advice, whole, tenths;
await use(choose());

function choose() {
  const wanted = [new URLSearchParams(location.search).get("lang"), remembered(), ...navigator.languages];
  const known = wanted.map((tag) => tag?.slice(0, 2).toLowerCase()).find((tag) => tag === "zh" || tag === "en");
  return known ?? "en";
}

async function use(tag) {
  ({ words, problems, advice } = await import(`./words.${tag}.js`));
  language = tag;
  const number = (digits) => new Intl.NumberFormat(tag, { maximumFractionDigits: digits });
  [whole, tenths] = [number(0), number(1)];
}

/** Changes the language, also for later visits. Rejects, and changes nothing, if its texts cannot be loaded. */
export async function setLanguage(tag) {
  await use(tag);
  const url = new URL(location.href);
  // The parameter takes precedence over the choice.
  url.searchParams.delete("lang");
  history.replaceState(null, "", url);
  try {
    localStorage.setItem(ITEM, tag);
  } catch {
    // The browser stores nothing for this page: the choice ends with the page.
  }
}

function remembered() {
  try {
    return localStorage.getItem(ITEM);
  } catch {
    return null;
  }
}

/** The text `name`, with `values` filled in. */
export const text = (name, ...values) => (values.length ? words[name](...values) : words[name]);

/** What the page's language has about a code of the gateway: its title, and what to do. English has neither, because
 * the gateway's own texts are English. */
export const wordsOfCode = (code) => ({ title: problems[code], advice: advice[code] });

/** A media type, or a kind of them (`image/*`), as a user calls it. */
export function typeName(type) {
  const short = type.match(/^\w+\/([a-z\d]{2,5})$/)?.[1].toUpperCase();
  return words.types[type] ?? short ?? type;
}

/** Sets the texts of all elements with `data-t` below `root`. */
export function translate(root) {
  for (const element of root.querySelectorAll("[data-t]")) element.textContent = text(element.dataset.t);
  for (const element of root.querySelectorAll("[data-t-label]")) {
    element.setAttribute("aria-label", text(element.dataset.tLabel));
  }
}

/** `1536` is `1.5 KiB`. */
export function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB"];
  let unit = 0;
  while (bytes >= 1023.5 && unit < units.length - 1) {
    bytes /= 1024;
    unit += 1;
  }
  return `${(bytes < 99.95 && unit ? tenths : whole).format(bytes)} ${units[unit]}`;
}

export const rate = (bytesPerSecond) => `${size(bytesPerSecond)}/s`;
export const count = (value) => whole.format(value);

/** Seconds in the largest fitting units. */
export function duration(seconds) {
  const { h, min, s } = words.units;
  if (seconds < 60) return `${Math.max(1, Math.round(seconds))} ${s}`;
  const minutes = Math.round(seconds / 60);
  return minutes < 60 ? `${minutes} ${min}` : `${Math.floor(minutes / 60)} ${h} ${minutes % 60} ${min}`;
}
