// What the page says, in English and in Chinese. The browser's languages decide; `?lang=en` and `?lang=zh` override.

const english = {
  title: "Upload gateway",
  files: "Files",
  in_flight: "In flight",
  throughput: "Throughput",
  replays: "Replays",
  token_age: "Token age",
  drop: "Drop files anywhere on this page",
  drop_hint: "Paste works too. Each file streams straight into cloud storage; nothing is kept on the way.",
  choose: "Choose files",
  let_go: "Let go to upload",
  request: "Request",
  key: "Key or ticket",
  key_hint: "Kept in this tab only, sent as Authorization: Bearer.",
  folder: "Folder",
  folder_hint: "Optional. The gateway's template decides where it goes.",
  profile: "Reply profile",
  profile_hint: "Answer in the shape your editor or widget reads.",
  snippets: "The same upload from code",
  copy: "Copy",
  copied: "Copied",
  copy_as: "Copy as",
  open: "Open",
  details: "What came back",
  raw: "The reply as it came",
  cancel: "Cancel",
  retry: "Retry",
  delete: "Delete",
  remove: "Remove",
  enter_key: "Enter a key",
  cancel_all: "Cancel all",
  retry_failed: "Retry failed",
  clear: "Clear finished",
  counts_files: (n) => (n === 1 ? "1 file" : `${n} files`),
  counts_running: (n) => `${n} uploading`,
  counts_waiting: (n) => `${n} waiting`,
  counts_stored: (n) => `${n} stored`,
  counts_failed: (n) => `${n} failed`,
  waiting: "Waiting",
  sending: "Uploading",
  finishing: "Waiting for the verdict of storage",
  stored: "Stored",
  failed: "Failed",
  cancelled: "Cancelled",
  deleting: "Deleting",
  deleted: "Deleted",
  verified: "CRC-64 verified",
  not_verified: "CRC-64 not checked",
  left: (time) => `${time} left`,
  stalled: "no byte is moving",
  file_id: "File id",
  path: "Path",
  size: "Size",
  type: "Type",
  link: "Link",
  crc: "CRC-64",
  request_id: "Request id",
  took: "Took",
  bytes: (n) => `${n} bytes`,
  broken: "The connection broke before an answer came.",
  broken_advice: "Is the gateway running, and does a proxy in front of it limit the size of a request?",
  unreadable: "The answer is not one that this page can read.",
  delete_failed: "It was not deleted:",
  not_a_file: (name) => `“${name}” cannot be read: a folder, or a file that has gone.`,
  retry_after: (seconds) => `It may be tried again in ${seconds} s.`,
  announce: (name, state) => `${name}: ${state}`,
  progress_of: (name) => `Progress of ${name}`,
  of_file: (action, name) => `${action} ${name}`,
  reply_of: (name) => `Answer for ${name}`,
  code_of: (language) => `${language} code`,
};

const chinese = {
  title: "上传网关",
  files: "文件",
  in_flight: "正在上传",
  throughput: "吞吐",
  replays: "重发",
  token_age: "令牌已用",
  drop: "把文件拖到页面任意位置",
  drop_hint: "也可以直接粘贴。文件边收边写入云存储，途中不落盘。",
  choose: "选择文件",
  let_go: "松手即上传",
  request: "请求",
  key: "密钥或票据",
  key_hint: "只留在当前标签页，以 Authorization: Bearer 发送。",
  folder: "目录",
  folder_hint: "可不填，最终位置由网关的路径模板决定。",
  profile: "回复格式",
  profile_hint: "按编辑器或上传组件能读懂的格式回复。",
  snippets: "用代码做同样的上传",
  copy: "复制",
  copied: "已复制",
  copy_as: "复制为",
  open: "打开",
  details: "返回内容",
  raw: "回复原文",
  cancel: "取消",
  retry: "重试",
  delete: "删除",
  remove: "移除",
  enter_key: "填写密钥",
  cancel_all: "全部取消",
  retry_failed: "重试失败项",
  clear: "清除已结束",
  counts_files: (n) => `${n} 个文件`,
  counts_running: (n) => `${n} 个上传中`,
  counts_waiting: (n) => `${n} 个等待`,
  counts_stored: (n) => `${n} 个已保存`,
  counts_failed: (n) => `${n} 个失败`,
  waiting: "等待中",
  sending: "上传中",
  finishing: "等待存储确认",
  stored: "已保存",
  failed: "失败",
  cancelled: "已取消",
  deleting: "正在删除",
  deleted: "已删除",
  verified: "CRC-64 校验一致",
  not_verified: "CRC-64 未校验",
  left: (time) => `剩余 ${time}`,
  stalled: "暂无数据流动",
  file_id: "文件 ID",
  path: "路径",
  size: "大小",
  type: "类型",
  link: "链接",
  crc: "CRC-64",
  request_id: "请求 ID",
  took: "耗时",
  bytes: (n) => `${n} 字节`,
  broken: "连接在收到回复前中断。",
  broken_advice: "请确认网关在运行，前面的代理没有限制请求大小。",
  unreadable: "无法识别返回的内容。",
  delete_failed: "没有删除：",
  not_a_file: (name) => `无法读取“${name}”：可能是文件夹，或文件已不存在。`,
  retry_after: (seconds) => `${seconds} 秒后可以重试。`,
  announce: (name, state) => `${name}：${state}`,
  progress_of: (name) => `${name} 的上传进度`,
  of_file: (action, name) => `${action} ${name}`,
  reply_of: (name) => `${name} 的返回内容`,
  code_of: (language) => `${language} 代码`,
};

