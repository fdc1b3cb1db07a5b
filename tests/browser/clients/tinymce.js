import { drop } from "../browser.js";

export const title = "TinyMCE 8";
export const setsHeaders = false;

/** It shows only the status. */
export const words = { "server error": /502/, "too large": /413/, "wrong key": /401/ };

export async function give(page, path) {
  await page.locator("body.ready").waitFor();
  await drop(page, ".tox-edit-area iframe", path);
}

/** A dropped image is shown from memory until it is stored. */
export const image = (page) => page.frameLocator(".tox-edit-area iframe").locator("img[src*='/v1/files/']");
export const said = (page) => page.locator(".tox-notification--error").innerText();
