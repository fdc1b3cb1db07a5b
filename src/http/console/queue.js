// The queue of uploads: a few run at a time, each file in a request of its own, so that a failure affects one file.
// An item's `state` is waiting, sending, finishing, then stored, failed or cancelled; a stored item may become undoable
// (its deletion can be undone), then deleting and deleted. A large file's upload is resumable: it may be paused, or
// reconnecting, which sends again by itself. Unfinished is one of an earlier visit, whose file is not known yet. While
// the gateway cannot be reached, nothing is started.

import { check, isLost } from "./connection.js";
import { schedule, undo } from "./deletion.js";
import { checkFile, isOfLimits } from "./limits.js";
import { canRetry, ownProblem } from "./problems.js";
import { problem, read } from "./response.js";
import { Upload, offer, terminate } from "./tus.js";
import { forget, isSame, remember } from "./unfinished.js";
import { SpeedMeter, deleteFile, newId, send } from "./upload.js";

/** Browsers open six connections to one server; the page itself needs some. */
const CONCURRENCY = 3;

/** In bytes: larger files are sent by resumable uploads, if the gateway offers them for files of this size. */
const RESUMABLE_FROM = 8 << 20;

const RUNNING = ["sending", "finishing", "reconnecting"];
const FINISHED = ["stored", "failed", "cancelled", "deleted"];

/** After a refusal with such a status, or one from 500, an upload can be continued: later, or with another key. */
const KEPT_AFTER = [401, 403, 408, 409, 423, 429];

export class Queue {
  items = [];
  #request;
  #changed;

  /** `request()` returns the settings of the next upload; `changed(item)` is called after each change of an item. */
  constructor(request, changed) {
    this.#request = request;
    this.#changed = changed;
  }

  /** Adds a file, or continues its unfinished upload. */
  add(file) {
    const unfinished = this.inState("unfinished").find((item) => isSame(item.file, file));
    if (unfinished) return this.continue(unfinished, file);
    const item = { file, state: "waiting", sent: 0 };
    this.items.push(item);
    this.#enqueue(item);
  }

  /** Adds the items of the list before a reload. */
  addFinished(items) {
    this.items.unshift(...items);
    for (const item of items) {
      this.#changed(item);
      if (item.state === "deleting") this.#delete(item);
    }
  }

  /** Adds an upload of an earlier visit. */
  addUnfinished({ url, ...file }) {
    const item = { file: { ...file, type: "" }, url, state: "unfinished", sent: 0 };
    this.items.push(item);
    this.#changed(item);
  }

  /** Continues an unfinished upload with `file`, if that is its file. */
  continue(item, file) {
    if (isSame(item.file, file)) {
      Object.assign(item, { file, problem: undefined });
      this.#setState(item, "waiting");
    } else {
      item.problem = ownProblem("other_file");
      this.#changed(item);
    }
  }

  pause(item) {
    if (!item.upload || !RUNNING.includes(item.state)) return;
    item.stop();
    item.problem = undefined;
    this.#setState(item, "paused");
  }

  resume(item) {
    if (item.state === "paused") this.#setState(item, "waiting");
  }

  async cancel(item) {
    if (FINISHED.includes(item.state)) return;
    item.stop?.();
    const ended = this.#end(item);
    this.#setState(item, "cancelled");
    const stored = await ended;
    // Too late: all of it was sent, and the gateway had stored it.
    if (stored && item.state === "cancelled") this.#responded(item, stored);
  }

  retry(item) {
    if (!isRetriable(item)) return;
    Object.assign(item, { sent: 0, problem: undefined });
    this.#enqueue(item);
  }

  /** Deletes a stored file in a few seconds, unless `undoDelete` is called before. */
  delete(item) {
    if (item.state !== "stored") return;
    item.problem = undefined;
    schedule(item, () => this.#delete(item));
    this.#setState(item, "undoable");
  }

  undoDelete(item) {
    if (undo(item)) this.#setState(item, "stored");
  }

  /** Starts what waits, after the connection is back. */
  continueAll() {
    this.#startNext();
  }

  async #delete(item) {
    this.#setState(item, "deleting");
    const response = await deleteFile(item.stored.path, item.request ?? this.#request());
    item.problem = response?.status < 300 ? undefined : response ? problem(response) : ownProblem("broken");
    this.#setState(item, item.problem ? "stored" : "deleted");
  }

  /** Removes a finished or unfinished item. */
  remove(item) {
    // Another page or program may still send it.
    if (item.problem?.code === "superseded") forget(item.url);
    else this.#end(item);
    this.items = this.items.filter((other) => other !== item);
  }

  inState(...states) {
    return this.items.filter((item) => states.includes(item.state));
  }

  get running() {
    return this.inState(...RUNNING);
  }

  get finished() {
    return this.inState(...FINISHED);
  }

  /** Lets the item wait for its turn, unless the gateway would refuse its file. */
  #enqueue(item) {
    item.problem = checkFile(item.file, this.#request().key);
    this.#setState(item, item.problem ? "failed" : "waiting");
  }

  #setState(item, state) {
    item.state = state;
    this.#changed(item);
    this.#startNext();
  }

