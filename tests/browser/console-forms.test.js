// Large files in the console of a gateway with its default settings: it sends forms to COS, and keeps the bytes of
// resumable uploads in memory, so that only some files can be sent by them.

import assert from "node:assert/strict";
import { after, before, beforeEach, test } from "node:test";

import { choose, launch } from "./browser.js";
import { openConsole, row } from "./console-page.js";
import { MiB, picture } from "./files.js";
import { start } from "./gateway.js";

const TUS = { "tus-resumable": "1.0.0" };

let browser, gateway;

before(async () => {
  browser = await launch();
  gateway = await start();
});
after(() => Promise.all([browser?.close(), gateway?.stop()]));
beforeEach(() => gateway.reset());

/** A test in a new console; it must have had no script error or policy violation. */
function visit(name, body) {
  test(name, async () => {
    const page = await openConsole(browser, gateway.url);
    try {
      await body(page);
      assert.deepEqual(page.faults, []);
    } finally {
      await page.context().close();
    }
  });
}

async function assertStored(page, given) {
  await choose(page, "#choose", given.path);
  await row(page, "stored").or(row(page, "failed")).waitFor();
  assert.equal(await row(page).getAttribute("data-state"), "stored", await row(page).locator(".failure").innerText());
  const [object, ...others] = await gateway.objects();
  assert.deepEqual(others, []);
  assert.ok(given.content.equals(await gateway.object(object.key)), "the file is another one");
}

visit("a file that fits into memory is sent in pieces", async (page) => {
  await assertStored(page, await picture("large.png", 12 * MiB));
  assert.ok(page.sent.includes("POST /v1/uploads") && !page.sent.includes("POST /v1/files"), page.sent.join());
});

visit("a larger one is sent as a form", async (page) => {
  await assertStored(page, await picture("large.png", 40 * MiB));
  assert.deepEqual(page.sent, ["OPTIONS /v1/uploads", "POST /v1/files"]);
});

visit("a file is sent as a form, and cannot be paused, while others use the memory", async (page) => {
  const other = await fetch(`${gateway.url}/v1/uploads`, { method: "POST", headers: { ...TUS, "upload-length": 32 * MiB } });
  assert.equal(other.status, 201);
  const paused = page.locator("[data-do=pause]:visible");
  let during;
  await page.route("**/v1/files", async (route) => {
    during = [await row(page).getAttribute("data-state"), await paused.count()];
    await route.fallback();
  });
  await assertStored(page, await picture("large.png", 24 * MiB));
  assert.deepEqual(page.sent, ["OPTIONS /v1/uploads", "POST /v1/uploads", "POST /v1/files"]);
  assert.deepEqual(during, ["sending", 0]);
  const ended = await fetch(other.headers.get("location"), { method: "DELETE", headers: TUS });
  assert.equal(ended.status, 204);
});
