// Verifies the events of cases.json with npm's `standardwebhooks`; prints whether each is accepted.

import { readFile } from "node:fs/promises";

import { Webhook } from "standardwebhooks";

const cases = JSON.parse(await readFile("cases.json", "utf8"));
const results = cases.map(({ secret, headers, body }) => {
  try {
    return typeof new Webhook(secret).verify(body, headers).type === "string";
  } catch {
    return false;
  }
});
console.log(JSON.stringify(results));
