// node-easywechat: prints the access token of `cgi-bin/token`, or of `cgi-bin/stable_token` where STABLE is set, of
// WeChat's API at URL.
// The package's index needs a file that later versions of node-socialite do not have.
import MiniApp from "node-easywechat/dist/MiniApp/Application.js";

const { URL: baseURL, APPID: app_id, SECRET: secret, STABLE } = process.env;
const app = new MiniApp({
  app_id,
  secret,
  use_stable_access_token: Boolean(STABLE),
  http: { baseURL: `${baseURL}/` },
  file_cache: { path: "." },
});
console.log(await app.getAccessToken().getToken());
