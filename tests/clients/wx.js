// A stand-in for `wx.uploadFile` according to its documentation, since no mini program can run here: one form with the
// fields of `formData` and the file; `data` is a string; any status is a success.

import { openAsBlob } from "node:fs";
import { basename } from "node:path";

const ticket = process.env.GATEWAY_KEY;
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
};
const done = (url) => console.log(url);
const fail = (message) => {
  console.error(message);
  process.exitCode = 1;
};
