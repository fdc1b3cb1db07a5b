import { choose } from "../browser.js";

export const title = "plain form";
export const setsHeaders = false;

export async function give(page, path) {
  await choose(page, "input[type=file]", path);
  await page.locator("button").click({ noWaitAfter: true });
}

/** The browser shows the response; the URL in it is the image's. */
export async function image(page) {
  await page.waitForURL("**/v1/files?*");
  const { url } = JSON.parse(await page.locator("pre").textContent());
  await page.goto(url);
  return page.locator("img");
}

export const said = (page) => page.locator("pre").innerText();
/** The browser's or the proxy's error page. */
export const explained = (page) => page.locator("h1").innerText();
export const words = { "no network": /reached/ };

/** Cancels by the browser's stop button. */
export async function cancel(page) {
  const session = await page.context().newCDPSession(page);
  await session.send("Page.stopLoading");
}
