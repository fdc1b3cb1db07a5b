// Problems of uploads: those that the page finds itself, how each is told in the page's language, and whether sending
// the same file again can help.

import { text, wordsOfCode } from "./words.js";

/** Besides those from 500: what these are about passes by itself, or depends on the key. */
const RETRIED_STATUSES = [401, 403, 408, 409, 423, 429, 460];
/** These depend on the folder, on an upload that is begun anew, and on the connection. */
const RETRIED_CODES = ["invalid_path", "upload_not_found", "truncated_body"];

/** A problem that the page finds, by the name of its words; `values` are those of its advice. */
export const ownProblem = (name, ...values) => ({ own: name, values, ids: {} });

/** The problem in words: `title`, `advice`, and `original`, what the gateway says about it in English. */
export function problemTexts({ own, values, code, title, detail, status, requestId }) {
  if (own) return { title: text(own), advice: text(`${own}_advice`, ...values) };
  const words = wordsOfCode(code);
  if (words.title) return { ...words, original: detail };
  // Each of the gateway's responses has an id. A proxy in front of it responded, perhaps with a page in HTML.
  if (!code && !requestId) return { title: text("foreign", status), advice: text("broken_advice") };
  return { title, advice: detail === title ? undefined : detail };
}

/** Whether the same file may be stored when it is sent again: later, with another key or in another folder. */
export function canRetry({ own, code, status }) {
  if (own) return own === "broken";
  // Without both, it is an editor's format that has no code.
  return status < 400 || status >= 500 || RETRIED_STATUSES.includes(status) || RETRIED_CODES.includes(code);
}
