// Large files in the console: resumable uploads that are paused, interrupted, continued after a reload, and refused.

import assert from "node:assert/strict";
import { appendFile } from "node:fs/promises";
import { after, before, beforeEach, describe, test } from "node:test";

import { choose, launch, slowUplink } from "./browser.js";
import { DESKTOP, PHONE, assertAccessible, deleteNow, failure, press, ready, row } from "./console-page.js";
import { MiB, picture } from "./files.js";
import { KEY, keyed, start } from "./gateway.js";
import { proxy } from "./proxy.js";

const BY_API = { "cos.via": "api", "upload.max_file_size": 64 * MiB };

let browser, open, guarded, between;

before(async () => {
  browser = await launch();
  open = await start(BY_API);
  guarded = await start({ ...BY_API, ...keyed, "upload.allowed_types": "image/*" });
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

/** A page with the console, and what it has sent to `/v1`. */
async function visit(url, options = {}) {
  const page = await browser.open({ ...DESKTOP, ...options });
  page.sent = [];
  page.on("request", (request) => {
    const { pathname } = new URL(request.url());
    const offset = request.headers()["upload-offset"];
    if (pathname.startsWith("/v1/")) page.sent.push({ method: request.method(), pathname, offset: offset && Number(offset) });
  });
  await page.goto(`${url}/console`);
  await ready(page);
  return page;
}

/** A test in a console that is opened through the proxy; it must have had no script error or policy violation. */
function consoleTest(name, body, options = {}) {
  test(name, async () => {
    const page = await visit(between.url, options);
    try {
      await body(page);
      assert.deepEqual(page.faults, []);
    } finally {
      // Otherwise an upload of a test that failed is found by the next one.
      await page.context().close();
    }
  });
}

const offsets = (page) => page.sent.filter(({ method }) => method === "PATCH").map(({ offset }) => offset);
const slow = (gateway = open) => gateway.faults([{ stage: "part", fault: "slow", bytes_per_second: 4 * MiB }]);
const remembered = (page) =>
  page.evaluate(() => JSON.parse(localStorage.getItem("unfinished-uploads /") ?? "[]"));

async function assertStored(gateway, given) {
  const objects = await gateway.objects();
  assert.deepEqual(objects.map(({ size }) => size), [given.content.length]);
  assert.ok(given.content.equals(await gateway.object(objects[0].key)), "the file is another one");
  return objects[0];
}

/** Begins a slow upload, and waits until COS has some of it. */
async function begin(page, given, gateway = open) {
  await slow(gateway);
  await choose(page, "#choose", given.path);
  await gateway.hasParts(3 * MiB);
  await row(page, "sending").waitFor();
}

describe("a large file", () => {
  consoleTest("goes in pieces, is stored byte for byte, and its row is that of any stored file", async (page) => {
    const given = await picture("large.png", 40_000_000);
    await choose(page, "#choose", given.path);
    await row(page, "stored").waitFor();
    const object = await assertStored(open, given);
    assert.deepEqual(offsets(page), [0, 10, 20, 30].map((offset) => offset * MiB));
    assert.equal(page.sent.filter(({ method }) => method === "OPTIONS").length, 1);
    assert.ok(!page.sent.some(({ pathname }) => pathname === "/v1/files"));

    assert.match(await row(page).locator(".state").innerText(), /^Stored · 38\.3 MiB · CRC-64 verified/);
    await row(page).locator(".response").evaluate((details) => (details.open = true));
    const facts = await row(page).locator(".facts").innerText();
    for (const fact of [object.key, "cloud://", String(object.crc64), "image/png"]) assert.ok(facts.includes(fact), fact);
    const link = await row(page).locator(".open").getAttribute("href");
    assert.equal((await page.request.get(link)).status(), 200);
    assert.deepEqual(await remembered(page), []);
    await deleteNow(page, "large.png");
  });

  consoleTest("lies in the folder that was asked for, under a name in any script", async (page) => {
    await page.getByLabel("Folder").fill("头像/2026");
    await choose(page, "#choose", (await picture("山.png", 9 * MiB)).path);
    await row(page, "stored").waitFor();
    assert.match((await open.objects())[0].key, /\/头像\/2026\//);
    assert.match(await row(page).locator(".raw pre").textContent(), /山\.png/);
  });

  consoleTest("goes as a form for the format of an editor, and so does a small file", async (page) => {
    await choose(page, "#choose", (await picture("small.png", 7 * MiB)).path);
    await row(page, "stored").waitFor();
    await page.getByLabel("Response format").selectOption("tinymce");
    await choose(page, "#choose", (await picture("large.png", 12 * MiB)).path);
    await row(page, "stored").nth(1).waitFor();
    assert.deepEqual(page.sent.filter(({ method }) => method !== "GET"), [
      { method: "POST", pathname: "/v1/files", offset: undefined },
      { method: "POST", pathname: "/v1/files", offset: undefined },
    ]);
  });

  consoleTest("goes to the page's own address, also where the gateway has another public URL", async (page) => {
    let told;
    await page.route("**/v1/uploads", async (route) => {
      if (route.request().method() !== "POST") return route.fallback();
      const response = await route.fetch();
      told = response.headers().location.replace(between.url, "https://files.example.com");
      await route.fulfill({ response, headers: { ...response.headers(), location: told } });
    });
    const given = await picture("large.png", 12 * MiB);
    await choose(page, "#choose", given.path);
    await row(page, "stored").waitFor();
    assert.match(told, /^https:\/\/files\.example\.com\/v1\/uploads\//);
    await assertStored(open, given);
  });

  for (const settings of [{ "cos.via": "form", "resumable.enabled": false }, { ...BY_API, "resumable.enabled": false }]) {
    test(`goes as a form to a gateway without tus: ${JSON.stringify(settings)}`, async () => {
      const old = await start(settings);
      const page = await visit(old.url);
      const given = await picture("large.png", 12 * MiB);
      await choose(page, "#choose", given.path);
      await row(page, "stored").waitFor();
      await assertStored(old, given);
      assert.deepEqual(page.sent.filter(({ method }) => method !== "GET").map(({ method, pathname }) => `${method} ${pathname}`), [
        "OPTIONS /v1/uploads", "POST /v1/files",
      ]);
      await page.context().close();
      await old.stop();
    });
  }
});

describe("paused", () => {
  consoleTest("nothing is sent until it is resumed, which sends the rest", async (page) => {
    const given = await picture("large.png", 30 * MiB);
    await begin(page, given);
    await press(page, "Pause large.png");
    await row(page, "paused").waitFor();
    assert.match(await row(page).locator(".state").innerText(), /^Paused · [\d.]+ MiB \/ 30.2 MiB$/);
    assert.equal(await page.locator("#counts").innerText(), "1 file · 1 paused");
    assert.equal(await page.evaluate(() => document.activeElement.dataset.do), "resume");
    await open.idle();
    const before = page.sent.length;
    await open.faults([]);
    // The first attempt after a failure has no delay: by the time of these responses it would have been sent.
    await page.evaluate(async () => {
      for (let number = 0; number < 3; number += 1) await (await fetch(`/healthz?${number}`)).text();
    });
    assert.equal(page.sent.length, before);

    await page.keyboard.press("Enter");
    await row(page, "stored").waitFor();
    await assertStored(open, given);
    assert.ok(offsets(page).slice(1).every((offset) => offset > 0), offsets(page).join());
  });

  consoleTest("others take its slot, and it waits for one", async (page) => {
    const given = await Promise.all([1, 2, 3, 4].map((seed) => picture(`l${seed}.png`, 24 * MiB, seed)));
    await slow();
    await choose(page, "#choose", given.map(({ path }) => path));
    await open.hasParts(MiB);
    assert.equal(await row(page, "waiting").count(), 1);
    await press(page, "Pause l1.png");
    await row(page, "waiting").waitFor({ state: "detached" });
    await press(page, "Resume l1.png");
    assert.equal(await row(page, "waiting").locator(".name").innerText(), "l1.png");
    await page.locator("#cancel-all").click();
    await row(page, "cancelled").nth(3).waitFor();
    await open.aborted();
    assert.deepEqual(await open.objects(), []);
  });

  for (const state of ["sending", "paused"]) {
    consoleTest(`cancelled while ${state}, it is ended at COS, and a retry begins anew`, async (page) => {
      const given = await picture("large.png", 30 * MiB);
      await begin(page, given);
      if (state === "paused") await press(page, "Pause large.png");
      await press(page, "Cancel large.png");
      await row(page, "cancelled").waitFor();
      await open.aborted();
      await open.idle();
      assert.deepEqual(await open.objects(), []);
      assert.deepEqual(await remembered(page), []);
      await open.faults([]);
      await press(page, "Retry large.png");
      await row(page, "stored").waitFor();
      await assertStored(open, given);
    });
  }

  consoleTest("cancelled too late, it is shown as stored, and can be deleted", async (page) => {
    const given = await picture("large.png", 12 * MiB);
    await open.faults([{ stage: "complete", fault: "delay", ms: 2000 }]);
    await choose(page, "#choose", given.path);
    await open.hasFile();
    await press(page, "Cancel large.png");
    await row(page, "stored").waitFor();
    await assertStored(open, given);
    assert.deepEqual(await remembered(page), []);
    await deleteNow(page, "large.png");
    assert.deepEqual(await open.objects(), []);
  });
});

describe("interrupted", () => {
  for (const cut of [5, 12, 26]) {
    consoleTest(`cut after ${cut} MiB, it continues by itself where it was`, async (page) => {
      const given = await picture("large.png", 30 * MiB);
      between.cutAfter(cut * MiB);
      await choose(page, "#choose", given.path);
      await row(page, "stored").waitFor();
      await assertStored(open, given);
      const continued = offsets(page).find((offset) => offset % (10 * MiB) !== 0);
      assert.ok(continued > (cut - 6) * MiB && continued <= cut * MiB, offsets(page).join());
    });
  }

  consoleTest("offline, its row says so, and it continues once the browser is online", async (page) => {
    const given = await picture("large.png", 30 * MiB);
    await begin(page, given);
    await page.context().setOffline(true);
    await row(page, "reconnecting").waitFor();
    assert.match(await row(page).locator(".state").innerText(), /^Offline, continues by itself · [\d.]+ MiB \/ 30.2 MiB$/);
    await page.locator("#announcements", { hasText: "large.png: Offline" }).waitFor({ state: "attached" });
    await open.faults([]);
    await page.context().setOffline(false);
    await row(page, "stored").waitFor();
    await assertStored(open, given);
    assert.ok(offsets(page).at(-1) > 0);
  });

  consoleTest("while the gateway is away, it tries again and again", async (page) => {
    const given = await picture("large.png", 30 * MiB);
    await begin(page, given);
    const refused = between.refuse();
    await refused(3);
    assert.match(await row(page, "reconnecting").locator(".state").innerText(), /Interrupted, continues by itself/);
    await open.faults([]);
    between.accept();
    await row(page, "stored").waitFor();
    await assertStored(open, given);
  });

  consoleTest("a response of the last bytes that is lost is asked for again", async (page) => {
    const given = await picture("large.png", 12 * MiB);
    let lost = 0;
    await page.route("**/v1/uploads/*", async (route) => {
      const request = route.request();
      if (request.method() !== "PATCH" || Number(request.headers()["upload-offset"]) === 0 || lost) return route.fallback();
      lost += 1;
      await route.fetch();
      await route.abort("connectionreset");
    });
    await choose(page, "#choose", given.path);
    await row(page, "stored").waitFor();
    assert.equal(lost, 1);
    await assertStored(open, given);
    assert.deepEqual(offsets(page), [0, 10 * MiB]);
  });

  consoleTest("a connection in which nothing moves is given up", async (page) => {
    await page.clock.install();
    let running = 0;
    const count = (change) => (request) => (running += request.url().includes("/v1/uploads/") ? change : 0);
    page.on("request", count(1)).on("requestfinished", count(-1)).on("requestfailed", count(-1));
    const given = await picture("large.png", 30 * MiB);
    await slow();
    await choose(page, "#choose", given.path);
    await open.hasParts(3 * MiB);
    between.stall();
    await page.clock.runFor(5000);
    assert.equal(await row(page, "sending").or(row(page, "finishing")).count(), 1);
    await open.faults([]);
    await open.idle();
    let broken = false;
    page.on("requestfailed", (request) => (broken ||= request.method() === "PATCH"));
    // The connection counts as broken after a minute, or after five if the whole piece is in the buffers of sockets.
    for (let minutes = 0; minutes < 10 && !broken; minutes += 1) await page.clock.runFor(60_000);
    assert.ok(broken);
    between.reset();
    // The clock ends pauses: a request that runs while it leaps would count as broken, too.
    const deadline = Date.now() + 20_000;
    while (!(await row(page, "stored").count())) {
      assert.ok(Date.now() < deadline, await row(page).innerText());
      await (running ? new Promise((resolve) => setTimeout(resolve, 20)) : page.clock.runFor(30_000));
    }
    await assertStored(open, given);
  });

  consoleTest("COS failing for a while, the reason is shown meanwhile", async (page) => {
    const given = await picture("large.png", 30 * MiB);
    await begin(page, given);
    await open.faults([{ stage: "part", fault: "status", status: 403, code: "AccessDenied" }]);
    await row(page, "reconnecting").waitFor();
    assert.match(await row(page).locator(".failure").innerText(), /COS refused the file[\s\S]*AccessDenied/);
    await open.faults([]);
    await row(page, "stored").waitFor();
    await assertStored(open, given);
    assert.ok(await row(page).locator(".failure").isHidden());
  });
});

describe("after a reload", () => {
  consoleTest("the file is asked for again, and the rest of it is sent", async (page) => {
    const given = await picture("large.png", 30 * MiB);
    await begin(page, given);
    await page.reload();
    await row(page, "unfinished").waitFor();
    assert.match(await row(page).locator(".state").innerText(), /choose the file again to continue · 30.2 MiB/);
    assert.equal(await page.locator("#counts").innerText(), "1 file · 1 unfinished");

    const chooseAgain = async (path) => {
      const asked = page.waitForEvent("filechooser");
      await press(page, "Choose the file large.png");
      await (await asked).setFiles(path);
    };
    await chooseAgain((await picture("large.png", 20 * MiB)).path);
    await row(page).locator(".failure", { hasText: "That is another file." }).waitFor();
    assert.equal(await row(page, "unfinished").count(), 1);
    await open.faults([]);
    page.sent.length = 0;
    await chooseAgain(given.path);
    await row(page, "stored").waitFor();
    await assertStored(open, given);
    assert.ok(offsets(page).every((offset) => offset >= 2 * MiB), offsets(page).join());
    assert.deepEqual(await remembered(page), []);
  });

  consoleTest("the file continues, too, when it is chosen or dropped like a new one", async (page) => {
    const given = await picture("large.png", 30 * MiB);
    await begin(page, given);
    await press(page, "Pause large.png");
    await page.reload();
    await row(page, "unfinished").waitFor();
    await open.faults([]);
    page.sent.length = 0;
    await choose(page, "#choose", [given.path, (await picture("other.png")).path]);
    await row(page, "stored").nth(1).waitFor();
    assert.equal(await row(page).count(), 2);
    assert.ok(offsets(page).every((offset) => offset >= 2 * MiB), offsets(page).join());
  });

  consoleTest("an upload that the gateway no longer has is begun anew", async (page) => {
    const given = await picture("large.png", 30 * MiB);
    await begin(page, given);
    await press(page, "Pause large.png");
    const [{ url }] = await remembered(page);
    await page.reload();
    await row(page, "unfinished").waitFor();
    const ended = await fetch(url, { method: "DELETE", headers: { "tus-resumable": "1.0.0" } });
    assert.equal(ended.status, 204);
    await open.faults([]);
    page.sent.length = 0;
    await choose(page, "#choose", given.path);
    await row(page, "stored").waitFor();
    await assertStored(open, given);
    assert.equal(offsets(page)[0], 0);
    assert.deepEqual(await remembered(page), []);
  });

  consoleTest("an unfinished upload can be discarded, which ends it at COS", async (page) => {
    await begin(page, await picture("large.png", 30 * MiB));
    await page.reload();
    await press(page, "Discard large.png");
    await row(page).waitFor({ state: "detached" });
    await open.aborted();
    assert.deepEqual(await remembered(page), []);
  });

  consoleTest("another tab lists an upload only when its own tab is closed", async (page) => {
    await begin(page, await picture("large.png", 30 * MiB));
    const other = await page.context().newPage();
    await other.goto(`${between.url}/console`);
    await ready(other);
    await other.waitForFunction(async (url) => {
      const { held, pending } = await navigator.locks.query();
      return held.some(({ name }) => name === url) && pending.some(({ name }) => name === url);
    }, (await remembered(page))[0].url);
    assert.equal(await row(other).count(), 0);
    await page.close();
    await row(other, "unfinished").waitFor();
  });

  consoleTest("20 uploads are remembered at most, and none that has expired", async (page) => {
    await page.evaluate(async () => {
      const { remember } = await import("/console/unfinished.js");
      const later = Date.now() + 60_000;
      for (let number = 0; number < 25; number += 1) {
        remember({ name: `${number}.png`, size: 1, lastModified: 1 }, `/v1/uploads/${number}`, later);
      }
      remember({ name: "expired.png", size: 1, lastModified: 1 }, "/v1/uploads/expired", Date.now() - 1000);
    });
    await page.reload();
    await row(page, "unfinished").nth(18).waitFor();
    const names = (await row(page).locator(".name").allInnerTexts()).sort((one, other) => parseInt(one) - parseInt(other));
    assert.deepEqual(names, Array.from({ length: 19 }, (_, index) => `${index + 6}.png`));
  });
});

describe("refused", () => {
  consoleTest("too large", async (page) => {
    await choose(page, "#choose", (await picture("large.png", 64 * MiB)).path);
    await row(page, "failed").waitFor();
    assert.match(await failure(page), /too large[\s\S]*file_too_large/);
    assert.deepEqual(offsets(page), []);
  });

  test("its first bytes are of a type that is not allowed", async () => {
    const page = await visit(guarded.url, { locale: "zh-CN" });
    await page.getByLabel("API Key 或上传凭证").fill(KEY);
    const buffer = Buffer.concat([Buffer.from("%PDF-1.7\n"), Buffer.alloc(12 * MiB)]);
    const asked = page.waitForEvent("filechooser");
    await page.locator("#choose").click();
    await (await asked).setFiles({ name: "report.png", mimeType: "image/png", buffer });
    await row(page, "failed").waitFor();
    assert.match(await failure(page), /不接收这种类型的文件[\s\S]*type_not_allowed/);
    await guarded.aborted();
    assert.deepEqual(await guarded.objects(), []);
    assert.deepEqual(await remembered(page), []);
    await page.context().close();
  });

  test("its key is no longer valid: with a valid one it continues", async () => {
    const page = await visit(guarded.url);
    await page.getByLabel("API key or ticket").fill(KEY);
    const given = await picture("large.png", 30 * MiB);
    await begin(page, given, guarded);
    await press(page, "Pause large.png");
    await guarded.faults([]);
    await page.getByLabel("API key or ticket").fill("revoked");
    await press(page, "Resume large.png");
    await row(page, "failed").waitFor();
    assert.match(await failure(page), /valid key or ticket[\s\S]*unauthenticated/);
    page.sent.length = 0;
    await press(page, "Enter a key large.png");
    await page.keyboard.press("Control+a");
    await page.keyboard.type(KEY);
    await press(page, "Retry large.png");
    await row(page, "stored").waitFor();
    await assertStored(guarded, given);
    assert.ok(offsets(page).every((offset) => offset >= 2 * MiB), offsets(page).join());
    await page.context().close();
  });

  consoleTest("changed on disk meanwhile", async (page) => {
    // A picture of its own, since this test changes it.
    const given = await picture("changed.png", 30 * MiB);
    await begin(page, given);
    await press(page, "Pause changed.png");
    await appendFile(given.path, "more");
    await open.faults([]);
    await press(page, "Resume changed.png");
    await row(page, "failed").waitFor();
    assert.match(await failure(page), /can no longer read the file[\s\S]*Choose it again/);
    await open.aborted();
    assert.deepEqual(await open.objects(), []);
  });

  for (const choice of ["Retry", "Remove"]) {
    consoleTest(`while another program continues it: ${choice.toLowerCase()}`, async (page) => {
      // Otherwise the whole piece has arrived, and is stored in spite of the other program.
      await slowUplink(page, 2 * MiB);
      await begin(page, await picture("large.png", 12 * MiB));
      const [{ url }] = await remembered(page);
      const ask = () => fetch(url, { method: "HEAD", headers: { "tus-resumable": "1.0.0" } });
      assert.equal((await ask()).status, 200);
      await row(page, "failed").waitFor();
      assert.match(await failure(page), /Another request continues this upload[\s\S]*superseded/);
      await open.faults([]);
      page.sent.length = 0;
      await press(page, `${choice} large.png`);
      if (choice === "Retry") return row(page, "stored").waitFor();
      await row(page).waitFor({ state: "detached" });
      assert.deepEqual(await remembered(page), []);
      assert.equal((await ask()).status, 200);
      assert.deepEqual(page.sent, []);
    });
  }

  consoleTest("with a time to wait: a short one is waited for, a long one is told", async (page) => {
    const waits = ["1", "3600"];
    await page.route("**/v1/uploads/*", (route) => {
      const wait = route.request().method() === "PATCH" && waits.shift();
      if (!wait) return route.fallback();
      const body = JSON.stringify({ status: 429, code: "rate_limited", title: "Too many requests" });
      return route.fulfill({ status: 429, headers: { "retry-after": wait }, contentType: "application/problem+json", body });
    });
    await choose(page, "#choose", (await picture("large.png", 12 * MiB)).path);
    await row(page, "reconnecting").waitFor();
    await row(page, "failed").waitFor();
    assert.match(await failure(page), /Too many requests[\s\S]*Try again in 3600 s/);
    assert.deepEqual(offsets(page), [0, 0]);
    await press(page, "Retry large.png");
    await row(page, "stored").waitFor();
    assert.equal(page.sent.filter(({ method }) => method === "POST").length, 1);
  });
});

describe("the page", () => {
  for (const [width, view] of Object.entries({ desktop: DESKTOP, phone: PHONE })) {
    for (const [colorScheme, locale] of [["light", "en-US"], ["dark", "zh-CN"]]) {
      test(`paused, offline and unfinished: on a ${width}, ${colorScheme}, without an accessibility fault`, async () => {
        // Trusted Types would block the checker itself.
        const page = await visit(between.url, { ...view, colorScheme, locale, bypassCSP: true });
        const look = async (state) => {
          await page.screenshot({ path: browser.output(`console-${state}-${width}-${colorScheme}.png`), fullPage: true });
          await assertAccessible(page, state);
        };
        await begin(page, await picture("a rather long name of a film taken on holiday.png", 30 * MiB));
        await row(page, "sending").locator("[data-do=pause]").click();
        await look("paused");
        await row(page, "paused").locator("[data-do=resume]").click();
        await row(page, "sending").waitFor();
        await page.context().setOffline(true);
        await row(page, "reconnecting").waitFor();
        await look("offline");
        await page.context().setOffline(false);
        await page.reload();
        await row(page, "unfinished").waitFor();
        await look("unfinished");
        await page.context().close();
      });
    }
  }
});
