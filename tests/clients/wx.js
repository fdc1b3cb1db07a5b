// A stand-in for `wx` according to its documentation, since no mini program can run here.
//
// `uploadFile` posts one form with the fields of `formData` and the file. `request` knows no PATCH, sends an ArrayBuffer as
// it is, and parses JSON in responses. For both, any status is a success. `readFile` with a position gives an ArrayBuffer.

import { openAsBlob, promises, statSync } from "node:fs";
import { request as http } from "node:http";
import { basename } from "node:path";

const ticket = process.env.GATEWAY_KEY;
const METHODS = ["OPTIONS", "GET", "HEAD", "POST", "PUT", "DELETE", "TRACE", "CONNECT"];
const wx = {
  uploadFile({ url, filePath, name, header, formData = {}, success, fail }) {
    openAsBlob(filePath)
      .then(async (file) => {
        const form = new FormData();
        form.append(name, file, basename(filePath));
        Object.entries(formData).forEach(([name, value]) => form.append(name, value));
        const reply = await fetch(url, { method: "POST", headers: header, body: form });
        success({ statusCode: reply.status, data: await reply.text() });
      })
      .catch((error) => fail({ errMsg: `uploadFile:fail ${error.message}` }));
  },
  request({ url, data, header = {}, timeout = 60_000, method = "GET", success, fail }) {
    if (!METHODS.includes(method)) return fail({ errMsg: "request:fail invalid method" });
    const isBytes = data instanceof ArrayBuffer;
    if (data !== undefined && !isBytes) throw new Error("only ArrayBuffers are sent here");
    const given = Object.keys(header).map((name) => name.toLowerCase());
    const headers = given.includes("content-type") ? header : { "content-type": "application/json", ...header };
    const failed = (error) => fail({ errMsg: `request:fail ${error.message}` });
    const task = http(url, { method, headers: { ...headers, "content-length": data?.byteLength ?? 0 } }, (response) => {
      let text = "";
      response.setEncoding("utf8");
      response.on("data", (chunk) => (text += chunk));
      response.on("error", failed);
      response.on("end", () => {
        if (!response.complete) return failed(new Error("socket hang up"));
        let data = text;
        try {
          data = JSON.parse(text);
        } catch {
          // Another response than JSON is given as text.
        }
        // As devices do that give names as they like.
        const header = Object.fromEntries(Object.entries(response.headers).map(([name, value]) => [shuffled(name), value]));
        success({ statusCode: response.statusCode, header, data, errMsg: "request:ok" });
      });
    });
    task.setTimeout(timeout, () => task.destroy(new Error("timeout")));
    task.on("error", failed);
    task.end(isBytes ? new Uint8Array(data) : undefined);
  },
  getFileSystemManager: () => ({
    readFile({ filePath, position = 0, length, success, fail }) {
      const reading = async () => {
        const bytes = await promises.readFile(filePath);
        if (position < 0 || position > bytes.length - 1) throw new Error("invalid position");
        if (length < 1 || position + length > bytes.length) throw new Error("invalid length");
        const end = length === undefined ? bytes.length : position + length;
        return bytes.buffer.slice(bytes.byteOffset + position, bytes.byteOffset + end);
      };
      reading().then((data) => success({ data, errMsg: "readFile:ok" }), (error) => fail({ errMsg: `readFile:fail ${error.message}` }));
    },
  }),
  arrayBufferToBase64: (buffer) => Buffer.from(buffer).toString("base64"),
};
const shuffled = (name) => (name.length % 2 ? name.toUpperCase() : name.replace(/\b\w/g, (letter) => letter.toUpperCase()));
const size = statSync("photo.png", { throwIfNoEntry: false })?.size;
const done = (url) => console.log(url);
const fail = (message) => {
  console.error(message);
  process.exitCode = 1;
};
