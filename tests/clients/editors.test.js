// Editors and widgets of the README in a real browser: the code that stands there, bundled with the real packages.

import assert from "node:assert/strict";
import { createServer, request } from "node:http";
import { readFile, writeFile } from "node:fs/promises";
import { after, before, beforeEach, describe, test } from "node:test";
import { fileURLToPath } from "node:url";

import { build } from "esbuild";

import { launch } from "../browser/browser.js";
import { MiB, picture } from "../browser/files.js";
import { KEY, keyed, start } from "../browser/gateway.js";
import { Matrix } from "../browser/matrix.js";

const HERE = fileURLToPath(new URL("./", import.meta.url));
const BROWSER = fileURLToPath(new URL("../browser/", import.meta.url));
const README = await readFile(new URL("../../README.md", import.meta.url), "utf8");
const LIMIT = 8 * MiB;

/** The code below this summary. */
function code(summary) {
  const details = README.split(`<summary>${summary}</summary>`)[1] ?? assert.fail(`no ${summary}`);
  return details.split("```")[1].replace(/^.*\n/, "");
}

const stored = (page, image) => page.locator(image).first();
const choose = (input) => (page, paths) => page.locator(input).first().setInputFiles(paths);

/** For those that tell of failures by alert(). */
function alerted(page) {
  page.alerted = page.waitForEvent("dialog").then(async (dialog) => {
    await dialog.dismiss();
    return dialog.message();
  });
  page.alerted.catch(() => {});
}

const CLIENTS = {
  "A page of your own: fetch": {
    html: `<input type="file"><img id="image"><p id="error"></p>`,
    around: (code) => `
      const input = document.querySelector("input"), image = document.querySelector("#image");
      input.onchange = () => send().catch((error) => (document.querySelector("#error").textContent = error.message));
      async function send() { ${code} }`,
    give: choose("input"),
    image: (page) => stored(page, "#image[src]"),
    said: (page) => page.locator("#error:not(:empty)").innerText(),
  },
  "Element Plus": {
    html: `<div id="app"></div>`,
    around: (code) => `
      import { createApp, ref } from "vue/dist/vue.esm-bundler.js";
      import ElementPlus from "element-plus";
      const template = ${JSON.stringify(`${code}<img id="image" :src="url" v-if="url"><p id="error">{{ message }}</p>`)};
      createApp({ template, setup: () => ({ ticket, url: ref(""), message: ref("") }) }).use(ElementPlus).mount("#app");`,
    give: choose("input[type=file]"),
    image: (page) => stored(page, "#image"),
    said: (page) => page.locator("#error:not(:empty)").innerText(),
  },
  Uppy: {
    html: `<div id="uppy"></div>`,
    async give(page, paths) {
      await choose(".uppy-Dashboard-input")(page, paths);
      await page.locator(".uppy-StatusBar-actionBtn--upload").click();
    },
    done: (page) => page.locator(".uppy-StatusBar.is-complete").waitFor(),
    /** The words behind "Failed to upload" show on hovering over the question mark. */
    said: (page) => page.locator(".uppy-Informer [aria-label]").first().getAttribute("aria-label"),
  },
  "wangEditor 5": {
    html: `<div id="toolbar"></div><div id="editor" style="height: 300px"></div>`,
    around: (code) => `
      import { createEditor, createToolbar } from "@wangeditor/editor";
      const editorConfig = { MENU_CONF: {} };
      ${code}
      const editor = createEditor({ selector: "#editor", html: "<p>An article</p>", config: editorConfig });
      createToolbar({ editor, selector: "#toolbar", config: { toolbarKeys: ["uploadImage"] } });`,
    async give(page, paths) {
      // Its menu is dead until the cursor is in the text.
      await page.locator("[data-slate-editor] p").click();
      alerted(page);
      const asked = page.waitForEvent("filechooser");
      await page.locator("[data-menu-key=uploadImage]:not(.disabled)").click();
      await (await asked).setFiles(paths);
    },
    image: (page) => stored(page, "[data-slate-editor] img"),
    said: (page) => page.alerted,
  },
  "CKEditor 5": {
    html: `<div id="editor"></div>`,
    async give(page, paths) {
      alerted(page);
      await choose("input[type=file]")(page, paths);
    },
    image: (page) => stored(page, ".ck-content img[src*='/v1/files/']"),
    said: (page) => page.alerted,
  },
  "Editor.js": {
    html: `<div id="editor"></div>`,
    async give(page, paths) {
      await page.locator(".ce-paragraph").first().click();
      await page.locator(".ce-toolbar__plus").click();
      const asked = page.waitForEvent("filechooser");
      await page.locator("[data-item-name=image]").first().click();
      await (await asked).setFiles(paths);
    },
    image: (page) => stored(page, ".image-tool__image-picture[src*='/v1/files/']"),
    /** It has the same words for everything. */
    said: (page) => page.locator(".cdx-notify--error").innerText(),
    words: /Couldn’t upload image/,
  },
  Vditor: {
    html: `<div id="editor"></div>`,
    async give(page, paths) {
      await page.locator(".vditor-ir .vditor-reset").click();
      await choose(".vditor-toolbar input[type=file]")(page, paths);
    },
    image: (page) => stored(page, ".vditor-reset img[src*='/v1/files/']"),
    /** While it uploads it says so in the same place. */
    said: (page) => page.locator(".vditor-tip--show").filter({ hasNotText: "上传中" }).innerText(),
  },
  UEditor: {
    html: `<script id="editor" type="text/plain"></script>
      <script src="/ueditor/ueditor.config.js"></script><script src="/ueditor/ueditor.all.js"></script>`,
    // It is a script of the page, on the gateway's own origin, without a key.
    sameOrigin: true,
    async give(page, paths) {
      const button = page.frameLocator(".edui-for-simpleupload iframe").locator("input[type=file]");
      await button.setInputFiles(paths);
    },
    image: (page) => page.frameLocator("#ueditor_0").locator("img[src*='/v1/files/']").first(),
    said: (page) => page.locator(".edui-message-type-error .edui-message-content").first().innerText(),
  },
  FilePond: {
    html: `<form><input type="file" name="photo"></form>`,
    give: choose("input[type=file]"),
    /** It shows its own preview, and keeps the id for the form. */
    done: async (page) => {
      await page.locator("[data-filepond-item-state=processing-complete]").waitFor();
      return page.locator("input[type=hidden][name=photo]").inputValue();
    },
    said: (page) => page.locator("[data-filepond-item-state=processing-error] .filepond--file-status-main").innerText(),
  },
  Dropzone: {
    html: `<div id="dropzone" class="dropzone"></div>`,
    give: choose(".dz-hidden-input"),
    done: (page) => page.locator(".dz-success").waitFor(),
    said: (page) => page.locator(".dz-error [data-dz-errormessage]").innerText(),
  },
};

