// Plain HTML forms in a real browser, without a script: a title, photos, an input without a file, and behind them the
// button that sent the form. The browser tells the length of the whole form only. Default settings, over both roads.

import assert from "node:assert/strict";
import { createServer } from "node:http";
import { after, before, beforeEach, describe, test } from "node:test";

import { launch } from "./browser.js";
import { MiB, picture } from "./files.js";
import { start } from "./gateway.js";
import { Matrix } from "./matrix.js";

/** Where each form's photos are chosen, and their sizes. `refused`: over forms, since the first is larger than its window. */
const FORMS = {
  "3 MB": { photo: [3 * MiB] },
  "12 MB": { photo: [12 * MiB] },
  "3 MB and 12 MB": { photo: [3 * MiB], another: [12 * MiB] },
  "12 MB and 3 MB": { photo: [12 * MiB], another: [3 * MiB] },
  "12 × 3 MB in one input": { photo: Array(12).fill(3 * MiB) },
  "40 MB": { photo: [40 * MiB], refused: true },
  "40 MB and 3 MB": { photo: [40 * MiB], another: [3 * MiB], refused: true },
};
const ROADS = ["form", "api"];

const matrix = new Matrix("plain form", ROADS.map((via) => `cos.via = "${via}"`));
let browser, server, origin;
/** The gateway that the form is sent to. */
let action;

const html = () => `<!doctype html><meta charset="utf-8"><title>Photos</title>
<form method="post" enctype="multipart/form-data" action="${action}/v1/files">
  <input name="title" value="两张照片">
  <input type="file" name="photo" multiple>
  <input type="file" name="another">
  <input type="file" name="third">
  <button name="send" value="yes">Upload</button>
</form>`;

before(async () => {
  browser = await launch();
  server = createServer((_, response) => response.setHeader("content-type", "text/html").end(html()));
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  origin = `http://localhost:${server.address().port}`;
});

after(async () => {
  server?.close();
  await browser?.close();
  console.log(`\n${matrix.table()}`);
});

for (const via of ROADS) {
  describe(`cos.via = "${via}"`, () => {
    let gateway;
    before(async () => {
      gateway = await start({ "cors.origins": origin, "cos.via": via });
    });
    after(() => gateway?.stop());
    beforeEach(() => gateway.reset());

    for (const [name, { photo, another = [], refused }] of Object.entries(FORMS)) {
      test(name, () => matrix.cell(name, `cos.via = "${via}"`, async () => {
        const page = await browser.open();
        action = gateway.url;
        await page.goto(origin);
        const given = await Promise.all([...photo, ...another].map((size, seed) => picture("photo.png", size, seed)));
        const paths = given.map(({ path }) => path);
        await page.locator("[name=photo]").setInputFiles(paths.slice(0, photo.length));
        await page.locator("[name=another]").setInputFiles(paths.slice(photo.length));
        await page.locator("button").click({ noWaitAfter: true });
        await page.waitForURL("**/v1/files");
        const response = JSON.parse(await page.locator("pre").textContent());
        await page.context().close();

        if (refused && via === "form") {
          assert.equal(response.code, "file_not_last", JSON.stringify(response));
          assert.match(response.detail, /before the file.*multiple=1.*upload\.replay_window_max.*cos\.via = "api"/);
          await gateway.idle();
          assert.deepEqual(await gateway.objects(), []);
          return;
        }
        assert.deepEqual(response.files?.map(({ size }) => size), given.map(({ content }) => content.length), JSON.stringify(response));
        assert.equal((await gateway.objects()).length, given.length);
        for (const [index, { path }] of response.files.entries()) {
          assert.ok(given[index].content.equals(await gateway.object(path)), path);
        }
      }));
    }
  });
}
