// The console's list over time: deletions that are undone, a lost connection, a reload; and its language, and what is
// folded on a phone.

import assert from "node:assert/strict";
import { after, before, beforeEach, describe, test } from "node:test";

import { choose, launch } from "./browser.js";
import { DESKTOP, PHONE, assertAccessible, deleteNow, openConsole, press, ready, row, said } from "./console-page.js";
import { MORE_THAN_SOCKET_BUFFERS, MiB, picture } from "./files.js";
import { KEY, keyed, start } from "./gateway.js";
import { proxy } from "./proxy.js";

let browser, open, guarded, between;

before(async () => {
  browser = await launch();
  open = await start({ "resumable.enabled": false });
  guarded = await start(keyed);
  between = await proxy(open.url);
});
after(async () => {
  await browser?.close();
  await Promise.all([between?.close(), open?.stop(), guarded?.stop()]);
});
beforeEach(() => {
  between.reset();
  return Promise.all([open.reset(), guarded.reset()]);
});

/** A test in a new console; it must have had no script error or policy violation. */
function visit(name, body, options = {}, url = () => open.url) {
  test(name, async () => {
    const page = await openConsole(browser, url(), options);
    try {
      await body(page);
      assert.deepEqual(page.faults, []);
    } finally {
      await page.context().close();
    }
  });
}

const keys = async () => (await open.objects()).map(({ key }) => key);
const slow = () => open.faults([{ stage: "cos", fault: "slow", bytes_per_second: 4 * MiB }]);

async function store(page, name = "one.png") {
  await choose(page, "#choose", (await picture(name)).path);
  await row(page, "stored").first().waitFor();
}

describe("a deletion", () => {
  visit("can be undone by keyboard, which is announced", async (page) => {
    await store(page);
    await page.clock.install();
    await press(page, "Delete one.png");
    await said(page, "one.png: Will be deleted in 8 s, unless you undo it");
    assert.equal(await page.evaluate(() => document.activeElement.ariaLabel), "Undo one.png");
    await page.keyboard.press("Enter");
    await row(page, "stored").waitFor();
    assert.equal(await page.evaluate(() => document.activeElement.ariaLabel), "Delete one.png");
    await page.clock.fastForward("01:00");
    assert.equal(await row(page, "stored").count(), 1);
    assert.deepEqual(page.sent, ["POST /v1/files"]);
    assert.equal((await keys()).length, 1);
  });

  visit("is carried out when its time is over", async (page) => {
    await store(page);
    // An installed clock goes on by itself.
    await page.clock.install();
    await page.clock.pauseAt(Date.now() + 60_000);
    await press(page, "Delete one.png");
    await row(page, "undoable").waitFor();
    await page.clock.fastForward(7000);
    assert.equal((await keys()).length, 1);
    await page.clock.fastForward(2000);
    await row(page, "deleted").waitFor();
    await said(page, "one.png: Deleted");
    assert.deepEqual(await keys(), []);
  });

  visit("is carried out when the page is left", async (page) => {
    await store(page);
    await press(page, "Delete one.png");
    await row(page, "undoable").waitFor();
    await page.goto("about:blank");
    await open.emptied();
  });

  visit("that failed says so, and leaves the file", async (page) => {
    await store(page);
    await page.route("**/v1/files/**", (route) => {
      if (route.request().method() !== "DELETE") return route.fallback();
      const body = { status: 503, code: "draining", title: "The gateway is shutting down" };
      return route.fulfill({ status: 503, json: body });
    });
    await page.clock.install();
    await press(page, "Delete one.png");
    await page.clock.fastForward("00:09");
    await row(page, "stored").locator(".failure", { hasText: "not deleted: The gateway is shutting down" }).waitFor();
    assert.equal((await keys()).length, 1);
  });
});