  #startNext() {
    if (isLost()) return;
    const waiting = this.inState("waiting").slice(0, Math.max(0, CONCURRENCY - this.running.length));
    waiting.forEach((item) => this.#start(item));
  }

  async #start(item) {
    const request = this.#request();
    let stopped = false;
    Object.assign(item, { request, state: "sending", meter: new SpeedMeter(item.sent), stop: () => (stopped = true) });
    this.#changed(item);
    // Only a form's response has the format of an editor.
    const suitable = item.file.size > RESUMABLE_FROM && request.profile === "default";
    const resumable = item.url || item.upload || (suitable && item.file.size <= (await offer(request.key)).maxSize);
    if (stopped) return;
    if (resumable) this.#startResumable(item);
    else this.#startForm(item);
    this.#changed(item);
  }

  #startForm(item) {
    const to = JSON.stringify(item.request);
    if (item.attempt?.to !== to) item.attempt = { to, id: newId() };
    const stop = send(item.file, item.attempt.id, item.request, {
      sent: (bytes) => this.#sent(item, bytes),
      response: (response) => {
        item.attempt = undefined;
        this.#responded(item, response);
      },
      error: async () => {
        const reached = await check();
        if (item.stop !== stop || !RUNNING.includes(item.state)) return;
        if (reached) return this.#fail(item, ownProblem("broken"));
        item.sent = 0;
        this.#setState(item, "waiting");
      },
    });
    item.stop = stop;
  }

  #startResumable(item) {
    const upload = (item.upload ??= new Upload(item.file, item.url, {
      created: (url, expires) => {
        // It was cancelled meanwhile.
        if (item.upload !== upload) return terminate(url, item.request.key);
        item.url = url;
        remember(item.file, url, expires);
        this.#changed(item);
      },
      lost: forget,
      offset: (bytes) => {
        item.meter = new SpeedMeter(bytes);
        this.#sent(item, bytes);
      },
      sent: (bytes) => this.#sent(item, bytes),
      waiting: (problem) => {
        if (!problem) check();
        item.problem = problem;
        item.state = "reconnecting";
        this.#changed(item);
      },
      response: (response) => {
        forget(item.url);
        Object.assign(item, { url: undefined, upload: undefined });
        this.#responded(item, response);
      },
      refused: (problem, status) => {
        if (!(status >= 500 || KEPT_AFTER.includes(status))) this.#end(item);
        this.#fail(item, problem ?? ownProblem("unreadable"));
      },
      full: () => {
        // A form needs no room: it is passed on while it is sent.
        Object.assign(item, { url: undefined, upload: undefined, meter: new SpeedMeter() });
        this.#startForm(item);
        this.#sent(item, 0);
      },
    }));
    item.stop = () => upload.stop();
    upload.start(item.request);
  }

  #sent(item, bytes) {
    item.sent = bytes;
    item.meter.add(bytes);
    item.problem = undefined;
    item.state = bytes >= item.file.size ? "finishing" : "sending";
    this.#changed(item);
  }

  #responded(item, response) {
    Object.assign(item, read(response));
    this.#setState(item, item.problem ? "failed" : "stored");
  }

  #fail(item, problem) {
    item.problem = problem;
    this.#setState(item, "failed");
  }

  /** Ends an item's resumable upload, so that the gateway deletes what it has. Resolves as [terminate] does. */
  async #end(item) {
    const { url } = item;
    Object.assign(item, { url: undefined, upload: undefined });
    if (!url) return;
    forget(url);
    return terminate(url, this.#request().key);
  }
}

/** Whether the item's file can be sent again, and that can help: also where the limits that it broke have changed. */
export const isRetriable = ({ file, state, problem }) =>
  file instanceof Blob &&
  (state === "cancelled" || (state === "failed" && (canRetry(problem) || (isOfLimits(problem) && !checkFile(file)))));
