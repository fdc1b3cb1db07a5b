// Resumable uploads: a client of tus 1.0 (https://tus.io/protocols/resumable-upload) for one file. After the connection
// broke, or the gateway had to refuse for a moment, it continues by itself where the gateway's copy ends.

import { exchange } from "./exchange.js";
import { problem } from "./response.js";
import { base } from "./upload.js";

/** Bytes of a request at most: platforms limit requests (20 MiB at WeChat cloud hosting). */
const PIECE = 10 << 20;
/** In milliseconds, the pauses before attempts that follow each other without progress; the last one repeats. */
const DELAYS = [0, 1000, 3000, 5000, 10_000, 20_000, 30_000];
/** A `Retry-After` of more seconds is a refusal. */
const MAX_RETRY_AFTER = 60;
/** An upload that the gateway no longer knows is begun anew so many times. */
const MAX_RESTARTS = 2;
/** Statuses that are not final; neither are those from 500. */
const TRANSIENT = [408, 409, 423, 429];

const UPLOADS = new URL("v1/uploads", base);
const VERSION = { "Tus-Resumable": "1.0.0" };

const NOTHING = { maxSize: 0 };
const offers = new Map();

/** What the gateway offers to this credential: `maxSize`, the bytes of the largest file that can be sent by tus, 0 if
 * none; `isKept`, whether the gateway itself keeps what was sent until the file is complete. It is asked once. */
export function offer(key) {
  if (!offers.has(key)) offers.set(key, askForOffer(key));
  return offers.get(key);
}

async function askForOffer(key) {
  try {
    const { header } = await exchange("OPTIONS", UPLOADS, key);
    const lists = (name, value) => (header(name) ?? "").split(",").includes(value);
    if (!lists("tus-version", "1.0.0")) return NOTHING;
    // Only a gateway that passes each part on at once can do without the length.
    const isKept = !lists("tus-extension", "creation-defer-length");
    return { maxSize: Number(header("tus-max-size") ?? Infinity), isKept };
  } catch ({ response }) {
    // A connection that broke says nothing about the gateway.
    if (!response || response.status >= 500) offers.delete(key);
    return NOTHING;
  }
}

/** Ends the upload at `url`. If the request fails, the gateway does that when the upload expires. Resolves to the response
 * about the file if it was already stored, otherwise to nothing. */
export async function terminate(url, key) {
  try {
    await exchange("DELETE", url, key, { headers: VERSION });
  } catch ({ response }) {
    // An upload that is complete has no end.
    if (response?.status === 405) return exchange("GET", url, key, { headers: VERSION }).then(stored, () => {});
  }
}

/** The upload of one file. `start` continues it after `stop`. */
export class Upload {
  /** Unknown until the upload is created. */
  url;
  #file;
  #on;
  #creation;
  #stopping = new AbortController();

  /** Calls `on.created(url, expires)`; `on.offset(bytes)` for what the gateway has, then `on.sent(bytes)` repeatedly;
   * `on.waiting(problem)` before a pause, without a problem if the connection broke; `on.lost(url)` before the upload
   * is begun anew; at the end `on.response(response)`, or `on.refused(problem, status)`, without both if the file
   * cannot be read, or `on.full()` if nothing was sent because the gateway has no room to keep the file. */
  constructor(file, url, on) {
    this.url = url;
    this.#file = file;
    this.#on = on;
  }

  stop() {
    this.#stopping.abort();
  }

