// A panel with cookie sessions: its pages upload with the cookie alone, its rows follow from the gateway's events. Each
// test checks the page, the panel's rows and the stored objects.

import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, beforeEach, test } from "node:test";

import { Webhook } from "standardwebhooks";

import { launch } from "./browser.js";
import { MiB, picture } from "./files.js";
import { start } from "./gateway.js";
import { foreign } from "./panel/foreign.js";
import { Panel } from "./panel/server.js";
import { proxy } from "./proxy.js";

const PASSWORDS = Object.fromEntries(
  ["alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi", "judy"].map((user) => [user, `the password of ${user}`]),
);
const KEY = "the-panels-key-which-no-page-has";
const HOOK_KEY = randomBytes(32).toString("base64");
const TICKET_SECRET = "a-secret-for-the-tickets-of-the-panel";
const SESSION_SECRET = "a-secret-for-the-sessions-of-the-panel";
/** A user's quota of bytes a day. */
const QUOTA = 16 * MiB;

let browser, folder, panel, gateway, between;
/** What no line of the gateway's log may contain; tests add their cookies. */
const secrets = [KEY, HOOK_KEY, TICKET_SECRET, SESSION_SECRET, ...Object.values(PASSWORDS)];

before(async () => {
  browser = await launch();
  folder = await mkdtemp(join(tmpdir(), "panel-"));
  panel = new Panel({
    database: join(folder, "panel.sqlite"),
    users: PASSWORDS,
    hookSecret: `whsec_${HOOK_KEY}`,
    sessionSecret: SESSION_SECRET,
    // Seconds. Only the test of an expired ticket has tickets.
    ttl: 1,
  });
  await panel.start();
  gateway = await start({
    "auth.anonymous": "false",
    "auth.keys.panel.sha256": createHash("sha256").update(KEY).digest("hex"),
    "auth.jwt.algorithm": "HS256",
    "auth.jwt.key": TICKET_SECRET,
    "auth.forward_url": `${panel.origin}/upload-auth`,
    "auth.forward.prefix": "users/",
    "auth.forward.client_paths": "true",
    "auth.forward.quota": "users",
    "quota.users.bytes_per_day": QUOTA,
    "cors.origins": panel.origin,
    "cos.via": "api",
    "hooks.stored_url": `${panel.origin}/events`,
    "hooks.secret": `whsec_${HOOK_KEY}`,
    "links.access": "authenticated",
    "links.presets.thumb": "imageMogr2/auto-orient/thumbnail/200x",
    "telemetry.log": "info,tcb_upload_gateway=trace",
    "upload.allowed_types": "image/*",
  });
  // Pages reach the gateway through a proxy that can break; it is of the same host, so that it gets their cookies.
  between = await proxy(gateway.url);
  panel.gateway = { public: between.url, url: gateway.url, key: KEY };
});

after(async () => {
  await browser?.close();
  await Promise.all([between?.close(), gateway?.stop(), panel?.rows.open && panel.stop()]);
  if (folder) await rm(folder, { recursive: true, force: true });
});

beforeEach(() => between.reset());

/** A page of a user who has just logged in. */
async function logIn(user, at = "photos") {
  const page = await browser.open();
  page.sent = [];
  page.on("request", (request) => request.url().startsWith(between.url) && page.sent.push(request));
  await page.goto(`${panel.origin}/login`);
  await page.getByLabel("Name").fill(user);
  await page.getByLabel("Password").fill(PASSWORDS[user]);
  await page.getByRole("button", { name: "Log in" }).click();
  await page.waitForURL("**/photos");
  const [{ value }] = await page.context().cookies();
  // `s:`, the session's id, `.` and its signature.
  const [id, signature] = decodeURIComponent(value).slice(2).split(/\.(.*)/);
  secrets.push(value, id, signature);
  page.cookie = `panel=${value}`;
  if (at !== "photos") await page.goto(`${panel.origin}/${at}`);
  return page;
}

/** A test on the page of a user of its own; the page must have had no script error. */
function panelTest(name, user, body, at) {
  test(name, async () => {
    const page = await logIn(user, at);
    try {
      await body(page);
      assert.deepEqual(page.faults, []);
    } finally {
      await page.context().close();
    }
  });
}

const choose = (page, ...given) => page.locator("#choose").setInputFiles(given.map(({ path }) => path));
const rows = (page) => page.locator("#photos li");

