// The page "An upload button, end to end", in a real browser: its page, its back end in Node and its settings as they
// stand there.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";

import { launch, slowUplink } from "./browser.js";
import { picture } from "./files.js";
import { start } from "./gateway.js";
import { guide, snippet } from "./pages.js";

const MODULES = fileURLToPath(new URL("node_modules", import.meta.url));
const PAGE = "The page (<code>index.html</code>)";
const GATEWAY = "http://127.0.0.1:8080";

let browser, folder, gateway, backEnd, origin, key;

before(async () => {
  browser = await launch();
  folder = await mkdtemp(join(tmpdir(), "upload-button-"));
  // A port that was free a moment ago: the gateway must know the back end's URL, and the page the gateway's.
  const free = createServer().listen(0, "127.0.0.1");
  await once(free, "listening");
  const { port } = free.address();
  free.close();
  await once(free, "close");
  origin = `http://127.0.0.1:${port}`;

  const text = await guide("docs/en/upload-button.md");
  const settings = text.match(/```toml\n([\s\S]*?)\n```/)[1].replaceAll("http://127.0.0.1:3000", origin);
  await writeFile(join(folder, "gateway.toml"), settings);
  gateway = await start({}, ["--config", join(folder, "gateway.toml")]);

  const env = { PATH: process.env.PATH, PORT: port };
  for (const [, name, value] of text.matchAll(/^export (\w+)=(.*)$/gm)) env[name] = value.replace(GATEWAY, gateway.url);
  assert.equal(env.GATEWAY_URL, gateway.url);
  key = env.GATEWAY_KEY;
  const page = snippet(text, PAGE);
  assert.ok(page.includes(`"${GATEWAY}"`));
  await writeFile(join(folder, "index.html"), page.replaceAll(GATEWAY, gateway.url));
  await writeFile(join(folder, "server.mjs"), snippet(text, "Node"));
  await symlink(MODULES, join(folder, "node_modules"));
  backEnd = spawn(process.execPath, ["server.mjs"], { cwd: folder, env, stdio: "inherit" });
  for (;;) {
    if (await fetch(origin).then(({ ok }) => ok, () => false)) break;
    assert.equal(backEnd.exitCode, null, "the back end has ended");
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
});

after(async () => {
  backEnd?.kill();
  await Promise.all([browser?.close(), gateway?.stop()]);
  if (folder) await rm(folder, { recursive: true, force: true });
});

const rows = async () => (await fetch(`${origin}/files`)).json();

/** The page, once it has asked for the list. */
async function open() {
  const page = await browser.open();
  const listed = page.waitForResponse(`${origin}/files`);
  await page.goto(origin);
  await listed;
  return page;
}

const shown = (page, count) =>
  page.waitForFunction((count) => {
    const images = [...document.querySelectorAll("#files img")];
    return images.length === count && images.every(({ naturalWidth }) => naturalWidth > 0);
  }, count);

async function said(page) {
  await page.waitForFunction(() => document.querySelector("#message").textContent);
  return page.locator("#message").innerText();
}

/** Deletes every file by the page, and waits until nothing is left. */
async function clear(page) {
  for (let left = (await rows()).length; left > 0; left -= 1) {
    await page.getByRole("button", { name: "Delete" }).first().click();
    await shown(page, left - 1);
  }
  assert.deepEqual(await rows(), []);
  assert.deepEqual(await gateway.objects(), []);
}

/** A ticket that has expired. */
async function expired() {
  const headers = { Authorization: `Bearer ${key}`, "Content-Type": "application/json" };
  const body = JSON.stringify({ sub: "17", can: ["upload"], prefix: "users/17", ttl: 1 });
  const minted = await (await fetch(`${gateway.url}/v1/tickets`, { method: "POST", headers, body })).json();
  for (;;) {
    const upload = { method: "POST", headers: { Authorization: `Bearer ${minted.ticket}` } };
    if ((await fetch(`${gateway.url}/v1/files`, upload)).status === 401) return minted;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

test("a picture is uploaded with its progress, shown, still there after a reload, and deleted", async () => {
  const page = await open();
  const { path, content } = await picture("button.png");
  await page.evaluate(() => {
    const progress = document.querySelector("#progress");
    window.seen = [];
    const note = () => window.seen.push([progress.hidden, progress.value]);
    new MutationObserver(note).observe(progress, { attributes: true });
  });
  await page.locator("#file").setInputFiles(path);
  await shown(page, 1);
  await page.locator("#progress").waitFor({ state: "hidden" });
  const seen = await page.evaluate(() => window.seen);
  assert.ok(seen.some(([hidden, value]) => !hidden && value === 1), JSON.stringify(seen));
  const [object] = await gateway.objects();
  assert.match(object.key, /^users\/17\//);
  assert.deepEqual(await gateway.object(object.key), content);
  assert.deepEqual((await rows()).map(({ name }) => name), ["button.png"]);

  await page.reload();
  await shown(page, 1);
  // The same file again.
  await page.locator("#file").setInputFiles(path);
  await shown(page, 2);
  assert.equal(await page.locator("#message").textContent(), "");
  await clear(page);
  assert.deepEqual(page.faults, []);
});

test("the progress of a slow upload is shown while it runs", async () => {
  const page = await open();
  const { path, content } = await picture("slow.png");
  await slowUplink(page, content.length / 2);
  await page.locator("#file").setInputFiles(path);
  await page.waitForFunction(() => {
    const { hidden, value } = document.querySelector("#progress");
    return !hidden && value > 0 && value < 1;
  });
  await shown(page, 1);
  await clear(page);
});

test("an expired ticket is replaced, once, and the file is sent again", async () => {
  const ticket = await expired();
  const page = await open();
  let asked = 0;
  await page.route("**/ticket", (route) => ((asked += 1) === 1 ? route.fulfill({ json: ticket }) : route.continue()));
  const { path } = await picture("later.png");
  await page.locator("#file").setInputFiles(path);
  await shown(page, 1);
  assert.equal(asked, 2);
  // The new one is used again.
  await page.locator("#file").setInputFiles(path);
  await shown(page, 2);
  assert.equal(asked, 2);
  assert.equal((await rows()).length, 2);

  // Tickets that are all refused are no endless loop.
  await page.unroute("**/ticket");
  await page.reload();
  await shown(page, 2);
  asked = 0;
  await page.route("**/ticket", (route) => ((asked += 1), route.fulfill({ json: ticket })));
  await page.locator("#file").setInputFiles(path);
  assert.match(await said(page), /expired/);
  assert.equal(asked, 2);
  assert.equal((await rows()).length, 2);
  await clear(page);
  assert.deepEqual(page.faults, []);
});

test("errors are shown in words, and nothing is stored", async () => {
  const page = await open();
  const file = { name: "page.html", mimeType: "text/html", buffer: Buffer.from("<!doctype html><p>no image") };
  await page.locator("#file").setInputFiles(file);
  assert.match(await said(page), /text\/html|type/);
  const { path } = await picture("error.png");
  // A proxy's error in HTML, no response at all, a back end that cannot mint.
  await page.route("**/v1/files", (route) => route.fulfill({
    status: 502, contentType: "text/html", headers: { "access-control-allow-origin": "*" }, body: "<html>502</html>",
  }));
  await page.locator("#file").setInputFiles(path);
  await page.getByText("The upload failed (502)").waitFor();
  await page.route("**/v1/files", (route) => route.abort());
  await page.locator("#file").setInputFiles(path);
  await page.getByText("The gateway cannot be reached").waitFor();
  await page.unroute("**/v1/files");
  await page.reload();
  await page.route("**/ticket", (route) => route.fulfill({ status: 502, body: "Try again later" }));
  await page.locator("#file").setInputFiles(path);
  await page.getByText("Try again later (502)").waitFor();
  assert.deepEqual(await gateway.objects(), []);
  assert.deepEqual(await rows(), []);
  assert.deepEqual(page.faults, []);
});

test("a file whose name is HTML is shown as text", async () => {
  const page = await open();
  const { content } = await picture("name.png");
  const name = `"><img src=x onerror="throw new Error('run')">.png`;
  await page.locator("#file").setInputFiles({ name, mimeType: "image/png", buffer: content });
  await shown(page, 1);
  assert.equal(await page.locator("#files img").count(), 1);
  await clear(page);
  assert.deepEqual(page.faults, []);
});
