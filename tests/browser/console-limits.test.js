// What the console knows before a file is sent, and what it makes of refusals: limits of the key or ticket, presets, the
// environment's name; which failures can be retried, and in which language they are told.

import assert from "node:assert/strict";
import { after, before, beforeEach, describe, test } from "node:test";

import { choose, launch } from "./browser.js";
import { DESKTOP, PHONE, assertAccessible, failure, openConsole, press, row } from "./console-page.js";
import { MiB, picture } from "./files.js";
import { KEY, keyed, start, ticket } from "./gateway.js";

let browser, open, guarded;

before(async () => {
  browser = await launch();
  open = await start({ "resumable.enabled": false });
  guarded = await start({
    ...keyed, "upload.max_file_size": 8 * MiB, "upload.allowed_types": "image/*,application/pdf", "resumable.enabled": false,
  });
});
after(() => Promise.all([browser?.close(), open?.stop(), guarded?.stop()]));
beforeEach(() => Promise.all([open.reset(), guarded.reset()]));

const limits = (page) => page.locator("#limits");
const told = (page, hasText) => page.locator("#limits", { hasText }).waitFor();

/** Opens the console of a gateway with keys, and enters one. */
async function openWith(key, options = {}) {
  const page = await openConsole(browser, guarded.url, options);
  await page.locator("#key").fill(key);
  await page.locator("#key").blur();
  return page;
}

async function chooseFile(page, name, mimeType, buffer = Buffer.from("content")) {
  const asked = page.waitForEvent("filechooser");
  await page.locator("#choose").click();
  await (await asked).setFiles({ name, mimeType, buffer });
}

/** Answers the next uploads with these problems; an editor's format has them as a member, with HTTP 200. */
async function respond(page, ...problems) {
  await page.route("**/v1/files*", async (route) => {
    const problem = problems.shift();
    if (!problem) return route.fallback();
    const headers = { "x-request-id": "0-1", ...(problem.retryAfter && { "retry-after": problem.retryAfter }) };
    await route.fulfill({ status: problem.status, headers, contentType: "application/problem+json", body: JSON.stringify(problem) });
  });
}

describe("limits", () => {
  test("those of the key or ticket are shown, and why there are none", async () => {
    const page = await openConsole(browser, guarded.url);
    await told(page, "Enter a key or ticket to upload.");
    await page.locator("#key").fill("wrong");
    await page.locator("#key").blur();
    await told(page, "The gateway does not accept this key or ticket.");
    await page.locator("#key").fill(KEY);
    await page.locator("#key").blur();
    await told(page, /^Up to 8(\.0)? MiB · images, PDF$/);
    assert.equal(await page.locator("#chooser").getAttribute("accept"), "image/*,application/pdf");
    await page.locator("#key").fill(ticket({ max_file_size: 2 * MiB, types: ["image/png"] }));
    await page.locator("#key").blur();
    await told(page, /^Up to 2(\.0)? MiB · PNG$/);
    await page.locator("#key").fill(ticket({ can: ["download"] }));
    await page.locator("#key").blur();
    await told(page, "This key or ticket does not allow uploads.");
    assert.deepEqual(page.faults, []);
    await page.context().close();
  });

  test("a file that breaks them is told at once, and nothing is sent", async () => {
    const page = await openWith(KEY);
    await told(page, "images, PDF");
    await choose(page, "#choose", (await picture("large.png", 8 * MiB)).path);
    await row(page, "failed").waitFor();
    assert.match(await failure(page), /too large[\s\S]*at most 8(\.0)? MiB\. It was not sent[\s\S]*file_too_large/);
    await press(page, "Remove large.png");
    await chooseFile(page, "notes.txt", "text/plain");
    await row(page, "failed").waitFor();
    assert.match(await failure(page), /not accepted[\s\S]*Accepted: images, PDF[\s\S]*type_not_allowed/);
    await press(page, "Remove notes.txt");
    // A list of kinds does not contain types that browsers execute.
    await chooseFile(page, "logo.svg", "image/svg+xml", Buffer.from("<svg xmlns='http://www.w3.org/2000/svg'/>"));
    await row(page, "failed").waitFor();
    assert.deepEqual(page.sent, []);
    await page.context().close();
  });

  test("those of another key say nothing about a file, even while its own are asked for", async () => {
    const page = await openWith(ticket({ max_file_size: MiB, types: ["image/png"] }));
    await told(page, "PNG");
    let answer;
    const isHeld = new Promise((resolve) => (answer = resolve));
    await page.route("**/console/info", (route) => isHeld.then(() => route.fallback()));
    const asked = page.waitForRequest("**/console/info");
    await page.locator("#key").fill(KEY);
    await page.locator("#key").blur();
    await asked;
    await chooseFile(page, "report.pdf", "application/pdf", Buffer.from("%PDF-1.7\n"));
    await row(page, "stored").or(row(page, "failed")).waitFor();
    assert.equal(await row(page).getAttribute("data-state"), "stored");
    answer();
    await told(page, "images, PDF");
    await page.context().close();
  });

  test("a file that broke them can be retried once they allow it", async () => {
    const page = await openWith(ticket({ max_file_size: MiB }));
    await told(page, /^Up to 1(\.0)? MiB/);
    await choose(page, "#choose", [(await picture("one.png", 2 * MiB)).path, (await picture("two.png", 3 * MiB, 2)).path]);
    await row(page, "failed").nth(1).waitFor();
    const offered = page.locator("[data-do=retry]:visible");
    assert.equal(await offered.count(), 0);
    await page.locator("#key").fill(KEY);
    await page.locator("#key").blur();
    await told(page, /^Up to 8(\.0)? MiB/);
    assert.equal(await offered.count(), 2);
    await page.locator("#retry-failed").click();
    await row(page, "stored").nth(1).waitFor();
    assert.deepEqual(page.sent, ["POST /v1/files", "POST /v1/files"]);
    await page.context().close();
  });

  test("a file of a type with several names is decided by the gateway", async () => {
    const page = await openWith(KEY);
    await told(page, "images, PDF");
    await chooseFile(page, "report.pdf", "application/x-pdf", Buffer.from("%PDF-1.7\n"));
    await row(page, "stored").waitFor();
    await chooseFile(page, "song.mp3", "audio/mp3");
    await row(page, "failed").waitFor();
    assert.deepEqual(page.sent, ["POST /v1/files", "POST /v1/files"]);
    await page.context().close();
  });

  test("without an answer about limits, everything is sent", async () => {
    const page = await browser.open(DESKTOP);
    await page.route("**/console/info", (route) => route.fulfill({ status: 404, body: "{}" }));
    await page.goto(`${open.url}/console`);
    await choose(page, "#choose", (await picture("one.png")).path);
    await row(page, "stored").waitFor();
    assert.equal(await limits(page).textContent(), "");
    await page.context().close();
  });
});

