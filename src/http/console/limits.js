// What the gateway accepts from the user, which is asked before a file is sent: the limits of the key or ticket. Without
// an answer nothing is refused here, because the gateway decides anyway.

import { ownProblem } from "./problems.js";
import { base } from "./upload.js";
import { size, text, typeName } from "./words.js";

/** Types that have one name in all browsers. About others, which may have synonyms, the gateway decides. */
const WELL_KNOWN = [
  "image/png", "image/jpeg", "image/gif", "image/webp", "image/avif", "image/svg+xml", "application/pdf", "application/zip",
  "text/plain", "text/html", "video/mp4", "video/webm",
];
/** A kind of types (`image/*`) does not contain these: they must be listed by name. */
const BY_NAME = ["image/svg+xml", "text/html"];

/** The key that was asked for, and the response. */
let asked, info;

/** Asks for the limits of `key`; resolves when `limitsText` and `check` know them. */
export async function askForLimits(key) {
  // Those of another key say nothing about this one.
  if (key !== asked) info = undefined;
  asked = key;
  let response;
  try {
    const headers = key ? { Authorization: `Bearer ${key}` } : {};
    response = await (await fetch(new URL("console/info", base), { headers, cache: "no-store" })).json();
  } catch {
    // The connection broke, or the response is not the gateway's.
  }
  if (asked === key) info = response && "client" in response ? response : undefined;
}

/** Whether the limits are known. */
export const areKnown = () => info !== undefined;

/** The types that are accepted, in the order of the lists; empty: all. */
function types() {
  const lists = info?.client?.types ?? [];
  if (!lists.length) return [];
  const both = (one, other) => [
    ...one.filter((type) => other.some((by) => covers(by, type))),
    ...other.filter((type) => one.some((by) => covers(by, type))),
  ];
  return [...new Set(lists.reduce(both))];
}

const covers = (by, type) =>
  by === "*/*" || by === type || (by.endsWith("/*") && type.startsWith(by.slice(0, -1)) && !BY_NAME.includes(type));

/** The limits as a text for the user of `key`; undefined if they are unknown. */
export function limitsText(key) {
  if (!info || asked !== key) return undefined;
  const { client } = info;
  if (!client) return text(key ? "key_unknown" : "key_needed");
  if (!client.can.includes("upload")) return text("may_not_upload");
  const list = types().filter((type) => type !== "*/*");
  const limit = text("up_to", size(client.max_file_size));
  return list.length ? `${limit} · ${list.map(typeName).join(text("list_separator"))}` : limit;
}

/** For the file chooser: the types that it shows first. */
export const acceptedTypes = () => types().join();

/** The problem of a file that the gateway would refuse from the user of `key`, or from the one that was last asked for;
 * undefined if it may accept it. */
export function checkFile(file, key = asked) {
  const client = asked === key && info?.client;
  if (!client) return undefined;
  if (file.size > client.max_file_size) {
    return { ...ownProblem("file_too_large", size(client.max_file_size)), code: "file_too_large" };
  }
  const list = types();
  const judged = client.types.length && WELL_KNOWN.includes(file.type);
  if (!judged || list.some((by) => covers(by, file.type))) return undefined;
  return { ...ownProblem("type_not_allowed", list.map(typeName).join(text("list_separator"))), code: "type_not_allowed" };
}

/** Whether `checkFile` has found the problem: the file was not sent. */
export const isOfLimits = ({ own }) => own === "file_too_large" || own === "type_not_allowed";

/** Whether the user may delete files, as far as is known. */
export const mayDelete = () => info?.client?.can.includes("delete") ?? true;

/** `Sandbox`, or the environment's name; undefined if neither is told. */
export const environmentName = () => (info?.sandbox ? text("sandbox") : info?.client?.environment || undefined);

/** The URL of the small picture that the gateway makes of the one at `url`; undefined if it has no preset for that. */
export function thumbnailUrl(url) {
  const presets = info?.client?.presets ?? [];
  const preset = presets.find((name) => name === "thumb") ?? presets.find((name) => /thumb|small|square|icon/.test(name));
  if (!preset || !url.includes("/v1/files/")) return undefined;
  return `${url}${url.includes("?") ? "&" : "?"}preset=${preset}`;
}
