// The requests for one file. XMLHttpRequest, because fetch does not report upload progress. The progress is that of
// storage, because the gateway reads no faster than storage does.

/** The gateway's base URL: this module is `console/upload.js` below it. */
export const base = new URL("../", import.meta.url);

/** The URL of an upload. Folder and profile are in its query, so that the file is the form's only part. */
export function uploadUrl({ dir, profile }) {
  const url = new URL("v1/files", base);
  if (dir) url.searchParams.set("dir", dir);
  if (profile && profile !== "default") url.searchParams.set("reply", profile);
  return url.href;
}

/** Sends `file`; returns a function that aborts it. Calls `on.sent(bytes)` repeatedly, then `on.response(response)` or
 * `on.error()`, unless aborted. A repeat with the same `id` stores nothing twice. */
export function send(file, id, request, on) {
  const form = new FormData();
  form.append("file", file, file.name);
  const xhr = new XMLHttpRequest();
  xhr.open("POST", uploadUrl(request));
  xhr.setRequestHeader("Idempotency-Key", id);
  if (request.key) xhr.setRequestHeader("Authorization", `Bearer ${request.key}`);
  xhr.upload.addEventListener("progress", ({ loaded, total }) => {
    // The total includes the form's own bytes.
    if (total) on.sent((file.size * loaded) / total);
  });
  xhr.addEventListener("load", () => on.response(response(xhr)));
  xhr.addEventListener("error", () => on.error());
  xhr.send(form);
  return () => xhr.abort();
}

/** An id for `send`. */
export const newId = () => [...crypto.getRandomValues(new Uint32Array(4))].map((part) => part.toString(36)).join("-");

/** Deletes the file at `path`, also if the page is left meanwhile; resolves to the response, or to undefined if the
 * connection broke. */
export async function deleteFile(path, { key }) {
  const url = new URL(`v1/files/${path.split("/").map(encodeURIComponent).join("/")}`, base);
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  try {
    const deleted = await fetch(url, { method: "DELETE", headers, keepalive: true });
    const header = (name) => deleted.headers.get(name);
    const text = await deleted.text();
    return { status: deleted.status, text, requestId: header("x-request-id"), retryAfter: header("retry-after") };
  } catch {
    return undefined;
  }
}

/** What the page reads of a response. */
export const response = (xhr) => ({
  status: xhr.status,
  text: xhr.responseText,
  requestId: xhr.getResponseHeader("x-request-id"),
  retryAfter: xhr.getResponseHeader("retry-after"),
  timing: xhr.getResponseHeader("server-timing"),
  header: (name) => xhr.getResponseHeader(name),
});

/** The speed of an upload over the last 5 s. */
export class SpeedMeter {
  #samples = [];

  /** `sent`: the bytes that need not be sent. */
  constructor(sent = 0) {
    this.add(sent);
  }

  add(sent, now = performance.now()) {
    this.#samples.push([now, sent]);
    while (this.#samples.length > 2 && this.#samples[1][0] < now - 5000) this.#samples.shift();
  }

  /** Bytes per second until `now`, so that it decreases while nothing is sent; undefined in the first half second. */
  speed(now = performance.now()) {
    const [start, first] = this.#samples[0];
    const [, last] = this.#samples.at(-1);
    return now - start < 500 ? undefined : (1000 * (last - first)) / (now - start);
  }
}
