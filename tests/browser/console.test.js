// The console as its users operate it: by mouse, keyboard, clipboard and screen reader, on a desktop and on a phone.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, beforeEach, describe, test } from "node:test";
import { promisify } from "node:util";

import { choose, drop, hover, launch } from "./browser.js";
import { DESKTOP, PHONE, assertAccessible, deleteNow, ready, row, said } from "./console-page.js";
import { MORE_THAN_SOCKET_BUFFERS, MiB, picture } from "./files.js";
import { KEY, keyed, start } from "./gateway.js";

const LIMIT = 160 * MiB;

let browser, open, guarded;

before(async () => {
  // One after the other, so that after a failure everything started before it is stopped.
  browser = await launch();
  // `console-resumable.test.js` has the uploads that can be resumed.
  open = await start({ "upload.max_file_size": LIMIT, "resumable.enabled": false });
  guarded = await start(keyed);
});
after(() => Promise.all([browser?.close(), open?.stop(), guarded?.stop()]));
beforeEach(() => Promise.all([open.reset(), guarded.reset()]));

/** Opens the console with a new browser profile; at the end it must have had no script error or policy violation. */
function visit(name, body, options = {}, gateway = () => open) {
  test(name, async () => {
    const page = await browser.open({ ...DESKTOP, ...options });
    await page.goto(`${gateway().url}/console`);
    await ready(page);
    await body(page);
    assert.deepEqual(page.faults, []);
    await page.context().close();
  });
}

const slow = () => open.faults([{ stage: "cos", fault: "slow", bytes_per_second: 4 * MiB }]);

describe("uploading", () => {
  visit("a dropped picture is stored, and shown as the gateway's preset makes it", async (page) => {
    const given = await picture("山.png");
    await drop(page, "#drop", given.path);
    await row(page, "stored").waitFor();
    await page.waitForFunction(() => {
      const image = document.querySelector(".thumbnail img");
      return image.src.includes("/v1/files/") && image.naturalWidth;
    });
    const shown = await page.locator(".thumbnail img").evaluate(({ src, naturalWidth }) => ({ src, naturalWidth }));
    assert.match(shown.src, /[?&]preset=thumb$/);
    assert.equal(shown.naturalWidth, 200);
    const [object] = await open.objects();
    assert.ok(given.content.equals(await open.object(object.key)));

    assert.match(await row(page).locator(".state").innerText(), /Stored · .* · CRC-64 verified/);
    const facts = await row(page).locator(".facts").innerText();
    for (const fact of [object.key, "cloud://", String(object.crc64), "image/png", "Request id"]) {
      assert.ok(facts.includes(fact), `${fact} in ${facts}`);
    }
    await said(page, "山.png: Stored");
  });

  visit("a file dropped anywhere on the page counts, and the page says so meanwhile", async (page) => {
    await hover(page, "#snippets", (await picture("one.png")).path);
    await page.locator("#drop-overlay").waitFor();
    await page.dragging("drop");
    await row(page, "stored").waitFor();
    await page.locator("#drop-overlay").waitFor({ state: "hidden" });
  });

  visit("several chosen files go one request each, all of them", async (page) => {
    const given = await Promise.all([1, 2, 3, 4, 5].map((seed) => picture(`p${seed}.png`, 0, seed)));
    await choose(page, "#choose", given.map(({ path }) => path));
    await row(page, "stored").nth(4).waitFor();
    assert.equal((await open.objects()).length, 5);
    assert.equal(await page.locator("#counts").innerText(), "5 files · 5 stored");
    await page.locator("#clear").click();
    assert.equal(await row(page).count(), 0);
    assert.equal(await page.evaluate(() => document.activeElement.id), "choose");
  });

  visit("a pasted picture is uploaded", async (page) => {
    await page.context().grantPermissions(["clipboard-read", "clipboard-write"]);
    await page.evaluate(async () => {
      const canvas = new OffscreenCanvas(40, 30);
      canvas.getContext("2d").fillRect(0, 0, 20, 30);
      const blob = await canvas.convertToBlob({ type: "image/png" });
      await navigator.clipboard.write([new ClipboardItem({ "image/png": blob })]);
    });
    await page.keyboard.press("Control+v");
    await row(page, "stored").waitFor();
    assert.equal((await open.objects())[0].content_type, "image/png");
  });

  visit("speed and time left are those of storage, and a cancelled file is not stored", async (page) => {
    await slow();
    // The sockets' buffers fill faster than storage accepts bytes: wait until they are full.
    const wait = 24 * MiB;
    const given = await picture("large.png", wait + MORE_THAN_SOCKET_BUFFERS);
    await choose(page, "#choose", given.path);
    await open.received(wait);
    const text = await row(page).locator(".state").innerText();
    const [, speed, left] = text.match(/([\d.]+) MiB\/s · (\d+) s left/) ?? assert.fail(text);
    assert.ok(speed > 2 && speed < 8, text);
    assert.ok(left >= 2 && left < 60, text);
    const share = await row(page).locator("progress").evaluate((bar) => bar.value);
    assert.ok(share > 0.15 && share < 1, `${share}`);

    await page.getByRole("button", { name: "Cancel large.png" }).click();
    await row(page, "cancelled").waitFor();
    await open.idle();
    assert.deepEqual(await open.objects(), []);
    assert.equal(await page.evaluate(() => document.activeElement.textContent), "large.png");

    await open.faults([]);
    await page.getByRole("button", { name: "Retry large.png" }).click();
    await row(page, "stored").waitFor();
    assert.equal((await open.objects()).length, 1);
  });

  visit("at most three run at once, and all are cancelled together", async (page) => {
    await slow();
    const given = await Promise.all([1, 2, 3, 4, 5].map((seed) => picture(`l${seed}.png`, MORE_THAN_SOCKET_BUFFERS, seed)));
    await choose(page, "#choose", given.map(({ path }) => path));
    await open.received(MiB);
    assert.equal(await row(page, "sending").count(), 3);
    assert.equal(await row(page, "waiting").count(), 2);
    await page.locator("#cancel-all").click();
    await row(page, "cancelled").nth(4).waitFor();
    await open.idle();
    assert.deepEqual(await open.objects(), []);
  });
});

