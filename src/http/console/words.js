// The page's language (the browser's, or `?lang=en` and `?lang=zh`), and texts, numbers, sizes and times in it.

function choose() {
  const wanted = [new URLSearchParams(location.search).get("lang"), ...navigator.languages];
  const known = wanted.map((tag) => tag?.slice(0, 2).toLowerCase()).find((tag) => tag === "zh" || tag === "en");
  return known ?? "en";
}

export const language = choose();
const { words, problems } = await import(`./words.${language}.js`);

/** The text `name`, with `values` filled in. */
export const text = (name, ...values) => (values.length ? words[name](...values) : words[name]);

/** A problem's title in the page's language, and its detail if that differs from the title. */
export function problemTexts(problem) {
  const title = problems[problem.code];
  return { title: title ?? problem.title, detail: problem.detail === title ? undefined : problem.detail };
}

/** Sets the texts of all elements with `data-t` below `root`. */
export function translate(root) {
  for (const element of root.querySelectorAll("[data-t]")) element.textContent = text(element.dataset.t);
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

/** Seconds in the largest fitting units. */
export function duration(seconds) {
  const { h, min, s } = words.units;
  if (seconds < 60) return `${Math.max(1, Math.round(seconds))} ${s}`;
  const minutes = Math.round(seconds / 60);
  return minutes < 60 ? `${minutes} ${min}` : `${Math.floor(minutes / 60)} ${h} ${minutes % 60} ${min}`;
}