/** Waits until the page shows so many rows, and returns the panel's. */
async function shows(page, user, count) {
  await page.waitForFunction((count) => document.querySelectorAll("#photos li").length === count, count);
  const photos = panel.photos(user);
  assert.equal(photos.length, count);
  return photos;
}

/** Waits for the message of this code, and returns it. */
async function told(page, code) {
  await page.waitForFunction(() => document.querySelector("#message").textContent);
  const message = page.locator("#message");
  const text = await message.innerText();
  assert.equal(await message.getAttribute("data-code"), code, text);
  return text;
}

const objectsOf = async (user) => (await gateway.objects()).filter(({ key }) => key.startsWith(`users/${user}/`));

/** The user's objects and rows are the same, and their bytes are those of the files given. */
async function assertStored(user, ...given) {
  const [objects, photos] = [await objectsOf(user), panel.photos(user)];
  assert.deepEqual(objects.map(({ key }) => key).sort(), photos.map(({ path }) => path));
  assert.deepEqual(photos.map(({ name }) => name).sort(), given.map(({ name }) => name).sort());
  for (const { path, name, size } of photos) {
    const { content } = given.find((file) => file.name === name);
    assert.equal(size, content.length);
    assert.ok(content.equals(await gateway.object(path)), `${path} is another file`);
  }
  return photos;
}

/** Uploads photos by the page, and waits for their rows. */
async function upload(page, user, ...given) {
  await choose(page, ...given);
  await shows(page, user, given.length);
  return assertStored(user, ...given);
}

const photo = (name, seed, bytes = 0) => picture(`${name}.png`, bytes, seed);

panelTest("three photos by the cookie alone, shown as thumbnails; one is deleted with its row", "alice", async (page) => {
  const given = await Promise.all(["one", "two", "three"].map((name, index) => photo(name, index + 1)));
  await upload(page, "alice", ...given);
  for (const image of await rows(page).locator("img").all()) {
    const size = await image.evaluate(async (image) => {
      await image.decode();
      return [image.naturalWidth, image.naturalHeight];
    });
    assert.deepEqual(size, [200, 125]);
  }
  const posts = page.sent.filter((request) => request.method() === "POST");
  assert.equal(posts.length, 3);
  for (const request of page.sent) {
    const { authorization, cookie } = await request.allHeaders();
    assert.equal(authorization, undefined);
    if (request.method() !== "OPTIONS") assert.equal(cookie, page.cookie);
    assert.doesNotMatch(request.url(), /ticket|token|key=/);
  }
  assert.ok(!(await page.content()).includes(KEY));

  await page.getByRole("button", { name: "Delete two.png" }).click();
  await shows(page, "alice", 2);
  await assertStored("alice", given[0], given[2]);
  assert.equal(await page.locator("#message").textContent(), "");
});

panelTest("a user is told of the quota, and nothing is stored", "bob", async (page) => {
  const first = await photo("first", 4, 10 * MiB);
  await upload(page, "bob", first);
  await choose(page, await photo("second", 5, 7 * MiB));
  assert.match(await told(page, "daily_quota_exceeded"), /quota.*16(777216|\.0 MiB| MiB)/s);
  await gateway.idle();
  await gateway.aborted();
  await assertStored("bob", first);
  // Another user has a quota of its own.
  const other = await logIn("carol");
  await upload(other, "carol", await photo("second", 5, 7 * MiB));
  await other.context().close();
});

