// One file on the page: draws an item of the queue, and reports which of its buttons is pressed.

import { copy, forms } from "./clipboard.js";
import { count, duration, problemTexts, rate, size, text, translate } from "./words.js";

/** The buttons, by the item's state. */
const TOOLS = {
  waiting: ["cancel"],
  sending: ["pause", "cancel"],
  finishing: ["cancel"],
  reconnecting: ["pause", "cancel"],
  paused: ["resume", "cancel"],
  unfinished: ["file", "discard"],
  stored: ["delete"],
  failed: ["retry", "remove"],
  cancelled: ["retry", "remove"],
  deleting: [],
  deleted: ["remove"],
};

/** The states in which a part of the file may have been sent. */
const STARTED = ["sending", "finishing", "reconnecting", "paused"];

/** In bytes: a larger stored picture is not downloaded for its thumbnail. */
const MAX_DOWNLOADED = 8 << 20;

export class Row {
  /** The state, the problem and the resumable upload that are shown. */
  drawn = [];

  /** `action(name)` is called for the buttons that do more than copy. */
  constructor(item, action) {
    this.item = item;
    const template = document.getElementById("row").content.cloneNode(true);
    translate(template);
    this.element = template.querySelector("li");
    const name = item.file.name;
    this.#text(".name", name);
    this.#one(".name").title = name;
    this.#text(".kind", (name.match(/\.(\w{1,5})$/)?.[1] ?? "file").slice(0, 5));
    this.#one("progress").setAttribute("aria-label", text("progress_of", name));
    this.#one(".raw pre").setAttribute("aria-label", text("response_of", name));
    for (const button of this.element.querySelectorAll("[data-do]")) {
      button.setAttribute("aria-label", text("of_file", button.textContent, name));
      button.addEventListener("click", () => action(button.dataset.do));
    }
    this.#one(".copies").setAttribute("aria-label", text("of_file", text("copy_as"), name));
    this.element.addEventListener("click", (event) => {
      const kind = event.target.dataset.copy;
      if (kind) copy(forms(this.item.stored, name)[kind], event.target);
    });
  }

  /** Draws the item's current state. */
  draw() {
    const { item, element } = this;
    const { file, state, problem, upload } = item;
    if (this.file !== file) {
      this.file = file;
      thumbnail(file).then((url) => url && this.#picture(url));
    }
    const drawn = [state, problem, upload];
    if (drawn.some((value, index) => value !== this.drawn[index])) {
      this.drawn = drawn;
      element.dataset.state = state;
      const possible = { delete: item.stored?.path, pause: upload };
      const tools = TOOLS[state].filter((tool) => !(tool in possible) || possible[tool]);
      for (const button of element.querySelectorAll(".tools [data-do]")) {
        button.hidden = !tools.includes(button.dataset.do);
      }
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
    strong.textContent = text(state === "reconnecting" && !navigator.onLine ? "offline" : state);
    if (state === "stored" && stored.verified !== undefined) {
      return [strong, ` · ${size(file.size)} · ${text(stored.verified ? "verified" : "not_verified")}`];
    }
    const amount = `${size(sent)} / ${size(file.size)}`;
    if (state === "paused" || state === "reconnecting") return [strong, ` · ${amount}`];
    if (state !== "sending") return [strong, ` · ${size(file.size)}`];
    const speed = meter.speed();
    if (speed === undefined) return [amount];
    const progress = document.createElement("span");
    const parts = speed < 1 ? [text("stalled")] : [rate(speed), text("left", duration((file.size - sent) / speed))];
    progress.textContent = parts.join(" · ");
    return [`${amount} `, progress];
  }

  #failure() {
    const { problem, state } = this.item;
    const shown = Boolean(problem) && state !== "waiting" && state !== "sending";
    this.#one(".failure").hidden = !shown;
    if (!shown) return;
    const { title, detail } = problemTexts(problem);
    this.#text(".detail", state === "stored" ? `${text("delete_failed")} ${title}` : title);
    const wait = problem.retryAfter && text("retry_after", problem.retryAfter);
    const advice = [detail, problem.advice, wait].filter(Boolean).join(" ");
    this.#text(".advice", advice);
    this.#one(".advice").hidden = !advice;
    this.#one("[data-do=key]").hidden = problem.code !== "unauthenticated";
    const ids = { code: problem.code ?? problem.status, ...problem.ids, request_id: problem.requestId };
    const shownIds = Object.entries(ids).filter(([, value]) => value !== undefined && value !== null);
    this.#one(".ids").replaceChildren(...shownIds.map(([name, value]) => idButton(name, String(value))));
  }

  #result() {
    const { stored, state } = this.item;
    this.#one(".result").hidden = state !== "stored" && state !== "deleting";
    if (this.#one(".result").hidden || this.result === stored) return;
    this.result = stored;
    const { url, type, raw } = stored;
    for (const element of this.element.querySelectorAll("[data-copy], .open")) element.hidden = !url;
    if (url) {
      const open = this.#one(".open");
      open.href = url;
      open.setAttribute("aria-label", text("of_file", text("open"), this.item.file.name));
      const picture = (type ?? this.item.file.type).startsWith("image/");
      if (picture && this.item.file.size <= MAX_DOWNLOADED) this.#picture(url);
    }
    this.#one(".facts").replaceChildren(...facts(stored).flatMap(fact));
    this.#text(".raw pre", pretty(raw));
    // The format of an editor has few facts, so the whole response is shown.
    this.#one(".raw").open = !stored.fileId;
  }

  /** Shows the picture at `url`. If it is not a picture, the previous one remains. */
  #picture(url) {
    const picture = new Image();
    picture.alt = "";
    picture.addEventListener("load", () => {
      if (this.fromStorage && url.startsWith("blob:")) return;
      this.fromStorage = !url.startsWith("blob:");
      this.#one(".thumbnail img").replaceWith(picture);
    });
    picture.src = url;
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

/** The shorter edge of a thumbnail, in pixels. */
const EDGE = 112;
let lastThumbnail = Promise.resolve();

/** The URL of a thumbnail of `file`; undefined if it is not a picture. They are made one after the other: decoding many
 * large photos at once crashes browsers on phones. */
function thumbnail(file) {
  if (!file.type.startsWith("image/")) return Promise.resolve();
  lastThumbnail = lastThumbnail.then(() => scaledDown(file)).catch(() => unscaled(file));
  return lastThumbnail;
}

async function scaledDown(file) {
  const picture = await createImageBitmap(file);
  const scale = EDGE / Math.min(picture.width, picture.height);
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(picture.width * Math.min(1, scale)));
  canvas.height = Math.max(1, Math.round(picture.height * Math.min(1, scale)));
  canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
  picture.close();
  const blob = await new Promise((resolve) => canvas.toBlob(resolve));
  return URL.createObjectURL(blob);
}

/** A picture that cannot be scaled (SVG) is shown itself, if it is smaller than 1 MiB. */
const unscaled = (file) => (file.size < 1 << 20 ? URL.createObjectURL(file) : undefined);