describe("without a connection", () => {
  visit("files wait, the page says so, and they are sent once it is back", async (page) => {
    await page.context().setOffline(true);
    await page.locator("#connection", { hasText: "You are offline." }).waitFor();
    await choose(page, "#choose", [(await picture("one.png")).path, (await picture("two.png", 0, 2)).path]);
    await row(page, "waiting").nth(1).waitFor();
    assert.match(await row(page).first().locator(".state").innerText(), /^Waiting for the connection/);
    assert.deepEqual(page.sent, []);
    await page.context().setOffline(false);
    await row(page, "stored").nth(1).waitFor();
    assert.equal(await page.locator("#connection").textContent(), "");
  });

  visit("that only the gateway lacks, a file that was cut off is sent again, and stored once", async (page) => {
    await slow();
    await choose(page, "#choose", (await picture("large.png", MORE_THAN_SOCKET_BUFFERS)).path);
    await open.received(4 * MiB);
    const refused = between.refuse();
    await page.locator("#connection", { hasText: "The gateway cannot be reached." }).waitFor();
    await row(page, "waiting").waitFor();
    await refused(2);
    await open.faults([]);
    between.accept();
    await row(page, "stored").waitFor();
    assert.equal((await keys()).length, 1);
    assert.equal(await page.locator("#connection").textContent(), "");
  }, {}, () => between.url);

  visit("for one response only, the file has failed, and a retry stores it once", async (page) => {
    let lost = 0;
    await page.route("**/v1/files", async (route) => {
      if (lost) return route.fallback();
      lost += 1;
      await route.fetch();
      await route.abort("connectionreset");
    });
    await choose(page, "#choose", (await picture("one.png")).path);
    await row(page, "failed").locator(".failure", { hasText: "The connection broke" }).waitFor();
    assert.equal((await keys()).length, 1);
    await press(page, "Retry one.png");
    await row(page, "stored").waitFor();
    assert.equal((await keys()).length, 1);
  });

  for (const [name, response] of [
    ["where /healthz is not published", ["**/healthz", { status: 404, body: "default backend - 404" }]],
    ["also where the gateway refuses to be asked", ["**/console/icon.svg", { status: 503, headers: { "x-request-id": "0-1" } }]],
  ]) {
    visit(`for one request only, the gateway is not lost: ${name}`, async (page) => {
      await page.route(response[0], (route) => route.fulfill(response[1]));
      await page.route("**/v1/files", (route) => route.abort("connectionreset"), { times: 1 });
      await choose(page, "#choose", (await picture("one.png")).path);
      await row(page, "failed").locator(".failure", { hasText: "The connection broke" }).waitFor();
      assert.equal(await page.locator("#connection").textContent(), "");
      await press(page, "Retry one.png");
      await row(page, "stored").waitFor();
    });
  }

  visit("of a proxy to the gateway, files wait", async (page) => {
    const isProxys = { status: 502, contentType: "text/html", body: "<h1>502 Bad Gateway</h1>" };
    await page.route("**/console/icon.svg", (route) => route.fulfill(isProxys));
    await page.route("**/v1/files", (route) => route.abort("connectionreset"), { times: 1 });
    await choose(page, "#choose", (await picture("one.png")).path);
    await page.locator("#connection", { hasText: "The gateway cannot be reached." }).waitFor();
    await row(page, "waiting").waitFor();
    await page.unroute("**/console/icon.svg");
    await row(page, "stored").waitFor();
    assert.equal((await keys()).length, 1);
  });
});

