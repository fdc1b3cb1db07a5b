// Times a new user's first upload: from cloning the repository to the first picture shown in the browser, with the two
// commands at the top of the README. `node first-image.js [REPOSITORY]`; not a test, because it builds everything.

import { spawn } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

import { drop, launch } from "./browser.js";
import { picture } from "./files.js";

const repository = process.argv[2] ?? fileURLToPath(new URL("../../", import.meta.url));
const folder = await mkdtemp(join(tmpdir(), "newcomer-"));
const began = performance.now();
const since = () => `${((performance.now() - began) / 1000).toFixed(1)} s`;

const clone = spawn("git", ["clone", "--quiet", repository, "gateway"], { cwd: folder, stdio: "inherit" });
await new Promise((resolve, reject) => clone.on("exit", (code) => (code ? reject(new Error("git")) : resolve())));
console.log(`cloned               ${since()}`);

// A separate port, and no earlier build.
const { CARGO_TARGET_DIR, ...env } = process.env;
const gateway = spawn("cargo", ["run", "--release"], {
  cwd: join(folder, "gateway"),
  env: { ...env, GATEWAY__SERVER__BIND: "127.0.0.1:0", GATEWAY__SANDBOX__DATA: join(folder, "objects") },
  stdio: ["ignore", "pipe", "ignore"],
  // A process group for cargo and its children, which are stopped together.
  detached: true,
});
const url = await new Promise((resolve, reject) => {
  gateway.on("exit", () => reject(new Error("the gateway ended")));
  createInterface({ input: gateway.stdout }).on("line", (line) => {
    const listening = line.match(/listening on (http:\/\/[\d.:]+)/);
    if (listening) resolve(listening[1]);
  });
});
console.log(`built and listening  ${since()}`);

const browser = await launch();
const page = await browser.open({ viewport: { width: 1280, height: 860 } });
await page.goto(url);
await page.locator("[role=tab]").first().waitFor();
console.log(`console open         ${since()}`);
await drop(page, "#drop", (await picture("first.png")).path);
await page.waitForFunction(() => {
  const image = document.querySelector(".thumbnail img");
  return image?.src.includes("/v1/files/") && image.naturalWidth;
});
console.log(`first image visible  ${since()}, from its stable URL`);

gateway.removeAllListeners("exit");
process.kill(-gateway.pid);
await browser.close();
await rm(folder, { recursive: true, force: true });
