import { drop } from "../browser.js";

export const title = "CKEditor 5";

/** For failures that do not come from the gateway, CKEditor has its own texts. */
const word = /Couldn't upload file/;
export const words = { "no network": word, "proxy error": word };

export const give = (page, path) => drop(page, ".ck-editor__editable", path);

/** A dropped image is shown from memory until it is stored. */
export const image = (page) => page.locator(".ck-editor__editable img[src*='/v1/files/']");

/** Undoing the insertion cancels the upload. */
export async function cancel(page) {
  await page.locator(".ck-editor__editable").press("Control+z");
  await page.locator(".ck-editor__editable figure, .ck-editor__editable img").first().waitFor({ state: "detached" });
}
