// One file on the page: draws a queue's item, and tells which of its buttons was pressed.

import { copy, forms } from "./clipboard.js";
import { count, duration, inWords, rate, say, size, translate } from "./words.js";

/** Which buttons there are, by the item's state. */
const TOOLS = {
  waiting: ["cancel"],
  sending: ["cancel"],
  finishing: ["cancel"],
  stored: ["delete"],
  failed: ["retry", "remove"],
  cancelled: ["retry", "remove"],
  deleting: [],
  deleted: ["remove"],
};

/** A picture larger than this is not fetched again only to be shown small. */
const SHOWN_FROM_STORAGE = 8 << 20;

export class Row {
  /** `act(name)` is called for the buttons that are not this row's own business. */
  constructor(item, act) {
    this.item = item;
    const template = document.getElementById("row").content.cloneNode(true);
    translate(template);
    this.element = template.querySelector("li");
    const name = item.file.name;
    this.#text(".name", name);
    this.#one(".name").title = name;
    this.#text(".kind", (name.match(/\.(\w{1,5})$/)?.[1] ?? "file").slice(0, 5));
    this.#one("progress").setAttribute("aria-label", say("progress_of", name));
    this.#one(".raw pre").setAttribute("aria-label", say("reply_of", name));
    for (const button of this.element.querySelectorAll("[data-do]")) {
      button.setAttribute("aria-label", say("of_file", button.textContent, name));
      button.addEventListener("click", () => act(button.dataset.do));
    }
    this.#one(".copies").setAttribute("aria-label", say("of_file", say("copy_as"), name));
    this.element.addEventListener("click", (event) => {
      const kind = event.target.dataset.copy;
      if (kind) copy(forms(this.item.stored, name)[kind], event.target);
    });
    thumbnail(item.file).then((address) => address && this.#picture(address));
  }

  /** Draws the item as it is now. */
  draw() {
    const { item, element } = this;
    if (element.dataset.state !== item.state) {
      element.dataset.state = item.state;
      const tools = TOOLS[item.state].filter((tool) => tool !== "delete" || item.stored.path);
      for (const button of element.querySelectorAll(".tools [data-do]")) {
        button.hidden = !tools.includes(button.dataset.do);
      }
      this.#one("progress").hidden = !["sending", "finishing"].includes(item.state);
      this.#failure();
      this.#result();
    }
    this.#one("progress").value = item.file.size ? item.sent / item.file.size : 0;
    this.#one(".state").replaceChildren(...this.#state());
  }

  #state() {
    const { file, state, sent, meter, stored } = this.item;
    const strong = document.createElement("strong");
    strong.textContent = say(state);
    if (state === "stored" && stored.verified !== undefined) {
      return [strong, ` · ${size(file.size)} · ${say(stored.verified ? "verified" : "not_verified")}`];
    }
    if (state !== "sending") return [strong, ` · ${size(file.size)}`];
    const speed = meter.speed();
    const amount = `${size(sent)} / ${size(file.size)}`;
    if (speed === undefined) return [amount];
    const pace = document.createElement("span");
    const left = speed < 1 ? [say("stalled")] : [rate(speed), say("left", duration((file.size - sent) / speed))];
    pace.textContent = left.join(" · ");
    return [`${amount} `, pace];
  }

