// One file on the page: draws an item of the queue, and reports which of its buttons is pressed.

import { copy, forms } from "./clipboard.js";
import { isLost } from "./connection.js";
import { UNDO_TIME } from "./deletion.js";
import { fold } from "./folds.js";
import { mayDelete } from "./limits.js";
import { problemTexts } from "./problems.js";
import { isRetriable } from "./queue.js";
import { ofFile, ofStored } from "./thumbnail.js";
import { count, duration, rate, size, text, translate } from "./words.js";

/** The buttons, by the item's state. */
const TOOLS = {
  waiting: ["cancel"],
  sending: ["pause", "cancel"],
  finishing: ["cancel"],
  reconnecting: ["pause", "cancel"],
  paused: ["resume", "cancel"],
  unfinished: ["file", "discard"],
  stored: ["delete"],
  undoable: ["undo"],
  failed: ["retry", "remove"],
  cancelled: ["retry", "remove"],
  deleting: [],
  deleted: ["remove"],
};

/** The states in which a part of the file may have been sent. */
const STARTED = ["sending", "finishing", "reconnecting", "paused"];

export class Row {
  /** The state, the problem and the resumable upload that are shown. */
  drawn = [];

  /** `action(name)` is called for the buttons that do more than copy. */
  constructor(item, action) {
    this.item = item;
    this.element = document.getElementById("row").content.cloneNode(true).querySelector("li");
    const name = item.file.name;
    this.#text(".name", name);
    this.#one(".name").title = name;
    this.#text(".kind", (name.match(/\.(\w{1,5})$/)?.[1] ?? "file").slice(0, 5));
    for (const button of this.element.querySelectorAll("[data-do]")) {
      button.addEventListener("click", () => action(button.dataset.do));
    }
    this.element.addEventListener("click", (event) => {
      const kind = event.target.dataset.copy;
      if (kind) copy(forms(this.item.stored, name)[kind], event.target);
    });
    fold(this.element);
    this.translate();
  }

  /** Sets the texts that do not depend on the state, in the page's language. `draw` sets the others. */
  translate() {
    const { name } = this.item.file;
    translate(this.element);
    this.#one("progress").setAttribute("aria-label", text("progress_of", name));
    this.#one(".raw pre").setAttribute("aria-label", text("response_of", name));
    for (const button of this.element.querySelectorAll("[data-do]")) {
      button.setAttribute("aria-label", text("of_file", button.textContent, name));
    }
    this.#one(".copies").setAttribute("aria-label", text("of_file", text("copy_as"), name));
    this.#one(".open").setAttribute("aria-label", text("of_file", text("open"), name));
  }

  /** Draws everything anew. */
  redraw() {
    [this.drawn, this.result] = [[], undefined];
    this.draw();
  }

  /** Draws the item's current state. */
  draw() {
    const { item, element } = this;
    const { file, state, problem, upload } = item;
    if (this.file !== file) {
      this.file = file;
      ofFile(file).then((picture) => !this.isFromStorage && this.#picture(picture));
    }
    const drawn = [state, problem, upload];
    if (drawn.some((value, index) => value !== this.drawn[index])) {
      this.drawn = drawn;
      element.dataset.state = state;
      const possible = { delete: item.stored?.path && mayDelete(), pause: upload, retry: isRetriable(item) };
      const tools = TOOLS[state].filter((tool) => !(tool in possible) || possible[tool]);
      const focused = element.querySelector(".tools :focus");
      for (const button of element.querySelectorAll(".tools [data-do]")) {
        button.hidden = !tools.includes(button.dataset.do);
      }
      if (focused?.hidden) this.#one(".name").focus();
      this.#one("progress").hidden = !STARTED.includes(state);
      this.#failure();
      this.#result();
    }
    this.#one("progress").value = item.file.size ? item.sent / item.file.size : 0;
    this.#one(".state").replaceChildren(...this.#state());
  }

  #state() {
    const { file, state, sent, meter, stored } = this.item;
    const strong = document.createElement("strong");
    strong.textContent = this.stateText();
    if (state === "stored" && stored.verified !== undefined) {
      return [strong, ` · ${size(file.size)} · ${text(stored.verified ? "verified" : "not_verified")}`];
    }
    const amount = `${size(sent)} / ${size(file.size)}`;
    if (state === "paused" || state === "reconnecting") return [strong, ` · ${amount}`];
    if (state !== "sending") return [strong, ` · ${size(file.size)}`];
    const speed = meter.speed();
    if (speed === undefined) return [amount];
    const progress = document.createElement("span");
    const parts = speed < 1 ? [text("stalled")] : [rate(speed), text("time_left", duration((file.size - sent) / speed))];
    progress.textContent = parts.join(" · ");
    return [`${amount} `, progress];
  }

