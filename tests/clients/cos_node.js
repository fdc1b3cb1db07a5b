// cos-nodejs-sdk-v5: putObject, sliceUploadFile, a resumed upload, headObject. With COS_HOST the bucket's own domain, else
// COS_IP and COS_PORT with the bucket in the Host header.

import { readFileSync } from "node:fs";
import COS from "cos-nodejs-sdk-v5";

const { COS_HOST, COS_IP, COS_PORT, COS_BUCKET, COS_ID, COS_KEY, COS_TOKEN } = process.env;
const cos = new COS({
  SecretId: COS_ID,
  SecretKey: COS_KEY,
  SecurityToken: COS_TOKEN,
  Protocol: "http:",
  Domain: COS_HOST,
  Ip: COS_IP && `${COS_IP}:${COS_PORT}`,
  ChunkSize: 1 << 20,
  ChunkRetryTimes: 0,
});
const call = (name, Key, more = {}) => cos[name]({ Bucket: COS_BUCKET, Region: "ap-shanghai", Key, ...more });
const check = (fact, ...context) => {
  if (!fact) throw new Error(`not so: ${JSON.stringify(context)}`);
};

const small = readFileSync("small.bin");
const large = readFileSync("large.bin");
const PART = 1 << 20;
try {
  await call("putObject", "sdk/小 +.bin", {
    Body: small,
    ContentType: "image/png",
    CacheControl: "max-age=60",
    "x-cos-meta-colour": "red",
  });
} catch (error) {
  console.error(error.statusCode, error.code);
  process.exit(1);
}
const { headers } = await call("headObject", "sdk/小 +.bin");
check(headers["content-length"] === String(small.length), headers);
check(headers["content-type"] === "image/png" && headers["x-cos-meta-colour"] === "red", headers);
check((await call("getObject", "sdk/小 +.bin")).Body.equals(small));

await call("sliceUploadFile", "sdk/large.bin", { FilePath: "large.bin" });

// An upload that was interrupted after its second and its last part.
const { UploadId } = await call("multipartInit", "sdk/resumed.bin");
for (const PartNumber of [Math.ceil(large.length / PART), 2]) {
  const Body = large.subarray((PartNumber - 1) * PART, PartNumber * PART);
  await call("multipartUpload", "sdk/resumed.bin", { UploadId, PartNumber, Body });
}
const { Part, IsTruncated } = await call("multipartListPart", "sdk/resumed.bin", { UploadId, MaxParts: 1 });
check(IsTruncated === "true" && Part.length === 1 && Part[0].PartNumber === "2", Part);
await call("sliceUploadFile", "sdk/resumed.bin", { FilePath: "large.bin" });

await call("putObject", "sdk/gone.bin", { Body: small });
await call("deleteObject", "sdk/gone.bin");
const status = await call("headObject", "sdk/gone.bin").catch((error) => error.statusCode);
check(status === 404, status);
const aborted = await call("multipartInit", "sdk/aborted.bin");
await call("multipartAbort", "sdk/aborted.bin", { UploadId: aborted.UploadId });
check((await call("multipartList", "", { Prefix: "sdk/" })).Upload.length === 0);

const first = await call("getBucket", "", { Prefix: "sdk/", MaxKeys: 2 });
check(first.Contents.map(({ Key }) => Key).join() === "sdk/large.bin,sdk/resumed.bin", first);
check(first.IsTruncated === "true", first);
const last = await call("getBucket", "", { Prefix: "sdk/", Marker: first.NextMarker });
check(last.Contents.length === 1 && last.Contents[0].Key === "sdk/小 +.bin", last);
check(last.Contents[0].Size === String(small.length) && last.Contents[0].ETag === headers.etag, last);
const grouped = await call("getBucket", "", { Delimiter: "/" });
check(grouped.Contents.length === 0 && grouped.CommonPrefixes[0].Prefix === "sdk/", grouped);
const since = { IfModifiedSince: headers["last-modified"] };
for (const name of ["headObject", "getObject"]) {
  const unchanged = await call(name, "sdk/小 +.bin", since);
  check(unchanged.NotModified === true, unchanged);
}
