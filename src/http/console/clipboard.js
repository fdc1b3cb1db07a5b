// Copies to the clipboard, also where the page is not a secure context: a phone that opens the gateway by its LAN IP.

import { text as translated } from "./words.js";

/** Copies `text`; `button` shows that for a moment. */
export async function copy(text, button) {
  if (navigator.clipboard) await navigator.clipboard.writeText(text);
  else copyBySelection(text);
  const label = button.querySelector("span") ?? button;
  const shown = translated("copied");
  if (!button.timer) button.original = label.textContent;
  label.textContent = shown;
  clearTimeout(button.timer);
  button.timer = setTimeout(() => {
    button.timer = undefined;
    // Unless the page's language was changed meanwhile.
    if (label.textContent === shown) label.textContent = button.original;
  }, 1500);
}

function copyBySelection(text) {
  const area = document.createElement("textarea");
  area.value = text;
  area.className = "visually-hidden";
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

/** A stored file's link as a URL, in Markdown and in HTML. */
export function forms({ url, type }, name) {
  const image = type?.startsWith("image/");
  const markdown = name.replace(/[\\[\]]/g, "\\$&");
  const html = name.replace(/[&<>"]/g, (character) => `&#${character.charCodeAt(0)};`);
  const href = url.replaceAll("&", "&amp;");
  return {
    url,
    markdown: `${image ? "!" : ""}[${markdown}](${url})`,
    html: image ? `<img src="${href}" alt="${html}">` : `<a href="${href}">${html}</a>`,
  };
}
