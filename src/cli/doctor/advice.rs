//! What to change for an error, in which setting or console.

use super::checks::Checks;
use super::report::Fault;
use crate::cos::api::getauth::GetAuthError;
use crate::cos::error::CosError;
use crate::settings::CosKeys;
use crate::wechat::error::{FileError, WechatError};

impl Checks<'_> {
    pub fn wechat_fault(&self, error: &WechatError) -> Fault {
        let base_url = &self.settings.wechat.base_url;
        let change = match error {
            WechatError::NoToken { cause, .. } => return self.wechat_fault(cause),
            WechatError::Refused { call, errcode, message, hint, .. } => {
                return Fault {
                    what: format!("WeChat refused `{call}`: {errcode} {message}"),
                    change: hint.as_deref().unwrap_or(UNKNOWN).to_owned(),
                };
            }
            WechatError::Unreachable { .. } => format!(
                "this machine must reach {base_url} (wechat.base_url): check the name, the firewall, and for a \
                 private certificate SSL_CERT_FILE"
            ),
            WechatError::Timeout { .. } => format!(
                "{base_url} (wechat.base_url) is too slow or does not respond: check the route to it, or raise \
                 wechat.timeout"
            ),
            WechatError::Unusable { .. } => {
                format!("{base_url} does not respond like WeChat's API: correct wechat.base_url")
            }
            WechatError::NoCredential(_) => {
                "see wechat.credential and the settings of its mode".to_owned()
            }
        };
        Fault { what: error.to_string(), change }
    }

    pub fn file_fault(&self, error: &FileError) -> Fault {
        match error {
            FileError::Call(error) => self.wechat_fault(error),
            FileError::File { status, message, hint } => Fault {
                what: format!("WeChat's status of the file: {status} {message}"),
                change: hint.as_deref().unwrap_or(UNKNOWN).to_owned(),
            },
        }
    }

    /// For a form that was posted to `host`.
    pub fn cos_fault(&self, error: &CosError, host: &str) -> Fault {
        let change = match error {
            CosError::Link(_) => format!(
                "WeChat's upload link is for {host}: if that host is Tencent's, add it to cos.allowed_hosts (plain \
                 http also needs cos.allow_http); if not, wechat.base_url is not WeChat"
            ),
            CosError::Unreachable(_) => format!(
                "this machine must reach {host}: check the firewall, proxies, and for a private certificate \
                 SSL_CERT_FILE"
            ),
            CosError::Timeout { .. } | CosError::NoVerdict(_) => format!(
                "{host} is too slow, or a proxy closes the connection: check the route to it; the limits are \
                 cos.connect_timeout, .write_timeout and .reply_timeout"
            ),
            CosError::Integrity { .. } => format!(
                "a proxy between this machine and {host} changes what is sent: remove it; the file is deleted \
                 again"
            ),
            CosError::Refused { status, code, .. } => cos_advice(*status, code).to_owned(),
            CosError::Keys { cause, .. } => self.keys_advice(cause),
            CosError::Source(_)
            | CosError::NotLast { .. }
            | CosError::SlowClient
            | CosError::OutOfMemory
            | CosError::LengthMismatch { .. } => String::new(),
        };
        Fault { what: error.to_string(), change }
    }

    /// For a request to COS's API at `host`.
    pub fn api_fault(&self, error: &CosError, host: &str) -> Fault {
        let change = match error {
            CosError::Refused { status, code, .. } => {
                let is_expired = error.wants_fresh_link();
                api_advice(self.settings.cos.api.keys, *status, code, is_expired).to_owned()
            }
            CosError::Unreachable(_) => format!(
                "this machine must reach {host}: check the firewall and proxies, and for a private certificate \
                 SSL_CERT_FILE; if there is no such host, correct cos.api.bucket, .region or .endpoint"
            ),
            CosError::Link(_) => {
                "set cos.api.bucket (its full name, with the APPID) and cos.api.region".to_owned()
            }
            error => return self.cos_fault(error, host),
        };
        Fault { what: error.to_string(), change }
    }

    fn keys_advice(&self, cause: &GetAuthError) -> String {
        let url = &self.settings.cos.api.getauth_url;
        match cause {
            GetAuthError::Unreachable(_) | GetAuthError::Timeout(_) => format!(
                "{url} (cos.api.getauth_url) responds only inside WeChat cloud hosting; elsewhere {OTHER_KEYS}"
            ),
            GetAuthError::Status(_) | GetAuthError::Refused { .. } => format!(
                "the open interface service is off: switch it on (cloud.weixin.qq.com/cloudrun > 云调用 > \
                 开放接口服务) and build a new version; outside WeChat cloud hosting, {OTHER_KEYS}"
            ),
            GetAuthError::Unusable(_) => format!(
                "check this machine's clock, and that {url} (cos.api.getauth_url) is the service of WeChat cloud \
                 hosting; elsewhere {OTHER_KEYS}"
            ),
        }
    }

    /// For the file id of `cos.api.metaid_url`.
    pub fn metaid_fault(&self, error: &CosError) -> Fault {
        let url = &self.settings.cos.api.metaid_url;
        Fault {
            what: error.to_string(),
            change: format!(
                "{url} (cos.api.metaid_url) responds only inside WeChat cloud hosting with the open interface service \
                 (开放接口服务) switched on, and cos.api.bucket must be the environment's; with \
                 cos.api.file_ids = \"link\", file ids come from upload links"
            ),
        }
    }
}

