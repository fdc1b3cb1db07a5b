// Debian's Chromium, and a user's actions in it: drag and drop, and file choosers, with real files.

import { mkdir } from "node:fs/promises";
import { fileURLToPath } from "node:url";

import { chromium } from "playwright-core";

const OUTPUT = fileURLToPath(new URL("../../target/browser/", import.meta.url));

/** After this many milliseconds a test counts as hanging. */
const PATIENCE = 20_000;

export async function launch() {
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: [
      "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
      "--disable-component-update", "--disable-sync",
    ],
  });
  const output = (name) => `${OUTPUT}${name}`;
  await mkdir(OUTPUT, { recursive: true });
  /** A page with a new browser profile; script errors and security policy violations are collected in `page.faults`. */
  const open = async (options = {}) => {
    const context = await browser.newContext({ locale: "en-US", ...options });
    context.setDefaultTimeout(PATIENCE);
    const page = await context.newPage();
    page.faults = [];
    page.on("pageerror", (error) => page.faults.push(String(error)));
    page.on("console", (message) => {
      if (/Content Security Policy|Trusted ?Type/i.test(message.text())) page.faults.push(message.text());
    });
    return page;
  };
  return { open, output, close: () => browser.close() };
}

/** Drops the files at `paths` onto an element of `page`, as the system's file manager would. */
export async function drop(page, target, paths) {
  await hover(page, target, paths);
  await page.dragging("drop");
}

/** Drags the files onto an element without dropping them. */
export async function hover(page, target, paths) {
  const locator = typeof target === "string" ? page.locator(target) : target;
  await locator.scrollIntoViewIfNeeded();
  const box = await locator.boundingBox();
  const session = await page.context().newCDPSession(page);
  const at = { x: box.x + box.width / 2, y: box.y + box.height / 2 };
  const data = { items: [], files: [paths].flat(), dragOperationsMask: 1 };
  page.dragging = (type) => session.send("Input.dispatchDragEvent", { type, ...at, data });
  await page.dragging("dragEnter");
  await page.dragging("dragOver");
}

/** Clicks the element that opens the file chooser, and chooses the files at `paths`. */
export async function choose(page, opener, paths) {
  const asked = page.waitForEvent("filechooser");
  await page.locator(opener).click();
  await (await asked).setFiles(paths);
}

/** Limits the page's upload speed. */
export async function slowUplink(page, bytesPerSecond) {
  const session = await page.context().newCDPSession(page);
  await session.send("Network.enable");
  await session.send("Network.emulateNetworkConditions", {
    offline: false, latency: 0, downloadThroughput: -1, uploadThroughput: bytesPerSecond,
  });
}