// The gateway's codes; in English its own words are shown.
const chineseProblems = {
  malformed_form: "表单格式有误",
  no_file: "表单里没有文件",
  field_after_file: "有字段排在文件之后，请放到文件前面",
  file_not_last: "文件之后还有内容，请把文件放在最后或每次只传一个",
  truncated_body: "请求没有发完就断了，什么都没有保存",
  length_mismatch: "文件长度与声明的不符",
  invalid_path: "路径不可用",
  invalid_request: "请求无法理解",
  unauthenticated: "需要有效的密钥或票据",
  not_allowed: "这个密钥没有此项权限",
  path_not_allowed: "这个密钥不能使用该路径",
  origin_not_allowed: "页面的来源不在允许列表（cors.origins）里",
  file_not_found: "文件不存在",
  not_found: "地址不存在",
  method_not_allowed: "该地址不支持这种请求方法",
  client_stalled: "太久没有收到数据",
  length_required: "无法得知文件长度，请带上 Content-Length",
  file_too_large: "文件太大",
  too_many_files: "文件太多",
  fields_too_large: "表单字段太大",
  not_multipart: "请求不是 multipart/form-data",
  type_not_allowed: "不允许这种类型的文件",
  encoding_not_supported: "不支持压缩过的请求",
  rate_limited: "请求太频繁",
  internal: "网关内部错误",
  wechat_refused: "微信接口拒绝了请求",
  wechat_unreachable: "微信接口没有给出可用的回复",
  link_not_allowed: "微信给的上传地址不在允许列表里",
  cos_refused: "COS 拒绝了文件",
  cos_unreachable: "COS 没有回复",
  integrity_mismatch: "COS 保存的内容与发送的不一致，已删除",
  overloaded: "网关繁忙",
  draining: "网关正在停机",
  credential_unavailable: "拿不到访问令牌，请检查 appid 与 secret",
  cos_busy: "COS 繁忙",
  wechat_timeout: "微信接口超时",
  cos_timeout: "COS 超时",
};

function choose() {
  const wanted = [new URLSearchParams(location.search).get("lang"), ...navigator.languages];
  const known = wanted.map((tag) => tag?.slice(0, 2).toLowerCase()).find((tag) => tag === "zh" || tag === "en");
  return known ?? "en";
}

export const language = choose();
const words = language === "zh" ? chinese : english;

/** The text called `name`; those that take values are functions. */
export const say = (name, ...values) => (values.length ? words[name](...values) : words[name]);

/** A problem in words: what it is, and what the gateway says of this occurrence where that adds something. */
export function inWords(problem) {
  const own = language === "zh" ? chineseProblems[problem.code] : undefined;
  return { title: own ?? problem.title, detail: problem.detail === own ? undefined : problem.detail };
}

/** Puts the page's language into everything below `root` that is marked with `data-t`. */
export function translate(root) {
  for (const element of root.querySelectorAll("[data-t]")) element.textContent = say(element.dataset.t);
}

const number = (digits) => new Intl.NumberFormat(language, { maximumFractionDigits: digits });
const [whole, tenths] = [number(0), number(1)];

/** `1536` is `1.5 KiB`. */
export function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB"];
  let unit = 0;
  while (bytes >= 1023.5 && unit < units.length - 1) {
    bytes /= 1024;
    unit += 1;
  }
  return `${(bytes < 99.95 && unit ? tenths : whole).format(bytes)} ${units[unit]}`;
}

export const rate = (bytesPerSecond) => `${size(bytesPerSecond)}/s`;
export const count = (value) => whole.format(value);

/** Seconds as a person would say them. */
export function duration(seconds) {
  const zh = language === "zh";
  const parts = (...pairs) => pairs.map(([value, unit]) => (zh ? `${value} ${unit}` : `${value} ${unit}`)).join(" ");
  const [h, min, s] = zh ? ["小时", "分", "秒"] : ["h", "min", "s"];
  if (seconds < 60) return parts([Math.max(1, Math.round(seconds)), s]);
  const minutes = Math.round(seconds / 60);
  return minutes < 60 ? parts([minutes, min]) : parts([Math.floor(minutes / 60), h], [minutes % 60, min]);
}