let browser, pages, open, guarded;
const matrix = new Matrix("editor");

before(async () => {
  [browser, pages] = await Promise.all([launch(), serve()]);
  const settings = { "cors.origins": pages.origin, "upload.max_file_size": LIMIT };
  [open, guarded] = await Promise.all([start(settings), start({ ...settings, ...keyed })]);
});

after(async () => {
  await Promise.all([browser?.close(), pages?.close(), open?.stop(), guarded?.stop()]);
  await writeFile(browser.output("editors.md"), matrix.table());
  console.log(`\n${matrix.table()}`);
});

beforeEach(() => Promise.all([open.reset(), guarded.reset()]));

/** The web panel's server: what is put into `pages`, UEditor's files, and the gateway behind `/v1`, as nginx has it. */
async function serve() {
  const contents = new Map();
  const server = createServer(async (asked, reply) => {
    const { pathname } = new URL(asked.url, "http://pages");
    if (pathname.startsWith("/v1/")) {
      const { hostname, port } = new URL(open.url);
      // Its name for itself: links in replies are of this origin.
      const passed = request({ hostname, port, path: asked.url, method: asked.method, headers: asked.headers });
      passed.on("response", (answer) => answer.pipe(reply.writeHead(answer.statusCode, answer.headers)));
      passed.on("error", () => reply.destroy());
      asked.pipe(passed);
      return;
    }
    // Two that load parts of themselves from where they lie.
    const folder = { ueditor: HERE, node_modules: BROWSER }[pathname.split("/")[1]];
    const body = contents.get(pathname) ?? (folder && (await readFile(`${folder}${pathname}`).catch(() => undefined)));
    const type = /\.js$/.test(pathname) ? "text/javascript" : /\.css$/.test(pathname) ? "text/css" : "text/html";
    reply.writeHead(body ? 200 : 404, { "content-type": `${type}; charset=utf-8` }).end(body ?? "");
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const close = () => (server.closeAllConnections(), new Promise((resolve) => server.close(resolve)));
  return { origin: `http://localhost:${server.address().port}`, contents, close };
}

/** The page of a client, made of the README's code. */
async function made(summary, { html, around = (code) => code, sameOrigin }, gateway, key) {
  const script = `const ticket = ${JSON.stringify(key)};\n${around(code(summary))}`
    .replaceAll("https://files.example.com", gateway.url);
  const built = await build({
    stdin: { contents: script, resolveDir: HERE, loader: "js" },
    bundle: true,
    write: false,
    outdir: "/",
    loader: { ".svg": "dataurl" },
    nodePaths: [`${BROWSER}node_modules`],
    define: { "process.env.NODE_ENV": '"production"' },
    logLevel: "error",
  });
  for (const { path, text } of built.outputFiles) pages.contents.set(path.replace("stdin", "page"), text);
  pages.contents.set("/page", `<!doctype html><html lang="en"><meta charset="utf-8"><link rel="icon" href="data:,">
    <link rel="stylesheet" href="/page.css"><body>${html}<script src="/page.js"></script></body></html>`);
  const page = await browser.open({ viewport: { width: 1000, height: 700 } });
  // Vditor loads parts of itself from there.
  await page.route("https://unpkg.com/vditor@*/**", (route) =>
    route.fulfill({ path: `${HERE}node_modules/vditor/${route.request().url().split(/vditor@[^/]+\//)[1]}` }));
  await page.goto(`${pages.origin}/page`);
  return page;
}

for (const [summary, client] of Object.entries(CLIENTS)) {
  describe(summary, () => {
    const run = (label, body) => test(label, () => matrix.cell(summary, label, body));
    // On the panel's own origin nobody needs a key.
    const [gateway, key] = client.sameOrigin ? [() => open, ""] : [() => guarded, KEY];
    const shot = (page, label) =>
      page.screenshot({ path: browser.output(`readme-${summary.replaceAll(/\W+/g, "-")}-${label}.png`) });

    async function refused(page, words) {
      assert.match(await client.said(page), client.words ?? words);
      await gateway().idle();
      assert.deepEqual(await gateway().objects(), []);
    }

    run("success", async () => {
      const page = await made(summary, client, gateway(), key);
      const given = await picture("picture.png");
      await client.give(page, given.path);
      if (client.image) {
        const image = client.image(page);
        await image.waitFor();
        const width = await image.evaluate(async (image) => (await image.decode(), image.naturalWidth));
        assert.equal(width, given.width);
      } else {
        await client.done(page);
      }
      await shot(page, "success");
      const objects = await gateway().objects();
      assert.equal(objects.length, 1);
      assert.ok(given.content.equals(await gateway().object(objects[0].key)), "what is stored is what was given");
    });

    run("too large", async () => {
      const page = await made(summary, client, gateway(), key);
      await client.give(page, (await picture("large.png", 24 * MiB)).path);
      await refused(page, /larger than/);
      await shot(page, "too-large");
    });

    run("server error", async () => {
      await gateway().faults([{ stage: "cos", fault: "status", status: 403, code: "AccessDenied" }]);
      const page = await made(summary, client, gateway(), key);
      await client.give(page, (await picture("picture.png")).path);
      await refused(page, /COS answered 403/);
    });

    if (!client.sameOrigin) {
      run("wrong key", async () => {
        const page = await made(summary, client, gateway(), "wrong");
        await client.give(page, (await picture("picture.png")).path);
        await refused(page, /the key is not known/);
      });
    }
  });
}

describe("what only one of them does", () => {
  test("FilePond takes an upload back", async () => {
    const client = CLIENTS.FilePond;
    const page = await made("FilePond", client, guarded, KEY);
    await client.give(page, (await picture("picture.png")).path);
    assert.match(await client.done(page), /^cloud:\/\//);
    assert.equal((await guarded.objects()).length, 1);
    const reply = page.waitForResponse((reply) => reply.request().method() === "DELETE");
    await page.locator(".filepond--action-revert-item-processing").click();
    assert.equal((await reply).status(), 204);
    assert.deepEqual(await guarded.objects(), []);
  });

  test("Vditor shows the files that are stored beside the one that is not", async () => {
    const client = CLIENTS.Vditor;
    const page = await made("Vditor", client, guarded, KEY);
    const names = ["one.png", "large.png", "two.png"];
    const files = await Promise.all(names.map((name, at) => picture(name, name === "large.png" ? 9 * MiB : 1000, at + 1)));
    await client.give(page, files.map(({ path }) => path));
    await page.locator(".vditor-tip--show").getByText("larger than").waitFor();
    await page.waitForFunction(() => document.querySelectorAll(".vditor-ir img[src*='/v1/files/']").length === 2);
    assert.equal((await guarded.objects()).length, 2);
  });

  test("UEditor uploads what is pasted, with its field behind the file", async () => {
    const page = await made("UEditor", CLIENTS.UEditor, open, "");
    const { content } = await picture("picture.png");
    await page.frameLocator(".edui-for-simpleupload iframe").locator("input[type=file]").waitFor({ state: "attached" });
    await page.frameLocator("#ueditor_0").locator("body").evaluate((body, base64) => {
      const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
      const clipboardData = new DataTransfer();
      clipboardData.items.add(new File([bytes], "image.png", { type: "image/png" }));
      body.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true, cancelable: true }));
    }, content.toString("base64"));
    await CLIENTS.UEditor.image(page).waitFor();
    assert.equal((await open.objects()).length, 1);
  });
});