describe("after a reload", () => {
  const saved = (page) => page.evaluate(() => sessionStorage.getItem("finished-uploads /"));

  visit("stored files have their links, and can be deleted", async (page) => {
    await store(page);
    const href = await row(page).locator(".open").getAttribute("href");
    await page.reload();
    await row(page, "stored").waitFor();
    assert.equal(await row(page).locator(".open").getAttribute("href"), href);
    assert.match(await row(page).locator(".state").innerText(), /^Stored · .* · CRC-64 verified$/);
    await page.waitForFunction(() => document.querySelector(".thumbnail img").src.includes("/v1/files/"));
    assert.equal(await page.locator("#announcements").textContent(), "");
    await deleteNow(page, "one.png");
    assert.deepEqual(await keys(), []);
    await page.reload();
    await ready(page);
    assert.equal(await row(page).count(), 0);
  });

  visit("failed files are there as text, in the page's language", async (page) => {
    await open.faults([{ stage: "cos", fault: "status", status: 403, code: "AccessDenied" }]);
    await choose(page, "#choose", (await picture("one.png")).path);
    await row(page, "failed").waitFor();
    await page.goto(`${open.url}/console?lang=zh`);
    assert.match(await row(page, "failed").locator(".failure").innerText(), /COS 拒绝了文件[\s\S]*AccessDenied/);
    // The file itself cannot be stored.
    assert.ok(await page.locator("[data-do=retry]").isHidden());
    await row(page).locator("[data-do=remove]").click();
    await page.reload();
    await ready(page);
    assert.equal(await row(page).count(), 0);
  });

  visit("a file that was being sent is told as not stored", async (page) => {
    await slow();
    await choose(page, "#choose", (await picture("large.png", MORE_THAN_SOCKET_BUFFERS)).path);
    await open.received(MiB);
    page.on("dialog", (dialog) => dialog.accept());
    await page.reload();
    await row(page, "failed").locator(".failure", { hasText: "The page was left before the file was stored." }).waitFor();
  });

  visit("a deletion that was pending is carried out", async (page) => {
    await store(page);
    await press(page, "Delete one.png");
    await row(page, "undoable").waitFor();
    await page.reload();
    await row(page, "deleted").waitFor();
    assert.deepEqual(await keys(), []);
  });

  visit("neither the key nor a response body is among what is stored", async (page) => {
    await page.getByLabel("API key or ticket").fill(KEY);
    await choose(page, "#choose", (await picture("one.png")).path);
    await row(page, "stored").waitFor();
    const stored = await page.evaluate(() => [localStorage, sessionStorage].flatMap((storage) =>
      Array.from(storage, (_, index) => storage.key(index)).map((name) => [name, storage.getItem(name)])));
    const withKey = stored.filter(([, value]) => value.includes(KEY));
    assert.deepEqual(withKey.map(([name]) => name), ["key"], "the field of this tab only");
    assert.match(await saved(page), /"state":"stored"/);
    assert.doesNotMatch(await saved(page), /"raw"|"files":/);
  }, {}, () => guarded.url);

  visit("at most 100 files are listed, of at most 100,000 characters", async (page) => {
    const measured = await page.evaluate(async () => {
      const { saveFinished, savedFinished } = await import("/console/finished.js");
      const item = (name) => ({ file: { name, size: 1, type: "" }, state: "failed", problem: { own: "left", values: [] } });
      const names = () => savedFinished().map(({ file }) => file.name);
      saveFinished(Array.from({ length: 105 }, (_, index) => item(`${index}`)));
      const many = names();
      saveFinished(Array.from({ length: 90 }, (_, index) => item(`${index} ${"x".repeat(9000)}`)));
      const long = names();
      return { many, long, length: sessionStorage.getItem("finished-uploads /").length };
    });
    assert.deepEqual(measured.many, Array.from({ length: 100 }, (_, index) => `${index + 5}`));
    assert.ok(measured.length <= 100_000 && measured.length > 90_000, `${measured.length}`);
    assert.ok(measured.long.length > 10 && measured.long.every((name) => name.length <= 4000));
    assert.match(measured.long.at(-1), /^89 /);
  });
});