  /** Sends what the gateway does not have yet. */
  async start(request) {
    this.#stopping = new AbortController();
    const { signal } = this.#stopping;
    // Of the failures since the last progress, some are refusals and the others broken connections.
    let [failures, refusals, reached, restarts] = [0, 0, 0, 0];
    while (!signal.aborted) {
      try {
        await this.#create(request);
        const state = await this.#ask("GET", request, signal);
        const { offset } = JSON.parse(state.text);
        if (offset === undefined) return this.#on.response(stored(state));
        this.#on.offset(offset);
        if (offset > reached) failures = refusals = 0;
        for (reached = offset; reached < this.#file.size; failures = refusals = 0) {
          this.#on.sent(reached);
          reached = await this.#append(reached, request, signal);
        }
      } catch (error) {
        const refused = error.response;
        const isLegible = refused || (await isReadable(this.#file));
        const isFull = !this.url && refused && (await lacksRoom(refused, request));
        if (signal.aborted) return;
        if (!isLegible) return this.#on.refused();
        if (isFull) return this.#on.full();
        if (this.url && refused?.status === 404 && restarts < MAX_RESTARTS) {
          this.#on.lost(this.url);
          [this.url, reached] = [undefined, 0];
          restarts += 1;
          continue;
        }
        if (refused && (isFinal(refused) || refusals >= DELAYS.length)) {
          return this.#on.refused(problem(refused), refused.status);
        }
        this.#on.waiting(refused && problem(refused));
        const delay = DELAYS[Math.min(failures, DELAYS.length - 1)];
        failures += 1;
        refusals += refused ? 1 : 0;
        await pause(Math.max(delay, 1000 * (refused?.retryAfter ?? 0)), signal, !refused);
      }
    }
  }

  /** A creation is never aborted, since an upload whose URL is not known cannot be ended. */
  async #create({ key, dir }) {
    if (this.url) return;
    const { name, type, size } = this.#file;
    const metadata = Object.entries({ filename: name, filetype: type, dir }).filter(([, value]) => value);
    const headers = {
      ...VERSION,
      "Upload-Length": size,
      "Upload-Metadata": metadata.map(([pair, value]) => `${pair} ${base64(value)}`).join(","),
    };
    this.#creation ??= exchange("POST", UPLOADS, key, { headers }).finally(() => (this.#creation = undefined));
    const created = await this.#creation;
    // The page may be opened at another address than the gateway's public URL; its policy allows only its own.
    const id = created.header("location").split("/").at(-1);
    this.url ??= `${UPLOADS}/${id}`;
    this.#on.created(this.url, Date.parse(created.header("upload-expires")));
  }

  /** Sends the piece at `offset`; returns the next offset. */
  async #append(offset, request, signal) {
    const body = this.#file.slice(offset, offset + PIECE);
    const headers = { "Upload-Offset": offset, "Content-Type": "application/offset+octet-stream" };
    const progress = (bytes) => this.#on.sent(offset + bytes);
    const appended = await this.#ask("PATCH", request, signal, { headers, body, progress });
    const next = Number(appended.header("upload-offset"));
    // A response that is not the gateway's.
    if (!(next > offset)) throw new Error("no progress");
    return next;
  }

  /** GET and not HEAD for the offset, because a response to HEAD cannot say why it is a refusal. */
  #ask(method, { key }, signal, { headers, ...options } = {}) {
    return exchange(method, this.url, key, { signal, headers: { ...VERSION, ...headers }, ...options });
  }
}

/** The response to a GET of an upload that is stored: its timing is that of this request, and not the upload's. */
const stored = (response) => ({ ...response, timing: undefined });

const isFinal = ({ status, retryAfter, text }) =>
  (status < 500 && !TRANSIENT.includes(status)) || retryAfter > MAX_RETRY_AFTER ||
  // Another page or program continues the upload: both would interrupt each other for ever.
  problem({ status, text }).code === "superseded";

const lacksRoom = async (refused, { key }) => problem(refused).code === "overloaded" && (await offer(key)).isKept;

/** Waits; `untilOnline`: or until the browser says that it is online again. */
function pause(milliseconds, signal, untilOnline) {
  return new Promise((resolve) => {
    const done = new AbortController();
    const timer = setTimeout(end, milliseconds);
    function end() {
      clearTimeout(timer);
      done.abort();
      resolve();
    }
    signal.addEventListener("abort", end, { signal: done.signal });
    if (untilOnline) addEventListener("online", end, { signal: done.signal });
  });
}

/** False once the file was changed, moved or deleted: to a request, that looks like a broken connection. */
async function isReadable(file) {
  try {
    await file.slice(0, 1).arrayBuffer();
    return true;
  } catch {
    return false;
  }
}

const base64 = (text) => btoa(String.fromCharCode(...new TextEncoder().encode(text)));