  #failure() {
    const { problem, state } = this.item;
    const shown = Boolean(problem) && state !== "waiting" && state !== "sending";
    this.#one(".failure").hidden = !shown;
    if (!shown) return;
    const { title, detail } = inWords(problem);
    this.#text(".detail", state === "stored" ? `${say("delete_failed")} ${title}` : title);
    const wait = problem.retryAfter && say("retry_after", problem.retryAfter);
    const advice = [detail, problem.advice, wait].filter(Boolean).join(" ");
    this.#text(".advice", advice);
    this.#one(".advice").hidden = !advice;
    this.element.querySelector("[data-do=key]").hidden = problem.code !== "unauthenticated";
    const marks = { code: problem.code ?? problem.status, ...problem.marks, request_id: problem.requestId };
    const shownMarks = Object.entries(marks).filter(([, value]) => value !== undefined && value !== null);
    this.#one(".marks").replaceChildren(...shownMarks.map(([name, value]) => mark(name, String(value))));
  }

  #result() {
    const { stored, state } = this.item;
    this.#one(".result").hidden = state !== "stored" && state !== "deleting";
    if (this.#one(".result").hidden || this.drawn === stored) return;
    this.drawn = stored;
    const { url, type, raw } = stored;
    for (const element of this.element.querySelectorAll("[data-copy], .open")) element.hidden = !url;
    if (url) {
      const open = this.#one(".open");
      open.href = url;
      open.setAttribute("aria-label", say("of_file", say("open"), this.item.file.name));
      const picture = (type ?? this.item.file.type).startsWith("image/");
      if (picture && this.item.file.size <= SHOWN_FROM_STORAGE) this.#picture(url);
    }
    this.#one(".facts").replaceChildren(...facts(stored).flatMap(fact));
    this.#text(".raw pre", pretty(raw));
    // An editor's shape tells little else.
    this.#one(".raw").open = !stored.fileId;
  }

  /** Shows what lies at `address`, unless it is no picture: then what was shown stays. */
  #picture(address) {
    const picture = new Image();
    picture.alt = "";
    picture.addEventListener("load", () => {
      if (this.fromStorage && address.startsWith("blob:")) return;
      this.fromStorage = !address.startsWith("blob:");
      this.#one(".thumbnail img").replaceWith(picture);
    });
    picture.src = address;
  }

  #one(selector) {
    return this.element.querySelector(selector);
  }

  #text(selector, text) {
    this.#one(selector).textContent = text;
  }
}

function mark(name, value) {
  const button = document.createElement("button");
  button.type = "button";
  button.dataset.mark = name;
  const label = document.createElement("span");
  label.textContent = name === "request_id" ? say("request_id") : name;
  const text = document.createElement("b");
  text.textContent = value;
  button.append(label, text);
  button.addEventListener("click", () => copy(value, button));
  return button;
}

const facts = (stored) => [
  ["link", stored.url, "link"],
  ["file_id", stored.fileId, "mono"],
  ["path", stored.path, "mono"],
  ["size", stored.size === undefined ? undefined : `${size(stored.size)} (${say("bytes", count(stored.size))})`],
  ["type", stored.type],
  ["crc", stored.crc64 && `${stored.crc64} · ${say(stored.verified ? "verified" : "not_verified")}`],
  ["request_id", stored.requestId, "mono"],
  ["took", stored.timing && timing(stored.timing)],
];

function fact([name, value, kind]) {
  if (!value) return [];
  const term = document.createElement("dt");
  term.textContent = say(name);
  const text = document.createElement("dd");
  if (kind === "mono") text.className = kind;
  if (kind === "link") {
    const link = document.createElement("a");
    Object.assign(link, { href: value, target: "_blank", rel: "noopener", textContent: value });
    text.append(link);
  } else {
    text.textContent = value;
  }
  return [term, text];
}

/** `link;dur=12.3, send;dur=80` is `link 12 ms · send 80 ms`. */
const timing = (header) =>
  [...header.matchAll(/([\w-]+)[^,]*?;dur=([\d.]+)/g)].map(([, name, ms]) => `${name} ${count(ms)} ms`).join(" · ");

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

const EDGE = 112;
let line = Promise.resolve();

/** The address of a small picture of `file`, or nothing if it is none. They are made one after the other: decoding many
 * large photos at once is what brings a phone's browser down. */
function thumbnail(file) {
  if (!file.type.startsWith("image/")) return Promise.resolve();
  const made = line.then(() => small(file)).catch(() => asItIs(file));
  line = made;
  return made;
}

async function small(file) {
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

/** What cannot be drawn small (SVG) is shown itself, if it is no burden. */
const asItIs = (file) => (file.size < 1 << 20 ? URL.createObjectURL(file) : undefined);
