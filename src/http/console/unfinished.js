// The uploads that can be continued after the page was closed, in the browser's storage: their URLs, and by what their
// files are recognized. The files themselves cannot be stored.

import { base } from "./upload.js";

/** Gateways under different paths of one host have the same storage. */
const ITEM = `unfinished-uploads ${base.pathname}`;
/** The oldest are forgotten. */
const MAX_ENTRIES = 20;
/** In milliseconds, the life of an upload that the gateway told no end of. */
const DAY = 24 * 60 * 60 * 1000;

/** The locks of this page, by the uploads' URLs: what releases them. */
const locks = new Map();

/** Stores the upload of `file`, which this page sends. `expires` is in milliseconds since 1970. */
export function remember({ name, size, lastModified }, url, expires) {
  const others = entries().filter((entry) => entry.url !== url);
  const entry = { url, name, size, lastModified, expires: expires || Date.now() + DAY };
  write([...others, entry].slice(-MAX_ENTRIES));
  lock(url);
}

export function forget(url) {
  write(entries().filter((entry) => entry.url !== url));
  locks.get(url)?.();
  locks.delete(url);
}

/** Calls `show` for each upload that no page sends: at once, or when the page that sends it is closed. */
export async function restore(show) {
  for (const { url } of entries()) {
    lock(url).then(() => {
      const entry = entries().find((entry) => entry.url === url);
      if (entry) show(entry);
      else forget(url);
    });
  }
}

/** Whether `file` is the one whose upload is unfinished. */
export const isSame = (file, other) =>
  file.name === other.name && file.size === other.size && file.lastModified === other.lastModified;

function entries() {
  try {
    return JSON.parse(localStorage.getItem(ITEM) ?? "[]").filter(({ expires }) => expires > Date.now());
  } catch {
    return [];
  }
}

function write(entries) {
  try {
    localStorage.setItem(ITEM, JSON.stringify(entries));
  } catch {
    // The browser stores nothing for this page: an upload ends with the page.
  }
}

/** Resolves when no other page has the upload's lock. The browser releases a page's locks when it is closed. */
function lock(url) {
  // Missing where the page is not a secure context.
  if (!navigator.locks || locks.has(url)) return Promise.resolve();
  return new Promise((locked) => {
    navigator.locks.request(url, () => {
      locked();
      return new Promise((release) => locks.set(url, release));
    });
  });
}
