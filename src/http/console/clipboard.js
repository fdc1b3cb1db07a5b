// Copying, also where the page is not a secure context: a phone that opens the gateway by its address in the LAN.

import { say } from "./words.js";

/** Copies `text`, and says so on `button` for a moment. */
export async function copy(text, button) {
  if (navigator.clipboard) await navigator.clipboard.writeText(text);
  else copyBySelection(text);
  const label = button.querySelector("span") ?? button;
  const before = (button.dataset.label ??= label.textContent);
  label.textContent = say("copied");
  clearTimeout(button.timer);
  button.timer = setTimeout(() => (label.textContent = before), 1500);
}

function copyBySelection(text) {
  const area = document.createElement("textarea");
  area.value = text;
  area.className = "unseen";
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

/** A stored file as a link for a web page, for Markdown, for HTML. */
export function forms({ url, type }, name) {
  const image = type?.startsWith("image/");
  const markdown = name.replace(/[\\[\]]/g, "\\$&");
  const html = name.replace(/[&<>"]/g, (character) => `&#${character.charCodeAt(0)};`);
  const address = url.replaceAll("&", "&amp;");
  return {
    url,
    markdown: `${image ? "!" : ""}[${markdown}](${url})`,
    html: image ? `<img src="${address}" alt="${html}">` : `<a href="${address}">${html}</a>`,
  };
}