panelTest("another user's photo is out of reach", "dave", async (page) => {
  const given = await photo("daves", 6);
  const [{ path }] = await upload(page, "dave", given);
  const own = await page.request.get(`${gateway.url}/v1/files/${path}`, { maxRedirects: 0 });
  assert.equal(own.status(), 302);

  const other = await logIn("erin");
  const tus = { "tus-resumable": "1.0.0", "upload-length": "4", "upload-metadata": `path ${btoa(path)}` };
  const calls = [
    ["GET", `files/${path}`],
    ["GET", `files/${path}?preset=thumb`],
    ["GET", `files/${path}?info=1`],
    ["PUT", `files/${path}`, { "content-type": "image/png" }, "over"],
    ["PUT", `files/users/erin/../dave/${path.split("/").pop()}`, { "content-type": "image/png" }, "over"],
    ["PUT", `files/users%2Ferin%2F..%2Fdave%2Fnew.png`, { "content-type": "image/png" }, "over"],
    ["DELETE", `files/${path}`],
    ["POST", "uploads", tus],
  ];
  for (const [method, target, headers, body] of calls) {
    const [status, problem] = await other.evaluate(async ([url, options]) => {
      const response = await fetch(url, { credentials: "include", ...options });
      return [response.status, await response.json()];
    }, [`${between.url}/v1/${target}`, { method, headers, body }]);
    assert.ok([400, 403].includes(status), `${method} ${target}: ${status}`);
    if (!target.includes("..")) assert.equal(problem.code, "path_not_allowed", `${method} ${target}`);
  }
  // Calls of several files refuse each of them.
  for (const call of ["delete", "download-links", "links"]) {
    const results = await other.evaluate(async ([url, body]) => {
      const headers = { "content-type": "application/json" };
      const response = await fetch(url, { method: "POST", credentials: "include", headers, body });
      return response.json();
    }, [`${between.url}/v1/${call}`, JSON.stringify({ files: [path] })]);
    const code = results.code ?? results.files[0].error.code;
    assert.ok(["path_not_allowed", "not_allowed"].includes(code), `${call}: ${JSON.stringify(results)}`);
  }
  await shows(other, "erin", 0);
  assert.deepEqual(await objectsOf("erin"), []);
  await assertStored("dave", given);
  await other.context().close();
});

panelTest("a page of a foreign origin cannot use the cookie, and the panel's own can", "grace", async (page) => {
  const trap = await foreign(gateway.url);
  try {
    await page.goto(trap.url);
    const [fetched] = await Promise.all([
      page.waitForResponse(trap.target),
      page.evaluate((url) => {
        const body = new FormData();
        body.append("file", new Blob(["x"], { type: "image/png" }), "x.png");
        return fetch(url, { method: "POST", credentials: "include", mode: "no-cors", body });
      }, trap.target),
    ]);
    await choose(page, await photo("foreign", 7));
    const [posted] = await Promise.all([page.waitForResponse(trap.target), page.locator("#win").click()]);
    assert.deepEqual([fetched.status(), posted.status()], [403, 403]);
    assert.deepEqual(trap.cookies, [page.cookie, page.cookie]);
    await page.waitForFunction(() => document.body.innerText.includes("origin_not_allowed"));
    await gateway.idle();
    await assertStored("grace");
  } finally {
    trap.close();
  }
  await page.goto(`${panel.origin}/photos`);
  await upload(page, "grace", await photo("own", 8));
});

panelTest("an editor that is left open past its ticket's end uploads with another ticket", "frank", async (page) => {
  await page.waitForFunction(() => document.documentElement.dataset.state === "ready");
  const [first] = panel.tickets;
  const deadline = Date.now() + 20_000;
  let refused;
  do {
    assert.ok(Date.now() < deadline, "the ticket never expires");
    const options = { method: "PUT", headers: { "content-type": "text/plain" }, body: "x" };
    // Its type is refused while the ticket is valid.
    refused = await fetch(`${gateway.url}/v1/files/x.txt?ticket=${first}`, options);
  } while (refused.status !== 401);
  const { code, detail } = await refused.json();
  assert.equal(code, "unauthenticated");
  assert.match(detail, /expired/);

  // However long the upload takes, the next one does not expire.
  panel.ttl = 600;
  const given = await photo("edited", 9);
  await choose(page, given);
  await page.waitForFunction(() => ["stored", "message"].some((id) => document.getElementById(id).textContent));
  assert.equal(await page.locator("#message").textContent(), "");
  const stored = await page.locator("#stored").textContent();
  const statuses = [];
  for (const request of page.sent.filter((request) => request.method() === "POST")) {
    const { authorization, cookie } = await request.allHeaders();
    assert.equal(cookie, undefined);
    statuses.push([authorization.slice(7), (await request.response()).status()]);
  }
  assert.deepEqual(statuses, [[first, 401], [panel.tickets[1], 201]]);
  assert.equal(panel.tickets.length, 2);
  await page.goto(`${panel.origin}/photos`);
  await shows(page, "frank", 1);
  assert.deepEqual((await assertStored("frank", given)).map(({ path }) => path), [stored]);
}, "editor");

panelTest("a user who has logged out is told to log in", "judy", async (page) => {
  const given = await photo("before", 10);
  // The gateway has a cached decision for this user.
  await upload(page, "judy", given);
  await page.locator("#logout").click();
  await page.waitForFunction(() => document.body.dataset.state === "logged-out");
  await choose(page, await photo("after", 11));
  assert.match(await told(page, "unauthenticated"), /log in again/i);
  await gateway.idle();
  await assertStored("judy", given);
});