const OTHER_KEYS: &str =
    "set cos.api.keys = \"static\" with the keys of a CAM sub-user, or cos.via = \"form\"";

const UNKNOWN: &str = "no advice is known for this error; give the rid to WeChat's support";

/// What to change, by COS's error codes (doc 7730).
fn cos_advice(status: u16, code: &str) -> &'static str {
    match (status, code) {
        (402, _) | (451, _) | (_, "PaymentRequired") => {
            "the account is in arrears or blocked: see the Tencent Cloud console > 费用中心"
        }
        (_, "NoSuchBucket") => {
            "the environment's bucket is gone: take wechat.env from the cloud hosting console again"
        }
        (_, "RequestTimeTooSkewed" | "ExpiredToken") => {
            "the link had expired when it was used: a proxy delays requests by minutes"
        }
        (_, "MalformedPOSTRequest" | "MissingContentLength" | "IncompleteBody") | (411, _) => {
            "a proxy between this machine and COS changes requests (to chunked encoding?): remove it"
        }
        (403, _) => {
            "the environment's storage refuses uploads: the cloud console > 存储 > 权限设置 (storage permissions); \
             and check whether the environment is locked"
        }
        (500.., _) => "COS is busy or failing: try again in a few minutes",
        _ => "look the code up in COS's error codes (cloud.tencent.com/document/product/436/7730)",
    }
}

/// What to change where COS's API refuses a request.
fn api_advice(keys: CosKeys, status: u16, code: &str, is_expired: bool) -> &'static str {
    let is_static = keys == CosKeys::Static;
    match (status, code) {
        (_, "InvalidAccessKeyId") if is_static => {
            "COS does not know cos.api.secret_id: take it again from the Tencent Cloud console > 访问管理 > API 密钥; \
             temporary keys also need their cos.api.token"
        }
        (_, "SignatureDoesNotMatch") if is_static => {
            "cos.api.secret_key does not belong to cos.api.secret_id: set both again; if they are right, a proxy \
             changes the requests"
        }
        (_, "InvalidAccessKeyId") => {
            "COS does not know the keys of getauth: is cos.api.getauth_url that of this environment?"
        }
        (_, "SignatureDoesNotMatch") => {
            "a proxy between this machine and COS changes the requests: remove it"
        }
        (_, "RequestTimeTooSkewed") => {
            "this machine's clock is wrong: set it by NTP; signatures are valid from 5 minutes before to 30 minutes \
             after its time"
        }
        (_, "ExpiredToken") if is_static => {
            "the temporary keys in cos.api.secret_id, .secret_key and .token have expired: set new ones, or the \
             lasting keys of a CAM sub-user"
        }
        (_, "ExpiredToken") => {
            "getauth returns keys that have expired: check this machine's clock, and try again in a few minutes"
        }
        _ if is_expired => {
            "this machine's clock is behind, or a proxy delays requests: set the clock by NTP"
        }
        (_, "NoSuchBucket") | (300..400, _) => {
            "cos.api.bucket, .region and .endpoint do not name the environment's bucket: correct them, or leave bucket \
             and region unset, so that they are taken from an upload link"
        }
        (403, _) if is_static => {
            "allow the CAM sub-user to use the bucket: Tencent Cloud console > 访问管理 > 策略, with PutObject, \
             HeadObject, DeleteObject, InitiateMultipartUpload, UploadPart, CompleteMultipartUpload, \
             AbortMultipartUpload, ListParts and ListMultipartUploads; and check cos.api.bucket"
        }
        (403, _) => {
            "the keys of getauth are for the environment's own bucket: check cos.api.bucket, and whether the environment \
             is locked"
        }
        _ => cos_advice(status, code),
    }
}
