//! The calls of WeChat's cloud hosting about COS: temporary keys, and file ids for `x-cos-meta-fileid`. In reality they
//! are there only behind the open interface service; the sandbox always has them, without a token.

use serde_json::{Map, Value, json};

use super::errcode::{Errcode, check_path, errcode, list, text};
use super::http::Head;
use super::state::SandboxState;

/// `{TmpSecretId, TmpSecretKey, Token, ExpiredTime}`, the last in seconds since the Unix epoch.
pub fn get_auth(sandbox: &SandboxState, head: &Head) -> Result<Value, Errcode> {
    if head.method != "GET" {
        return errcode(43001, "require GET method");
    }
    let key = sandbox.keys.borrow_mut().issue();
    Ok(json!({
        "TmpSecretId": key.id,
        "TmpSecretKey": key.secret,
        "Token": key.token,
        "ExpiredTime": key.expires,
    }))
}

/// The file ids of `paths`, each of which starts with `/`. The sandbox knows no users: `openid` does not matter.
pub fn encode(sandbox: &SandboxState, body: &Map<String, Value>) -> Result<Value, Errcode> {
    if !body.get("openid").is_some_and(Value::is_string) {
        return errcode(40097, "invalid args: openid");
    }
    if text(body, "bucket")? != sandbox.bucket {
        return errcode(40097, "invalid args: bucket");
    }
    let mut file_ids = Vec::new();
    for path in list(body, "paths")? {
        let Some(path) = path.as_str().and_then(|path| path.strip_prefix('/')) else {
            return errcode(40097, "invalid args: paths");
        };
        check_path(path)?;
        file_ids.push(sandbox.links.encode_file_id(path));
    }
    let data = json!({"x_cos_meta_field_strs": file_ids});
    Ok(json!({"errcode": 0, "errmsg": "ok", "respdata": data}))
}