describe("the language", () => {
  visit("is switched while files are listed, and remembered", async (page) => {
    await store(page);
    await page.getByLabel("Language").selectOption("zh");
    await page.getByRole("button", { name: "选择文件" }).waitFor();
    assert.match(await row(page).locator(".state").innerText(), /^已保存/);
    assert.equal(await row(page).locator("[data-do=delete]").getAttribute("aria-label"), "删除 one.png");
    assert.match(await page.locator("#limits").innerText(), /^单个文件不超过/);
    assert.deepEqual(await page.evaluate(() => [document.documentElement.lang, document.title]), ["zh", "上传网关"]);
    const left = await page.evaluate(() => [...document.querySelectorAll("body [data-t]")].filter((e) => !/[\u4e00-\u9fff]/.test(e.textContent)).map((e) => e.outerHTML));
    assert.deepEqual(left, []);
    await page.reload();
    await page.getByRole("button", { name: "选择文件" }).waitFor();
    assert.equal(await page.locator("#language").inputValue(), "zh");
  });

  visit("of the address is overridden by the choice", async (page) => {
    await page.goto(`${open.url}/console?lang=zh`);
    await page.locator("#language").selectOption("en");
    await page.getByRole("button", { name: "Choose files" }).waitFor();
    await page.reload();
    await page.getByRole("button", { name: "Choose files" }).waitFor();
  }, { locale: "zh-CN" });

  visit("stays as it is where the other one cannot be loaded", async (page) => {
    await page.route("**/words.zh.js", (route) => route.abort());
    await page.locator("#language").selectOption("zh");
    await page.waitForFunction(() => document.getElementById("language").value === "en");
    await page.getByRole("button", { name: "Choose files" }).waitFor();
  });
});

describe("diagnostics", () => {
  const visible = async (page) => {
    const parts = ["#figures", "#snippet", ".ids", ".facts"];
    return Promise.all(parts.map((part) => page.locator(part).last().isVisible()));
  };
  const fill = async (page) => {
    await open.faults([{ stage: "cos", fault: "status", status: 403, code: "AccessDenied" }]);
    await choose(page, "#choose", (await picture("one.png")).path);
    await row(page, "failed").waitFor();
  };

  visit("are folded on a phone, and can be opened", async (page) => {
    await fill(page);
    assert.deepEqual(await visible(page), [false, false, false, false]);
    await page.getByText("Technical details").tap();
    assert.ok(await page.locator(".ids").isVisible());
    await page.getByText("Live figures").tap();
    assert.ok(await page.locator("#figures").isVisible());
  }, PHONE);

  visit("are open on a desktop", async (page) => {
    await fill(page);
    assert.deepEqual((await visible(page)).slice(0, 3), [true, true, true]);
  });

  visit("follow the width of the window", async (page) => {
    await page.setViewportSize({ width: 400, height: 800 });
    await page.locator("#figures").waitFor({ state: "hidden" });
    await page.setViewportSize({ width: 1280, height: 800 });
    await page.locator("#figures").waitFor();
  });
});

for (const [width, view] of Object.entries({ desktop: DESKTOP, phone: PHONE })) {
  for (const [colorScheme, locale] of [["light", "zh-CN"], ["dark", "en-US"]]) {
    test(`undo, offline and a reloaded list on a ${width}, ${colorScheme}, without an accessibility fault`, async () => {
      const page = await openConsole(browser, open.url, { ...view, colorScheme, locale, bypassCSP: true });
      const look = async (state) => {
        await page.screenshot({ path: browser.output(`console-${state}-${width}-${colorScheme}.png`), fullPage: true });
        await assertAccessible(page, state);
      };
      await store(page, "harbour at dawn.png");
      await open.faults([{ stage: "cos", fault: "status", status: 403, code: "AccessDenied" }]);
      await choose(page, "#choose", (await picture("a rather long name of a picture taken on holiday.png", 0, 2)).path);
      await row(page, "failed").waitFor();
      await page.reload();
      await row(page, "stored").waitFor();
      await look("reloaded");
      await row(page, "stored").locator("[data-do=delete]").click();
      await look("undo");
      await page.context().setOffline(true);
      await page.locator("#connection:not(:empty)").waitFor();
      await choose(page, "#choose", (await picture("menu.png", 0, 3)).path);
      await row(page, "waiting").waitFor();
      await look("no-connection");
      await page.context().close();
    });
  }
}
