// The list of finished files, stored while the tab is open, so that a reload does not lose it: the stored ones with their
// URLs, the failed ones as text. Neither keys nor the bodies of responses are stored.

import { ownProblem } from "./problems.js";
import { base } from "./upload.js";

/** Gateways under different paths of one host have the same storage. */
const ITEM = `finished-uploads ${base.pathname}`;
/** The oldest are forgotten. */
const MAX_ENTRIES = 100;
/** Of all entries together, in characters of their JSON. */
const MAX_LENGTH = 100_000;
/** In characters: of the longest text of an entry. */
const MAX_TEXT = 4000;

const STORED = ["url", "fileId", "path", "size", "type", "crc64", "verified", "requestId"];
const PROBLEM = ["own", "values", "code", "title", "detail", "ids", "requestId", "status"];

/** The state in which an item is found again. A deletion that was begun is repeated, because its result is unknown. */
const STATES = {
  stored: "stored", undoable: "stored", deleting: "deleting", failed: "failed",
  waiting: "failed", sending: "failed", finishing: "failed", reconnecting: "failed",
};

// The result of a deletion may arrive while the page is being left. It is not stored: the next page repeats the deletion,
// and shows its result.
let isLeft = false;
addEventListener("pagehide", () => (isLeft = true));
addEventListener("pageshow", () => (isLeft = false));

/** Stores the finished ones of the queue's `items`; the others are found again as failed. */
export function saveFinished(items) {
  if (isLeft) return;
  const entries = [];
  let length = 2;
  // `unfinished.js` has the resumable ones.
  for (const item of items.filter(({ state, url }) => STATES[state] && !url).slice(-MAX_ENTRIES).reverse()) {
    const entry = JSON.stringify(entryOf(item));
    length += entry.length + 1;
    if (length > MAX_LENGTH) break;
    entries.push(entry);
  }
  try {
    sessionStorage.setItem(ITEM, `[${entries.reverse().join()}]`);
  } catch {
    // The browser stores nothing for this page: the list ends with the page.
  }
}

function entryOf({ file, state, stored, problem }) {
  const { name, size, type } = file;
  const left = STATES[state] === "failed" && state !== "failed" ? ownProblem("left") : problem;
  return {
    name: shortened(name), size, type, state: STATES[state],
    stored: stored && picked(stored, STORED),
    problem: left && picked(left, PROBLEM),
  };
}

const shortened = (value) => (typeof value === "string" ? value.slice(0, MAX_TEXT) : value);
const picked = (object, names) => Object.fromEntries(names.map((name) => [name, shortened(object[name])]));

/** The items that were stored, oldest first. */
export function savedFinished() {
  try {
    const entries = JSON.parse(sessionStorage.getItem(ITEM) ?? "[]");
    return entries.map(({ name, size, type, state, stored, problem }) => {
      return { file: { name, size, type }, state, stored, problem, sent: 0 };
    });
  } catch {
    return [];
  }
}
