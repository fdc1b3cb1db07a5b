import { drop } from "../browser.js";

export const title = "Uppy";

export async function give(page, path) {
  await drop(page, ".uppy-Dashboard-AddFiles", path);
  await page.locator(".uppy-StatusBar-actionBtn--upload").click();
}

/** The reason of "Failed to upload" is shown on hovering over the question mark. */
export const said = (page) => page.locator(".uppy-Informer [aria-label]").first().getAttribute("aria-label");

/** Cancels by the cross in the status bar. */
export async function cancel(page) {
  await page.locator(".uppy-StatusBar-actionCircleBtn").last().click();
  await page.locator(".uppy-Dashboard-AddFiles").waitFor();
}
