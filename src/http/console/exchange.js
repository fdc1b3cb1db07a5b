// One request, as a promise. XMLHttpRequest, because fetch does not report upload progress.

import { response } from "./upload.js";

/** After so many milliseconds in which no byte is sent, the connection counts as broken. */
const STALLED = 60_000;
/** Likewise, for the response to a body that was sent: COS may take minutes to confirm a file. */
const RESPONSE_TIMEOUT = 300_000;

/** Resolves to a response with a status of 2xx. Rejects with another one as `response`, and without if the connection
 * broke. */
export function exchange(method, url, key, { headers, body, progress, signal } = {}) {
  return new Promise((resolve, reject) => {
    const xhr = new XMLHttpRequest();
    const done = new AbortController();
    let timer;
    const breakAfter = (milliseconds) => {
      clearTimeout(timer);
      timer = setTimeout(broken, milliseconds);
    };
    const finish = () => {
      clearTimeout(timer);
      done.abort();
    };
    const broken = () => {
      finish();
      xhr.abort();
      reject(new Error("the connection broke"));
    };
    xhr.open(method, url);
    const all = { Accept: "application/json", ...headers };
    if (key) all.Authorization = `Bearer ${key}`;
    for (const [name, value] of Object.entries(all)) xhr.setRequestHeader(name, value);
    const listen = (target, name, action) => target?.addEventListener(name, action, { signal: done.signal });
    listen(signal, "abort", broken);
    // The browser may take minutes to notice that an open connection is dead.
    listen(window, "offline", broken);
    listen(xhr, "error", broken);
    listen(xhr, "load", () => {
      finish();
      const received = response(xhr);
      if (xhr.status >= 200 && xhr.status < 300) resolve(received);
      else reject(Object.assign(new Error(`HTTP ${xhr.status}`), { response: received }));
    });
    listen(xhr.upload, "progress", ({ loaded }) => {
      breakAfter(STALLED);
      progress?.(loaded);
    });
    listen(xhr.upload, "load", () => breakAfter(RESPONSE_TIMEOUT));
    breakAfter(STALLED);
    if (signal?.aborted) broken();
    else xhr.send(body);
  });
}