describe("the environment", () => {
  test("a sandbox is told as such", async () => {
    const page = await openConsole(browser, open.url);
    await page.locator("#badge", { hasText: /^Sandbox$/ }).waitFor();
    await page.context().close();
  });

  test("otherwise its name, and only to a user who may upload", async () => {
    const page = await browser.open(DESKTOP);
    let client = null;
    await page.route("**/console/info", (route) => route.fulfill({ json: { sandbox: false, client } }));
    const asked = page.waitForResponse("**/console/info");
    await page.goto(`${open.url}/console`);
    await asked;
    await told(page, "Enter a key");
    assert.ok(await page.locator("#badge").isHidden());
    client = { environment: "shop-1a2b", can: ["upload"], max_file_size: 1, types: [], presets: [] };
    await page.locator("#key").fill("x");
    await page.locator("#key").blur();
    await page.locator("#badge", { hasText: /^shop-1a2b$/ }).waitFor();
    await page.context().close();
  });
});

describe("thumbnails", () => {
  const source = (page) => page.locator(".thumbnail img").first().getAttribute("src");
  const shown = (page) => page.waitForFunction(() => document.querySelector(".thumbnail img").src.includes("/v1/files/"));

  test("without a preset, the stored picture itself is shown, unless it is large", async () => {
    const page = await browser.open(DESKTOP);
    const loaded = [];
    page.on("request", (request) => request.resourceType() === "image" && loaded.push(new URL(request.url()).pathname));
    const client = { can: ["upload"], max_file_size: 100 * MiB, types: [], presets: ["watermark"] };
    await page.route("**/console/info", (route) => route.fulfill({ json: { sandbox: true, client } }));
    await page.goto(`${open.url}/console`);
    await told(page, "Up to");
    await choose(page, "#choose", (await picture("large.png", 9 * MiB)).path);
    await row(page, "stored").waitFor();
    await choose(page, "#choose", (await picture("one.png")).path);
    await shown(page);
    assert.doesNotMatch(await source(page), /preset/);
    assert.equal(loaded.filter((path) => path.startsWith("/v1/files/")).length, 1);
    await page.context().close();
  });

  test("where the preset gives no picture, the stored picture itself is shown", async () => {
    const page = await openConsole(browser, open.url);
    await told(page, "Up to");
    let refused = 0;
    await page.route("**/*preset=thumb*", (route) => {
      refused += 1;
      return route.fulfill({ status: 415, body: "<Error/>" });
    });
    await choose(page, "#choose", (await picture("one.png")).path);
    await shown(page);
    assert.doesNotMatch(await source(page), /preset/);
    assert.equal(refused, 1);
    await page.context().close();
  });

  test("a large picture is shown by its preset only", async () => {
    const page = await openConsole(browser, open.url);
    await told(page, "Up to");
    await choose(page, "#choose", (await picture("large.png", 9 * MiB)).path);
    await row(page, "stored").waitFor();
    await shown(page);
    assert.match(await source(page), /preset=thumb$/);
    await page.context().close();
  });
});

