import { untilRefused } from "./tus.js";

export { cancel, give } from "./own-buttons.js";
export { isResumable, roads } from "./tus.js";

export const title = "tus-js-client, page";

export async function said(page) {
  const text = page.locator("#error");
  await untilRefused(page, text);
  return text.innerText();
}
