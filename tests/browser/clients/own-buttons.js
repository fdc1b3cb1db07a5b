// Widgets without a user interface: their pages add two buttons.

import { choose } from "../browser.js";

export const give = (page, path) => choose(page, "#choose", path);

export async function cancel(page) {
  await page.locator("#cancel").click();
}