describe("retries", () => {
  const FINAL = [[413, "file_too_large"], [415, "type_not_allowed"], [422, "refused_by_hook"], [413, "total_quota_exceeded"]];
  const TRANSIENT = [[503, "overloaded"], [429, "rate_limited"], [502, "cos_refused"], [401, "unauthenticated"], [400, "invalid_path"]];

  test("are offered only where they can help", async () => {
    const page = await openConsole(browser, open.url);
    const all = [...FINAL, ...TRANSIENT];
    await respond(page, ...all.map(([status, code]) => ({ status, code, title: code })));
    for (const [, code] of all) {
      await chooseFile(page, `${code}.png`, "image/png");
      await row(page, "failed").locator(".name", { hasText: `${code}.png` }).waitFor();
    }
    const offered = await page.locator("[data-do=retry]:visible").evaluateAll((buttons) => buttons.map(({ ariaLabel }) => ariaLabel));
    assert.deepEqual(offered.sort(), TRANSIENT.map(([, code]) => `Retry ${code}.png`).sort());
    // The others stay as they are when all are retried.
    await page.locator("#retry-failed").click();
    await row(page, "stored").nth(TRANSIENT.length - 1).waitFor();
    assert.equal(page.sent.length, all.length + TRANSIENT.length);
    assert.equal(await row(page, "failed").count(), FINAL.length);
    assert.ok(await page.locator("#retry-failed").isHidden());
    await page.context().close();
  });

  test("a refusal in an editor's format is read like any other", async () => {
    const page = await openConsole(browser, open.url);
    await page.getByLabel("Response format").selectOption("wangeditor");
    const problem = { status: 413, code: "file_too_large", title: "The file is too large", detail: "8 bytes at most" };
    await page.route("**/v1/files*", (route) => route.fulfill({ json: { errno: 1, message: problem.detail, problem } }));
    await chooseFile(page, "one.png", "image/png");
    assert.match(await failure(page), /The file is too large[\s\S]*8 bytes at most[\s\S]*file_too_large/);
    assert.ok(await page.locator("[data-do=retry]").isHidden());
    await page.context().close();
  });

  test("a response of a proxy is told as such, without its page", async () => {
    const page = await openConsole(browser, open.url);
    await page.route("**/v1/files*", (route) => route.fulfill({ status: 413, contentType: "text/html", body: "<h1>nginx</h1>" }));
    await chooseFile(page, "one.png", "image/png");
    assert.match(await failure(page), /HTTP 413, and not from the gateway\.[\s\S]*proxy in front of it limit/);
    assert.doesNotMatch(await failure(page), /nginx/);
    await page.context().close();
  });
});

describe("failures in the page's language", () => {
  test("Chinese has its own title and advice; the gateway's English is an addition", async () => {
    const page = await openConsole(browser, open.url, { locale: "zh-CN" });
    await open.faults([{ stage: "cos", fault: "status", status: 403, code: "AccessDenied" }]);
    await choose(page, "#choose", (await picture("one.png")).path);
    await row(page, "failed").waitFor();
    assert.equal(await row(page).locator(".detail").innerText(), "COS 拒绝了文件");
    assert.match(await row(page).locator(".advice").innerText(), /^请把技术信息中的 cos_code 告诉网关的运维人员。$/);
    const original = row(page).locator(".technical .original");
    assert.match(await original.innerText(), /COS responded 403 AccessDenied/);
    assert.equal(await original.getAttribute("lang"), "en");
    await page.context().close();
  });

  test("both languages have the same texts", async () => {
    const page = await openConsole(browser, open.url, { locale: "zh-CN" });
    const missing = await page.evaluate(async () => {
      const [{ problems, advice, words }, { words: english }] = await Promise.all(
        [import("/console/words.zh.js"), import("/console/words.en.js")],
      );
      const chinese = /[\u4e00-\u9fff]/;
      return [
        ...Object.keys(advice).filter((code) => !problems[code] || !chinese.test(advice[code])),
        ...Object.keys(english).filter((name) => !(name in words)),
        ...Object.keys(words).filter((name) => !(name in english)),
      ];
    });
    assert.deepEqual(missing, []);
    await page.context().close();
  });
});

for (const [width, view] of Object.entries({ desktop: DESKTOP, phone: PHONE })) {
  test(`limits and refused files on a ${width}, without an accessibility fault`, async () => {
    for (const [colorScheme, locale] of [["light", "zh-CN"], ["dark", "en-US"]]) {
      const page = await openWith(KEY, { ...view, colorScheme, locale, bypassCSP: true });
      await told(page, "PDF");
      await choose(page, "#choose", (await picture("large.png", 8 * MiB)).path);
      await row(page, "failed").waitFor();
      await page.screenshot({ path: browser.output(`console-limits-${width}-${colorScheme}.png`), fullPage: true });
      await assertAccessible(page, `${width}, ${colorScheme}`);
      await page.context().close();
    }
  });
}
