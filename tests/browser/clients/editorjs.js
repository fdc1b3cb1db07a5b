import { choose } from "../browser.js";

export const title = "Editor.js";

/** It has one text for every failure. */
const word = /upload image/i;
export const words = {
  "server error": word, "too large": word, "wrong key": word, "no network": word, "proxy error": word,
};

export async function give(page, path) {
  await page.locator(".ce-paragraph").click();
  await page.keyboard.type("/");
  await choose(page, ".ce-popover-item[data-item-name=image]", path);
}

export const image = (page) => page.locator(".image-tool__image-picture");
export const said = (page) => page.locator(".cdx-notify--error").innerText();