panelTest("while the panel is down its page is told so, without blame; afterwards the upload works", "heidi", async (page) => {
  const given = await photo("later", 12);
  await panel.stop();
  await choose(page, given);
  const text = await told(page, "credential_unavailable");
  assert.doesNotMatch(text, /log in|password|session|key|not allowed|127\.0\.0\.1/i, text);
  const refused = page.sent.findLast((request) => request.method() === "POST");
  const response = await refused.response();
  assert.equal(response.status(), 503);
  assert.ok(Number(await response.headerValue("retry-after")) > 0);
  assert.deepEqual(await objectsOf("heidi"), []);

  await panel.start();
  // The session is still there, and the page connects to the panel again.
  await upload(page, "heidi", given);
  assert.equal(await page.locator("#message").textContent(), "");
});

panelTest("a resumable upload goes on over a cut, and its row appears once", "alice", async (page) => {
  const before = await objectsOf("alice");
  const given = await photo("large", 13, 9 * MiB);
  page.sent.length = 0;
  const [bytes, cuts] = [between.counted.bytes, between.counted.cuts];
  between.cutAfter(5 * MiB);
  await page.locator("#large").setInputFiles(given.path);
  const photos = await shows(page, "alice", before.length + 1);
  assert.equal(between.counted.cuts - cuts, 1);
  // Again: of the piece that was cut off, and of the same piece once more, which the browser may repeat by itself. Where the
  // gateway takes that, the page does not hear of the cut, and need not ask for the offset.
  assert.ok(between.counted.bytes - bytes < 9 * MiB + 4 * MiB, `${between.counted.bytes - bytes} bytes`);
  const methods = page.sent.map((request) => request.method());
  assert.equal(methods.filter((method) => method === "POST").length, 1);
  const answered = [];
  for (const request of page.sent.filter((request) => request.method() === "PATCH")) {
    // Of a request that was cut off, the browser does not tell which cookies it has sent.
    if (!await request.response()) continue;
    const { authorization, cookie } = await request.allHeaders();
    answered.push([authorization, cookie]);
  }
  assert.ok(answered.length > 0);
  answered.forEach((sent) => assert.deepEqual(sent, [undefined, page.cookie]));
  const large = photos.filter(({ name }) => name === "large.png");
  assert.equal(large.length, 1);
  assert.ok(given.content.equals(await gateway.object(large[0].path)), "the file is another one");
  assert.equal((await objectsOf("alice")).length, before.length + 1);
  const told = panel.events.filter(({ type, data }) => type === "file.stored" && data.path === large[0].path);
  assert.equal(new Set(told.map(({ id }) => id)).size, 1);
});

test("an event with another signature, or repeated, changes nothing", async () => {
  const before = ["alice", "mallory"].map((user) => panel.photos(user));
  const [id, now] = ["msg-of-a-stranger", new Date()];
  const data = { path: "users/mallory/x.png", sub: "mallory", name: "x.png", size: 1, upload_id: "x" };
  const body = JSON.stringify({ type: "file.stored", data });
  const send = (secret, id, body) =>
    fetch(`${panel.origin}/events`, {
      method: "POST",
      headers: {
        "content-type": "application/json",
        "webhook-id": id,
        "webhook-timestamp": String(Math.floor(now / 1000)),
        "webhook-signature": new Webhook(secret).sign(id, now, body),
      },
      body,
    });
  assert.equal((await send(`whsec_${randomBytes(32).toString("base64")}`, id, body)).status, 401);
  // The event of the photo that was deleted arrives again.
  const gone = panel.events.find(({ type, data }) => type === "file.stored" && data.name === "two.png");
  const again = JSON.stringify({ type: gone.type, data: gone.data });
  assert.equal((await send(`whsec_${HOOK_KEY}`, gone.id, again)).status, 204);
  assert.deepEqual(["alice", "mallory"].map((user) => panel.photos(user)), before);
});

test("no secret is in a line of the gateway's log", () => {
  const log = gateway.log.join("\n");
  for (const user of ["alice", "heidi"]) assert.ok(log.includes(user), `${user} is not in the log`);
  const signatures = panel.events.map(({ signature }) => signature.split(",")[1]);
  const all = [...secrets, ...panel.tickets, ...signatures];
  assert.ok(all.length > 30 && all.every(({ length }) => length > 10));
  for (const secret of all) assert.ok(!log.includes(secret), `${secret} is in the log`);
});
