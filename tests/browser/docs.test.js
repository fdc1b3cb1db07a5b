// The API's pages in both languages, on a desktop and on a phone.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import axe from "axe-core";

import { launch } from "./browser.js";
import { start } from "./gateway.js";

const WIDTHS = { desktop: 1280, phone: 390 };
const LOCALES = { en: "en-US", zh: "zh-CN" };
/** By the page's language: texts of the introduction, of an operation and of a schema, and the link to the other page. */
const TEXTS = {
  zh: { heading: "第一次上传", operation: "上传表单中的文件", code: "表单无法解析", link: "English", other: "en" },
  en: { heading: "First upload", operation: "Upload the files of a form", code: "The form cannot be read", link: "中文", other: "zh" },
};

let browser, gateway;

before(async () => {
  browser = await launch();
  gateway = await start();
});
after(() => Promise.all([browser?.close(), gateway?.stop()]));

/** The page's texts are in `language`, those of an opened operation included. */
async function isIn(page, language) {
  const { heading, operation, code, link, other } = TEXTS[language];
  await page.getByRole("heading", { name: heading }).waitFor();
  assert.equal(await page.locator("html").getAttribute("lang"), language);
  await page.locator(".opblock-summary", { hasText: operation }).locator("button").first().click();
  await page.locator(".opblock.is-open", { hasText: code }).waitFor();
  const foreign = await page.getByText(TEXTS[other].operation, { exact: true }).count();
  assert.equal(foreign, 0, `no text in ${other}`);
  await page.getByRole("navigation").getByRole("link", { name: link, exact: true }).waitFor();
}

for (const [name, width] of Object.entries(WIDTHS)) {
  for (const language of Object.keys(TEXTS)) {
    test(`the page in ${language} on a ${name}`, async () => {
      const { other, link } = TEXTS[language];
      // The browser prefers the other language.
      const page = await browser.open({ viewport: { width, height: 860 }, locale: LOCALES[other] });
      await page.goto(`${gateway.url}/docs?lang=${language}`);
      await isIn(page, language);
      await page.screenshot({ path: browser.output(`docs-${language}-${width}.png`) });

      // Of Swagger UI's own markup the gateway knows nothing.
      await page.evaluate(axe.source);
      const { violations } = await page.evaluate(() => window.axe.run({ exclude: ["#swagger-ui"] }));
      assert.deepEqual(violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html)}`), []);
      const wide = await page.locator("nav").evaluate((nav) => nav.getBoundingClientRect().right - innerWidth);
      assert.ok(wide <= 0, `the link is ${wide} pixels beside the page`);

      await page.getByRole("link", { name: link, exact: true }).click();
      await isIn(page, other);
      assert.equal(new URL(page.url()).search, `?lang=${other}`);
      assert.deepEqual(page.faults, []);
      await page.context().close();
    });
  }
}

for (const language of Object.keys(TEXTS)) {
  test(`a browser in ${language} gets the page in it`, async () => {
    const page = await browser.open({ locale: LOCALES[language] });
    await page.goto(`${gateway.url}/docs`);
    await isIn(page, language);
    assert.deepEqual(page.faults, []);
    await page.context().close();
  });
}