  /** The state in words. */
  stateText() {
    const { state } = this.item;
    if (state === "reconnecting" && !navigator.onLine) return text("offline");
    if (state === "waiting" && isLost()) return text("waiting_offline");
    return state === "undoable" ? text("undoable", UNDO_TIME / 1000) : text(state);
  }

  #failure() {
    const { problem, state } = this.item;
    const shown = Boolean(problem) && state !== "waiting" && state !== "sending";
    this.#one(".failure").hidden = !shown;
    if (!shown) return;
    const { title, advice, original } = problemTexts(problem);
    this.#text(".detail", state === "stored" ? `${text("delete_failed")} ${title}` : title);
    const wait = problem.retryAfter && text("retry_after", problem.retryAfter);
    this.#text(".advice", [advice, wait].filter(Boolean).join(" "));
    this.#one(".advice").hidden = !advice && !wait;
    this.#text(".original", original ?? "");
    this.#one(".original").hidden = !original;
    this.#one("[data-do=key]").hidden = problem.code !== "unauthenticated";
    const ids = { code: problem.code ?? problem.status, ...problem.ids, request_id: problem.requestId };
    const shownIds = Object.entries(ids).filter(([, value]) => value !== undefined && value !== null);
    this.#one(".ids").replaceChildren(...shownIds.map(([name, value]) => idButton(name, String(value))));
    this.#one(".technical").hidden = !original && !shownIds.length;
  }

  #result() {
    const { stored, state } = this.item;
    this.#one(".result").hidden = !["stored", "undoable", "deleting"].includes(state);
    if (this.#one(".result").hidden || this.result === stored) return;
    this.result = stored;
    const { url, type, raw } = stored;
    for (const element of this.element.querySelectorAll("[data-copy], .open")) element.hidden = !url;
    if (url) {
      const open = this.#one(".open");
      open.href = url;
      const isPicture = (type ?? this.item.file.type).startsWith("image/");
      if (isPicture && this.pictured !== url) {
        this.pictured = url;
        ofStored(url, this.item.file.size).then((picture) => {
          this.isFromStorage ||= Boolean(picture);
          this.#picture(picture);
        });
      }
    }
    this.#one(".facts").replaceChildren(...facts(stored).flatMap(fact));
    // Not stored over a reload.
    this.#one(".raw").hidden = !raw;
    this.#text(".raw pre", pretty(raw ?? ""));
    // The format of an editor has few facts, so the whole response is shown.
    this.#one(".raw").open = !stored.fileId;
  }

  /** Shows `picture`; without one, the previous one remains. */
  #picture(picture) {
    if (picture) this.#one(".thumbnail img").replaceWith(picture);
  }

  #one(selector) {
    return this.element.querySelector(selector);
  }

  #text(selector, content) {
    this.#one(selector).textContent = content;
  }
}

/** A button that shows an id and copies it. */
function idButton(name, value) {
  const button = document.createElement("button");
  button.type = "button";
  button.dataset.id = name;
  const label = document.createElement("span");
  label.textContent = name === "request_id" ? text("request_id") : name;
  const strong = document.createElement("b");
  strong.textContent = value;
  button.append(label, strong);
  button.addEventListener("click", () => copy(value, button));
  return button;
}

const facts = (stored) => [
  ["link", stored.url, "link"],
  ["file_id", stored.fileId, "mono"],
  ["path", stored.path, "mono"],
  ["size", stored.size === undefined ? undefined : `${size(stored.size)} (${text("bytes", count(stored.size))})`],
  ["type", stored.type],
  ["crc", stored.crc64 && `${stored.crc64} · ${text(stored.verified ? "verified" : "not_verified")}`],
  ["request_id", stored.requestId, "mono"],
  ["took", stored.timing && timing(stored.timing)],
];

function fact([name, value, kind]) {
  if (!value) return [];
  const term = document.createElement("dt");
  term.textContent = text(name);
  const definition = document.createElement("dd");
  if (kind === "mono") definition.className = kind;
  if (kind === "link") {
    const link = document.createElement("a");
    Object.assign(link, { href: value, target: "_blank", rel: "noopener", textContent: value });
    definition.append(link);
  } else {
    definition.textContent = value;
  }
  return [term, definition];
}

/** `link;dur=12.3, send;dur=80` is `link 12 ms · send 80 ms`. */
const timing = (header) =>
  [...header.matchAll(/([\w-]+)[^,]*?;dur=([\d.]+)/g)].map(([, name, ms]) => `${name} ${count(ms)} ms`).join(" · ");

function pretty(json) {
  try {
    return JSON.stringify(JSON.parse(json), null, 2);
  } catch {
    return json;
  }
}
