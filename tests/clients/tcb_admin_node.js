// tcb-admin-node: uploads photo.png, downloads it into `downloaded`, and deletes it where DELETE is set. Its own API has
// no public stand-in, so a shim makes WeChat's calls (at URL, with ACCESS_TOKEN) of its three storage actions.
import { createReadStream, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import tcb from "tcb-admin-node";

const { URL: base, ENV: env, ACCESS_TOKEN: token, CLOUD_PATH: cloudPath } = process.env;

async function call(name, body) {
  const response = await fetch(`${base}/tcb/${name}?access_token=${encodeURIComponent(token)}`, {
    method: "POST",
    body: JSON.stringify({ env, ...body }),
  });
  const reply = await response.json();
  if (reply.errcode) throw new Error(`${reply.errcode} ${reply.errmsg}`);
  return reply;
}

const code = (file) => (file.status === 0 ? "SUCCESS" : String(file.status));

const actions = {
  async "storage.getUploadMetadata"({ path }) {
    const link = await call("uploadfile", { path });
    const { url, token, authorization, file_id: fileId, cos_file_id: cosFileId } = link;
    return { url, token, authorization, fileId, cosFileId };
  },
  async "storage.batchGetDownloadUrl"({ file_list }) {
    const { file_list: files } = await call("batchdownloadfile", { file_list });
    return {
      download_list: files.map((file) => ({
        fileID: file.fileid,
        tempFileURL: file.download_url,
        code: code(file),
      })),
    };
  },
  async "storage.batchDeleteFile"({ fileid_list }) {
    const { delete_list: files } = await call("batchdeletefile", { fileid_list });
    return { delete_list: files.map((file) => ({ fileID: file.fileid, code: code(file) })) };
  },
};

const shim = createServer(async (request, response) => {
  let body = "";
  for await (const piece of request) body += piece;
  const params = JSON.parse(body);
  const reply = await actions[params.action](params).then(
    (data) => ({ data, requestId: "1" }),
    (error) => ({ code: "SYS_ERR", message: error.message }),
  );
  response.setHeader("Content-Type", "application/json");
  response.end(JSON.stringify(reply));
});
await new Promise((listening) => shim.listen(0, "127.0.0.1", listening));

const app = tcb.init({
  secretId: "id",
  secretKey: "key",
  env,
  serviceUrl: `http://127.0.0.1:${shim.address().port}/admin`,
});
const uploaded = await app.uploadFile({ cloudPath, fileContent: createReadStream("photo.png") });
if (!uploaded.fileID) throw new Error(`${uploaded.code}: ${uploaded.message}`);
console.log(uploaded.fileID);
const { fileContent } = await app.downloadFile({ fileID: uploaded.fileID });
writeFileSync("downloaded", fileContent);
if (process.env.DELETE) {
  const { fileList } = await app.deleteFile({ fileList: [uploaded.fileID] });
  if (fileList[0].code !== "SUCCESS") throw new Error(JSON.stringify(fileList));
}
shim.close();
