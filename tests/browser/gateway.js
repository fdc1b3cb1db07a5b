// The real binary in its sandbox, and the sandbox's control calls.

import { spawn } from "node:child_process";
import { createHash, createHmac } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const BINARY =
  process.env.GATEWAY_BINARY ?? fileURLToPath(new URL("../../target/release/tcb-upload-gateway", import.meta.url));

/** The key of the only client, `panel`, of a gateway started with `keyed`. */
export const KEY = "panel-key-for-browser-tests";

const SECRET = "a-secret-for-the-tickets-of-browser-tests";

/** Settings of a gateway that accepts only the key `panel` and tickets. */
export const keyed = {
  "auth.anonymous": "false",
  "auth.keys.panel.sha256": createHash("sha256").update(KEY).digest("hex"),
  "auth.jwt.algorithm": "HS256",
  "auth.jwt.key": SECRET,
};

/** A ticket that is valid for a few minutes; `narrowed` are further claims. */
export function ticket(narrowed = {}) {
  const encode = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const claims = { sub: "author", exp: Math.floor(Date.now() / 1000) + 600, ...narrowed };
  const signed = `${encode({ alg: "HS256", typ: "JWT" })}.${encode(claims)}`;
  return `${signed}.${createHmac("sha256", SECRET).update(signed).digest("base64url")}`;
}

/** Starts a gateway with these settings (`{ "upload.max_file_size": "8MiB" }`), and waits until it listens. */
export async function start(settings = {}, options = []) {
  const folder = await mkdtemp(join(tmpdir(), "gateway-browser-"));
  const env = { GATEWAY__SERVER__BIND: "127.0.0.1:0", GATEWAY__SANDBOX__DATA: join(folder, "objects") };
  for (const [key, value] of Object.entries(settings)) {
    env[`GATEWAY__${key.toUpperCase().replaceAll(".", "__")}`] = String(value);
  }
  const child = spawn(BINARY, options, { env, cwd: folder, stdio: ["ignore", "pipe", "inherit"] });
  const ended = new Promise((resolve) => child.once("exit", resolve));
  const gateway = new Gateway();
  const log = [];
  await new Promise((resolve, reject) => {
    child.once("error", reject);
    ended.then(() => reject(new Error(`the gateway ended:\n${log.join("\n")}`)));
    createInterface({ input: child.stdout }).on("line", (line) => {
      log.push(line);
      gateway.control = line.match(/WeChat on (http:\/\/[\d.:]+)/)?.[1] ?? gateway.control;
      gateway.url = line.match(/listening on (http:\/\/[\d.:]+)/)?.[1] ?? gateway.url;
      if (gateway.url) resolve();
    });
  });
  gateway.log = log;
  /** Tells it to shut down. */
  gateway.terminate = () => child.kill("SIGTERM");
  gateway.stop = async () => {
    child.kill("SIGKILL");
    await ended;
    await rm(folder, { recursive: true, force: true });
  };
  return gateway;
}

class Gateway {
  async #call(method, call, body) {
    const response = await fetch(`${this.control}/_sandbox/${call}`, { method, body: body && JSON.stringify(body) });
    if (!response.ok) throw new Error(`${method} ${call}: ${response.status} ${await response.text()}`);
    return response;
  }

  /** Clears objects, faults and counts. */
  reset() {
    return this.#call("POST", "reset");
  }

  /** Sets faults: `[{ stage: "cos", fault: "status", status: 403, code: "AccessDenied" }]`. */
  faults(rules) {
    return this.#call("PUT", "faults", rules);
  }

  /** The stored objects: `[{ key, size, content_type, … }]`. */
  async objects() {
    return (await (await this.#call("GET", "state")).json()).objects;
  }

  /** Waits until COS has nothing of a file that was not completed: no parts, and no object of the gateway's own. */
  aborted() {
    const isOwn = ({ key }) => key.startsWith(".resumable/");
    return this.#until(({ multipart_uploads, objects }) => multipart_uploads.length === 0 && !objects.some(isOwn));
  }

  /** Waits until COS has no object. */
  emptied() {
    return this.#until(({ objects }) => objects.length === 0);
  }

  /** Waits until COS has a file. */
  hasFile() {
    return this.#until(({ objects }) => objects.some(({ key }) => !key.startsWith(".resumable/")));
  }

  /** Waits until COS has parts of this many bytes. */
  hasParts(bytes) {
    const sizes = (uploads) => uploads.flatMap(({ parts }) => parts.map(({ size }) => size));
    return this.#until((state) => sizes(state.multipart_uploads).reduce((one, other) => one + other, 0) >= bytes);
  }

  async #until(condition) {
    const deadline = Date.now() + 30_000;
    for (;;) {
      const state = await (await this.#call("GET", "state")).json();
      if (condition(state)) return;
      if (Date.now() > deadline) throw new Error(`COS has ${JSON.stringify(state)}`);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }

  async object(key) {
    return Buffer.from(await (await this.#call("GET", `object?key=${encodeURIComponent(key)}`)).arrayBuffer());
  }

  /** Waits until COS has received this many bytes of some file. */
  received(bytes) {
    return this.#call("GET", `wait?key=&prefix=1&received=${bytes}&timeout_ms=30000`);
  }

  /** Waits until no upload to COS is in flight. */
  idle() {
    return this.#call("GET", "wait?idle=1&timeout_ms=30000");
  }
}
