// Uploads the file at the path that is given by Uppy in a browser, with its own rules of what is tried again. Prints the
// page's origin, and takes the URL for uploads from its standard input. Run by tests/api/resumable_interrupted.rs.

import { once } from "node:events";
import { createInterface } from "node:readline";

import { launch } from "./browser.js";
import * as uppy from "./clients/uppy-tus.js";
import { bundle, serve } from "./pages.js";

const NAMES = ["uppy-tus"];
const pages = await serve(NAMES, await bundle(NAMES));
const browser = await launch();
const page = await browser.open();
try {
  console.log(pages.origin);
  const [url] = await once(createInterface({ input: process.stdin }), "line");
  const asked = new URLSearchParams({ gateway: new URL(url).origin, ticket: process.env.GATEWAY_KEY });
  await page.goto(`${pages.origin}/uppy-tus?${asked}`);
  await uppy.give(page, process.argv[2]);
  await page.locator("#stored[src*='/v1/files/']").waitFor({ state: "attached", timeout: 140_000 });
} finally {
  await browser.close();
  await pages.close();
}
