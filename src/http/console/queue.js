// The queue of uploads: a few run at a time, each file in a request of its own, so that a failure affects one file.
// An item's `state` is waiting, sending, finishing, then stored, failed or cancelled; a stored item may become deleting
// and deleted.

import { problem, read } from "./response.js";
import { SpeedMeter, deleteFile, send } from "./upload.js";
import { text } from "./words.js";

/** Browsers open six connections to one server; the page itself needs some. */
const CONCURRENCY = 3;

const RUNNING = ["sending", "finishing"];
const FINISHED = ["stored", "failed", "cancelled", "deleted"];

export class Queue {
  items = [];
  #request;
  #changed;

  /** `request()` returns the settings of the next upload; `changed(item)` is called after each change of an item. */
  constructor(request, changed) {
    this.#request = request;
    this.#changed = changed;
  }

  add(file) {
    const item = { file, state: "waiting", sent: 0 };
    this.items.push(item);
    this.#changed(item);
    this.#startNext();
    return item;
  }

  cancel(item) {
    if (FINISHED.includes(item.state)) return;
    item.abort?.();
    this.#setState(item, "cancelled");
  }

  retry(item) {
    if (item.state !== "failed" && item.state !== "cancelled") return;
    Object.assign(item, { sent: 0, problem: undefined });
    this.#setState(item, "waiting");
  }

  async delete(item) {
    this.#setState(item, "deleting");
    const response = await deleteFile(item.stored.path, item.request);
    item.problem = response?.status < 300 ? undefined : response ? problem(response) : connectionError();
    this.#setState(item, item.problem ? "stored" : "deleted");
  }

  /** Removes a finished item. */
  remove(item) {
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

  #setState(item, state) {
    item.state = state;
    this.#changed(item);
    this.#startNext();
  }

  #startNext() {
    const waiting = this.inState("waiting").slice(0, Math.max(0, CONCURRENCY - this.running.length));
    waiting.forEach((item) => this.#start(item));
  }

  #start(item) {
    item.meter = new SpeedMeter();
    item.request = this.#request();
    item.state = "sending";
    item.abort = send(item.file, item.request, {
      sent: (bytes) => {
        item.sent = bytes;
        item.meter.add(bytes);
        if (bytes >= item.file.size) item.state = "finishing";
        this.#changed(item);
      },
      response: (response) => {
        Object.assign(item, read(response));
        this.#setState(item, item.problem ? "failed" : "stored");
      },
      error: () => {
        item.problem = connectionError();
        this.#setState(item, "failed");
      },
    });
    this.#changed(item);
  }
}

const connectionError = () => ({ title: text("broken"), advice: text("broken_advice"), ids: {} });
