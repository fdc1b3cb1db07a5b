// The console in a browser, as its tests use it.

import assert from "node:assert/strict";

import axe from "axe-core";

export const DESKTOP = { viewport: { width: 1280, height: 860 } };
export const PHONE = { viewport: { width: 360, height: 740 }, hasTouch: true, isMobile: true, deviceScaleFactor: 2 };

/** More than the time in which a deletion can be undone. */
const UNDO_TIME = "00:09";

export const row = (page, state) => page.locator(state ? `.row[data-state=${state}]` : ".row");
export const press = (page, name) => page.getByRole("button", { name, exact: true }).click();
export const said = (page, text) => page.locator("#announcements", { hasText: text }).waitFor({ state: "attached" });
export const failure = (page) => row(page, "failed").locator(".failure").innerText();

/** Opens the console, and waits until it is ready. What it sends to `/v1` is in `page.sent`. */
export async function openConsole(browser, url, options = {}) {
  const page = await browser.open({ ...DESKTOP, ...options });
  page.sent = [];
  page.on("request", (request) => {
    const { pathname } = new URL(request.url());
    if (pathname.startsWith("/v1/") && request.method() !== "GET") page.sent.push(`${request.method()} ${pathname}`);
  });
  await page.goto(`${url}/console`);
  await ready(page);
  return page;
}

/** Waits until the page's scripts run. */
export const ready = (page) => page.locator("[role=tab]").first().waitFor({ state: "attached" });

/** Deletes the file, and lets the time pass in which that can be undone. */
export async function deleteNow(page, name) {
  await page.clock.install();
  await press(page, `Delete ${name}`);
  await row(page, "undoable").waitFor();
  await page.clock.fastForward(UNDO_TIME);
  await row(page, "deleted").waitFor();
}

/** The page has no accessibility fault and is not too wide. The page must have been opened with `bypassCSP`, since
 * Trusted Types would block the checker itself. */
export async function assertAccessible(page, state) {
  await page.evaluate(axe.source);
  const { violations } = await page.evaluate(() => window.axe.run());
  assert.deepEqual(violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html)}`), [], state);
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  assert.ok(wide <= 0, `${state}: ${wide} pixels too wide`);
}
