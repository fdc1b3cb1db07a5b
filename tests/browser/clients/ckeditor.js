import { drop } from "../browser.js";

export const title = "CKEditor 5";

/** Failures that are not the gateway's have its own words. */
const word = /Couldn't upload file/;
export const words = { "no network": word, "proxy error": word };

export const give = (page, path) => drop(page, ".ck-editor__editable", path);

/** What was dropped is shown from memory until it is stored. */
export const image = (page) => page.locator(".ck-editor__editable img[src*='/v1/files/']");

/** An image that is undone is not sent any further. */
export async function cancel(page) {
  await page.locator(".ck-editor__editable").press("Control+z");
  await page.locator(".ck-editor__editable figure, .ck-editor__editable img").first().waitFor({ state: "detached" });
}
