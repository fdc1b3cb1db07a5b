import { untilRefused } from "./tus.js";

export { cancel, give } from "./uppy.js";
export { isResumable, roads } from "./tus.js";

export const title = "Uppy, tus";

export async function said(page) {
  const text = page.locator(".uppy-Informer [aria-label]").first();
  await untilRefused(page, text);
  return text.getAttribute("aria-label");
}
