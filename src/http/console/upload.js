// One file's request. XMLHttpRequest, because fetch has no upload progress; what it reports is true, because the
// gateway reads no faster than storage takes.

/** The gateway's base: this module is `console/upload.js` below it. */
export const base = new URL("../", import.meta.url);

/** Where the form goes: folder and profile stand in the address, so that the file is the form's only part. */
export function address({ dir, profile }) {
  const url = new URL("v1/files", base);
  if (dir) url.searchParams.set("dir", dir);
  if (profile && profile !== "default") url.searchParams.set("reply", profile);
  return url.href;
}

/** Sends `file`. `on.sent(bytes)` as it goes, then one of `on.answered(reply)` and `on.broken()`; neither once aborted. */
export function send(file, request, on) {
  const form = new FormData();
  form.append("file", file, file.name);
  const xhr = new XMLHttpRequest();
  xhr.open("POST", address(request));
  if (request.key) xhr.setRequestHeader("Authorization", `Bearer ${request.key}`);
  xhr.upload.addEventListener("progress", ({ loaded, total }) => {
    // The form's own bytes are not the file's.
    if (total) on.sent((file.size * loaded) / total);
  });
  xhr.addEventListener("load", () => on.answered(answer(xhr)));
  xhr.addEventListener("error", () => on.broken());
  xhr.send(form);
  return () => xhr.abort();
}

/** Deletes the file at `path`; resolves to its answer, or to nothing where the connection broke. */
export function remove(path, { key }) {
  return new Promise((resolve) => {
    const xhr = new XMLHttpRequest();
    xhr.open("DELETE", new URL(`v1/files/${path.split("/").map(encodeURIComponent).join("/")}`, base));
    if (key) xhr.setRequestHeader("Authorization", `Bearer ${key}`);
    xhr.addEventListener("load", () => resolve(answer(xhr)));
    xhr.addEventListener("error", () => resolve());
    xhr.send();
  });
}

const answer = (xhr) => ({
  status: xhr.status,
  text: xhr.responseText,
  requestId: xhr.getResponseHeader("x-request-id"),
  retryAfter: xhr.getResponseHeader("retry-after"),
  timing: xhr.getResponseHeader("server-timing"),
});

/** How fast bytes go, over the last seconds. */
export class Meter {
  #marks = [];

  constructor() {
    this.mark(0);
  }

  mark(sent, now = performance.now()) {
    this.#marks.push([now, sent]);
    while (this.#marks.length > 2 && this.#marks[1][0] < now - 5000) this.#marks.shift();
  }

  /** Bytes a second until now, so that it falls while nothing moves; nothing in the first half second. */
  speed(now = performance.now()) {
    const [began, first] = this.#marks[0];
    const [, last] = this.#marks.at(-1);
    return now - began < 500 ? undefined : (1000 * (last - first)) / (now - began);
  }
}
