// Uploads photo.bin by tus-js-client, with its own rules of what is tried again.
import { createReadStream } from "node:fs";
import { Upload } from "tus-js-client";

const { URL: endpoint, GATEWAY_KEY: key, UPLOAD_PATH: path, CHUNK_SIZE: chunkSize } = process.env;
await new Promise((resolve, reject) => {
  const upload = new Upload(createReadStream("photo.bin"), {
    endpoint,
    chunkSize: chunkSize ? Number(chunkSize) : Infinity,
    retryDelays: [0, 50, 100, 200, 400, 800],
    headers: { Authorization: `Bearer ${key}` },
    metadata: { path, filename: "photo.bin" },
    onError: reject,
    onSuccess: resolve,
  });
  upload.start();
});
