// The page's language: the browser's, or `?lang=en` and `?lang=zh`. Texts, numbers, sizes and times in it.

function choose() {
  const wanted = [new URLSearchParams(location.search).get("lang"), ...navigator.languages];
  const known = wanted.map((tag) => tag?.slice(0, 2).toLowerCase()).find((tag) => tag === "zh" || tag === "en");
  return known ?? "en";
}

export const language = choose();
const { words, problems } = await import(`./words.${language}.js`);

/** The text called `name`; those that take values are functions. */
export const say = (name, ...values) => (values.length ? words[name](...values) : words[name]);

/** A problem in words: what it is, and what the gateway says of this occurrence where that adds something. */
export function inWords(problem) {
  const own = problems[problem.code];
  return { title: own ?? problem.title, detail: problem.detail === own ? undefined : problem.detail };
}

/** Puts the page's language into everything below `root` that is marked with `data-t`. */
export function translate(root) {
  for (const element of root.querySelectorAll("[data-t]")) element.textContent = say(element.dataset.t);
}

const number = (digits) => new Intl.NumberFormat(language, { maximumFractionDigits: digits });
const [whole, tenths] = [number(0), number(1)];

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

/** Seconds as a person would say them. */
export function duration(seconds) {
  const { h, min, s } = words.units;
  if (seconds < 60) return `${Math.max(1, Math.round(seconds))} ${s}`;
  const minutes = Math.round(seconds / 60);
  return minutes < 60 ? `${minutes} ${min}` : `${Math.floor(minutes / 60)} ${h} ${minutes % 60} ${min}`;
}