describe("the response", () => {
  visit("it is copied as a link, as Markdown and as HTML", async (page) => {
    await page.context().grantPermissions(["clipboard-read", "clipboard-write"]);
    await choose(page, "#choose", (await picture('a "quoted" [name].png')).path);
    await row(page, "stored").waitFor();
    const copied = async (name) => {
      await row(page).getByRole("button", { name, exact: true }).click();
      return page.evaluate(() => navigator.clipboard.readText());
    };
    const url = await copied("URL");
    assert.equal((await page.request.get(url)).status(), 200);
    assert.equal(await copied("Markdown"), `![a "quoted" \\[name\\].png](${url})`);
    assert.equal(await copied("HTML"), `<img src="${url}" alt="a &#34;quoted&#34; [name].png">`);
  });

  visit("it is deleted", async (page) => {
    await choose(page, "#choose", (await picture("one.png")).path);
    await row(page, "stored").waitFor();
    await deleteNow(page, "one.png");
    assert.deepEqual(await open.objects(), []);
    await page.getByRole("button", { name: "Remove one.png" }).click();
    await page.locator("#drop .hint").waitFor();
  });

  visit("it lies in the folder that was asked for", async (page) => {
    await page.getByLabel("Folder").fill("头像/2026");
    await choose(page, "#choose", (await picture("one.png")).path);
    await row(page, "stored").waitFor();
    assert.match((await open.objects())[0].key, /\/头像\/2026\//);
  });

  for (const profile of ["wangeditor", "tinymce", "ckeditor", "editorjs", "vditor", "ueditor", "filepond", "dropzone", "text"]) {
    visit(`the shape of ${profile} is understood, for a success and for a refusal`, async (page) => {
      await page.getByLabel("Response format").selectOption(profile);
      await choose(page, "#choose", (await picture("one.png")).path);
      await row(page, "stored").waitFor();
      const [object] = await open.objects();
      assert.ok((await row(page).locator(".facts").innerText()).includes(object.key));
      await deleteNow(page, "one.png");
      assert.deepEqual(await open.objects(), []);

      await open.faults([{ stage: "cos", fault: "status", status: 403, code: "AccessDenied" }]);
      await choose(page, "#choose", (await picture("two.png")).path);
      await row(page, "failed").waitFor();
      assert.match(await row(page, "failed").locator(".failure").innerText(), /AccessDenied/);
    });
  }
});

describe("failures", () => {
  visit("a refusal of COS is shown as text, with its code and the request's id", async (page) => {
    await open.faults([{ stage: "cos", fault: "status", status: 403, code: "AccessDenied" }]);
    const response = page.waitForResponse("**/v1/files");
    await choose(page, "#choose", (await picture("one.png")).path);
    await row(page, "failed").waitFor();
    const text = await row(page).locator(".failure").innerText();
    const id = (await response).headers()["x-request-id"];
    for (const part of ["COS refused the file", "COS responded 403 AccessDenied", "cos_refused", id, "cos_request_id"]) {
      assert.ok(text.includes(part), `${part} in ${text}`);
    }
    await said(page, "one.png: COS refused the file");
  });

  visit("a file that is too large", async (page) => {
    await choose(page, "#choose", (await picture("large.png", LIMIT)).path);
    await row(page, "failed").waitFor();
    assert.match(await row(page).locator(".failure").innerText(), /too large[\s\S]*file_too_large/);
  });

  visit("without a key the console asks for it, and the retry goes through", async (page) => {
    await choose(page, "#choose", (await picture("one.png")).path);
    await row(page, "failed").waitFor();
    assert.match(await row(page).locator(".failure").innerText(), /unauthenticated/);
    await page.getByRole("button", { name: "Enter a key one.png" }).click();
    await page.keyboard.type(KEY);
    await page.getByRole("button", { name: "Retry one.png" }).click();
    await row(page, "stored").waitFor();
    await deleteNow(page, "one.png");
    assert.ok(!(await page.locator("#snippet").innerText()).includes(KEY), "the key is in no snippet");
  }, {}, () => guarded);
});

describe("the same upload from code", () => {
  const run = promisify(execFile);
  // Contains every special character of shells, curl and the languages.
  const NAME = `it's "one", $two; \\three.png`;
  /** How each snippet is run: the code around it, and the command. */
  const RUNNERS = {
    curl: { file: "upload.sh", command: "sh", around: (code) => code },
    fetch: {
      file: "upload.mjs",
      command: "node",
      around: (code) => `import { File } from "node:buffer";
        import { readFileSync } from "node:fs";
        const { KEY } = process.env;
        const input = { files: [new File([readFileSync(${JSON.stringify(NAME)})], ${JSON.stringify(NAME)})] };
        ${code}`,
    },
    // As documented: any status is a success, and `data` is a string.
    "wx.uploadFile": {
      file: "upload.mjs",
      command: "node",
      around: (code) => `import { readFileSync } from "node:fs";
        const { KEY } = process.env;
        const wx = {
          chooseMedia: ({ success }) => success({ tempFiles: [{ tempFilePath: ${JSON.stringify(NAME)} }] }),
          uploadFile({ url, filePath, name, header, success, fail }) {
            const form = new FormData();
            form.append(name, new Blob([readFileSync(filePath)]), filePath);
            fetch(url, { method: "POST", headers: header, body: form })
              .then(async (response) => success({ statusCode: response.status, data: await response.text() }), fail);
            return { onProgressUpdate() {} };
          },
        };
        ${code}`,
    },
    OkHttp: {
      file: "Upload.java",
      command: "java",
      arguments: ["-cp", "/usr/share/java/okhttp.jar:/usr/share/java/okio.jar"],
      around: (code) => `import java.io.File;
        import okhttp3.*;
        class Upload {
          static final String KEY = System.getenv("KEY");
          public static void main(String[] arguments) throws Exception {
            ${code}
            System.exit(0);
          }
        }`,
    },
  };

  for (const [language, runner] of Object.entries(RUNNERS)) {
    visit(`${language}: what is copied does what the console did`, async (page) => {
      const folder = await mkdtemp(join(tmpdir(), "snippet-"));
      const given = await picture(NAME);
      await writeFile(join(folder, NAME), given.content);

      await page.getByLabel("API key or ticket").fill(KEY);
      await page.getByLabel("Folder").fill("from/code & more");
      await choose(page, "#choose", given.path);
      await row(page, "stored").waitFor();
      await guarded.reset();
      await page.getByRole("tab", { name: language, exact: true }).click();
      const code = await page.locator("#snippet code").textContent();
      assert.ok(!code.includes(KEY));

      await writeFile(join(folder, runner.file), runner.around(code));
      const env = { ...process.env, KEY };
      const { stdout, stderr } = await run(runner.command, [...(runner.arguments ?? []), runner.file], { cwd: folder, env });
      const [object] = await guarded.objects();
      assert.ok(object, `${code}\n${stdout}\n${stderr}`);
      assert.match(object.key, /\/from\/code & more\/.*\.png$/);
      assert.ok(given.content.equals(await guarded.object(object.key)));
      assert.ok(stdout.includes("/v1/files/uploads/"), stdout);
      await rm(folder, { recursive: true });
    }, {}, () => guarded);
  }
});

describe("figures", () => {
  visit("the strip is alive", async (page) => {
    const figure = (name) => page.locator(`[data-figure=${name}]`);
    await choose(page, "#choose", (await picture("one.png", 2 * MiB)).path);
    await row(page, "stored").waitFor();
    const filled = (name, pattern) => figure(name).filter({ hasText: pattern }).waitFor();
    await filled("in_flight", /^\d+$/);
    await filled("replays", /^\d+$/);
    await filled("throughput", /[\d.]+ (KiB|MiB)\/s$/);
    await filled("token_age", /\d+ (s|min)$/);
  });

  test("a figure is a dash if the gateway gives none", async () => {
    const page = await browser.open(DESKTOP);
    await page.route("**/metrics", (route) => route.fulfill({ status: 404 }));
    const asked = page.waitForResponse("**/metrics");
    await page.goto(`${open.url}/console`);
    await asked;
    for (const text of await page.locator("[data-figure]").allInnerTexts()) assert.equal(text, "–");
    await page.context().close();
  });
});

describe("the page", () => {
  test("it is small, asks no other host, and allows nothing unsafe", async () => {
    for (const [path, locale] of [["/", "en-US"], ["/console", "zh-CN"]]) {
      const page = await browser.open({ ...DESKTOP, locale });
      const responses = [];
      page.on("response", (response) => responses.push(response));
      const response = await page.goto(open.url + path);
      await page.waitForLoadState("networkidle");
      const policy = response.headers()["content-security-policy"];
      assert.match(policy, /default-src 'none'/);
      assert.doesNotMatch(policy, /unsafe/);
      const first = responses.filter((response) => !response.url().endsWith("/metrics"));
      const sizes = await Promise.all(first.map(async (response) => {
        assert.equal(response.status(), 200, response.url());
        assert.equal(new URL(response.url()).origin, open.url);
        const { responseHeadersSize, responseBodySize } = await response.request().sizes();
        return responseHeadersSize + responseBodySize;
      }));
      const total = sizes.reduce((one, other) => one + other);
      console.log(`first load of ${path} in ${locale}: ${total} bytes with headers, ${first.length} requests`);
      assert.ok(total > 10_000 && total <= 60_000, `${total} bytes`);
      assert.deepEqual(page.faults, []);
      await page.context().close();
    }
  });

  test("it has one URL", async () => {
    const response = await fetch(`${open.url}/console/`, { redirect: "manual" });
    assert.equal(new URL(response.headers.get("location"), response.url).pathname, "/console");
    assert.equal((await fetch(`${open.url}/console/nothing.js`)).status, 404);
  });

  visit("it speaks Chinese to a Chinese browser, problems too", async (page) => {
    assert.equal(await page.evaluate(() => document.documentElement.lang), "zh");
    await page.getByRole("button", { name: "选择文件" }).waitFor();
    await choose(page, "#choose", (await picture("large.png", LIMIT)).path);
    await row(page, "failed").waitFor();
    assert.match(await row(page).locator(".failure").innerText(), /文件太大[\s\S]*file_too_large/);
    // No text is left in English.
    const left = await page.evaluate(() => [...document.querySelectorAll("body [data-t]")].filter((e) => !/[\u4e00-\u9fff]/.test(e.textContent)).map((e) => e.outerHTML));
    assert.deepEqual(left, []);
  }, { locale: "zh-CN" });

  visit("everything can be done by keyboard", async (page) => {
    const asked = page.waitForEvent("filechooser");
    for (const id of ["language", "choose"]) {
      await page.keyboard.press("Tab");
      assert.equal(await page.evaluate(() => document.activeElement.id), id);
    }
    await page.keyboard.press("Enter");
    await (await asked).setFiles((await picture("one.png")).path);
    await row(page, "stored").waitFor();
    await page.keyboard.press("Tab");
    assert.equal(await page.evaluate(() => document.activeElement.getAttribute("aria-label")), "Delete one.png");
    await page.clock.install();
    await page.keyboard.press("Enter");
    assert.equal(await page.evaluate(() => document.activeElement.getAttribute("aria-label")), "Undo one.png");
    await page.clock.fastForward("00:09");
    await row(page, "deleted").waitFor();
    // The button that had the focus is no longer there.
    assert.equal(await page.evaluate(() => document.activeElement.textContent), "one.png");

    await page.locator("#tab-curl").focus();
    await page.keyboard.press("ArrowRight");
    assert.match(await page.locator("#snippet").innerText(), /new FormData/);
    await page.keyboard.press("End");
    assert.match(await page.locator("#snippet").innerText(), /OkHttpClient/);
  });

  for (const [width, view] of Object.entries({ desktop: DESKTOP, phone: PHONE })) {
    for (const colorScheme of ["light", "dark"]) {
      test(`empty, uploading, done and failed: on a ${width}, ${colorScheme}, without an accessibility fault`, async () => {
        // Trusted Types would block the checker itself.
        const page = await browser.open({ ...view, colorScheme, bypassCSP: true });
        await page.goto(`${open.url}/console`);
        await ready(page);
        const look = async (state) => {
          await page.screenshot({ path: browser.output(`console-${state}-${width}-${colorScheme}.png`), fullPage: true });
          await assertAccessible(page, state);
        };
        await look("empty");

        await slow();
        const names = ["harbour at dawn.png", "menu-2026.png", "a rather long name of a picture taken on holiday.png", "logo.png"];
        const given = await Promise.all(names.map((name, index) => picture(name, MORE_THAN_SOCKET_BUFFERS, index + 2)));
        await choose(page, "#choose", given.map(({ path }) => path));
        await open.received(12 * MiB);
        await look("uploading");
        await page.locator("#cancel-all").click();
        await row(page, "cancelled").nth(3).waitFor();
        await page.locator("#clear").click();

        await open.idle();
        await open.faults([]);
        await choose(page, "#choose", (await picture("harbour at dawn.png", 300_000, 2)).path);
        await row(page, "stored").waitFor();
        await look("done");

        await open.faults([{ stage: "cos", fault: "status", status: 403, code: "AccessDenied" }]);
        await choose(page, "#choose", (await picture("menu-2026.png", 300_000, 3)).path);
        await row(page, "failed").waitFor();
        await look("failed");
        await page.context().close();
      });
    }
  }
});
