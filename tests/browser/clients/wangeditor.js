import { choose } from "../browser.js";

export const title = "wangEditor 5";
export const words = { "proxy error": /Upload error/ };

export async function give(page, path) {
  // Its menu is disabled until the cursor is in the text.
  await page.locator("[data-slate-editor] p").click();
  await choose(page, "[data-menu-key=uploadImage]:not(.disabled)", path);
}

export const image = (page) => page.locator("[data-slate-editor] img");
