// Which upload runs next: a few at a time, each file in a request of its own, so that one that fails harms no other.
// An item's `state` goes: waiting, sending, finishing, then stored, failed or cancelled; stored may go to deleted.

import { problem, read } from "./reply.js";
import { Meter, remove, send } from "./upload.js";
import { say } from "./words.js";

/** Browsers open six connections to one server; some are left for the page itself. */
const AT_ONCE = 3;

const RUNNING = ["sending", "finishing"];
const OVER = ["stored", "failed", "cancelled", "deleted"];

export class Queue {
  items = [];
  #request;
  #changed;

  /** `request()` is what the next upload is sent with; `changed(item)` is called whenever one is. */
  constructor(request, changed) {
    this.#request = request;
    this.#changed = changed;
  }

  add(file) {
    const item = { file, state: "waiting", sent: 0 };
    this.items.push(item);
    this.#changed(item);
    this.#next();
    return item;
  }

  cancel(item) {
    if (OVER.includes(item.state)) return;
    item.abort?.();
    this.#move(item, "cancelled");
  }

  retry(item) {
    if (item.state !== "failed" && item.state !== "cancelled") return;
    Object.assign(item, { sent: 0, problem: undefined });
    this.#move(item, "waiting");
  }

  async delete(item) {
    this.#move(item, "deleting");
    const answer = await remove(item.stored.path, item.request);
    item.problem = answer?.status < 300 ? undefined : answer ? problem(answer) : broken();
    this.#move(item, item.problem ? "stored" : "deleted");
  }

  /** Forgets an item whose upload is over. */
  forget(item) {
    this.items = this.items.filter((other) => other !== item);
  }

  is(...states) {
    return this.items.filter((item) => states.includes(item.state));
  }

  get running() {
    return this.is(...RUNNING);
  }

  get over() {
    return this.is(...OVER);
  }

  #move(item, state) {
    item.state = state;
    this.#changed(item);
    this.#next();
  }

  #next() {
    const waiting = this.is("waiting").slice(0, Math.max(0, AT_ONCE - this.running.length));
    waiting.forEach((item) => this.#start(item));
  }

  #start(item) {
    item.meter = new Meter();
    item.request = this.#request();
    item.state = "sending";
    item.abort = send(item.file, item.request, {
      sent: (bytes) => {
        item.sent = bytes;
        item.meter.mark(bytes);
        if (bytes >= item.file.size) item.state = "finishing";
        this.#changed(item);
      },
      answered: (answer) => {
        Object.assign(item, read(answer));
        this.#move(item, item.problem ? "failed" : "stored");
      },
      broken: () => {
        item.problem = broken();
        this.#move(item, "failed");
      },
    });
    this.#changed(item);
  }
}

const broken = () => ({ title: say("broken"), advice: say("broken_advice"), marks: {} });
