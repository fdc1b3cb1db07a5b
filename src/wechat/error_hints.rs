//! What the operator has to change for an error code of WeChat's, and in which console. The codes are from WeChat's
//! documents of the calls and its list of return codes. Codes that mean something else in each credential mode have a text
//! for each.

use std::borrow::Cow;

use jiff::Timestamp;
use jiff::tz::{Offset, TimeZone};

use crate::settings::CredentialMode;

/// The page with the secret, the appid and the IP allow list.
const ACCOUNT: &str = "mp.weixin.qq.com > Development > Development settings (开发管理 > 开发设置)";
/// The page that lists the calls a service may make.
const PERMISSIONS: &str = "the WeChat cloud hosting console > 云调用 > 微信令牌权限配置";

/// The page with an environment's state, usage and plan.
const CONSOLE: &str = "the cloud development console (云开发控制台 or cloud.weixin.qq.com)";

/// What to change because of `errcode` and its `message`, in credential mode `mode`; `None` for an unknown code.
pub fn hint(errcode: i64, message: &str, mode: CredentialMode) -> Option<Cow<'static, str>> {
    let text: Cow<'static, str> = match errcode {
        -1 | -1000 | -501001 | -501002 | -501004 | -601001 | -601003 => {
            "WeChat's own system failed; try again shortly, and if it fails again give the rid to its support".into()
        }
        40001 | 40014 | 42001 => bad_token(mode).into(),
        40002 => "the token call's grant type is wrong: wechat.base_url is not the URL of WeChat's API".into(),
        40013 => format!("wechat.appid is not the id of an app: copy it from {ACCOUNT}").into(),
        40097 => "an argument is wrong; the message names it".into(),
        40101 => "a required parameter is missing; the message names it".into(),
        40125 => format!(
            "wechat.secret is not the secret of wechat.appid: reset it at {ACCOUNT} and set the new one in \
             GATEWAY__WECHAT__SECRET"
        )
        .into(),
        40164 => format!(
            "add the address {} to the IP allow list (IP 白名单) at {ACCOUNT}",
            address(message).unwrap_or("that the message names")
        )
        .into(),
        40243 => format!("the app's secret is frozen: unfreeze it at {ACCOUNT}").into(),
        41001 => match mode {
            CredentialMode::Open => "the open interface service is switched off for this service: switch it on at the \
                                     WeChat cloud hosting console > 设置 > 开放接口服务, or use another \
                                     wechat.credential"
                .into(),
            _ => "no token reached WeChat: a proxy between the gateway and wechat.base_url removes the query".into(),
        },
        41002 => "wechat.appid is empty".into(),
        41004 => "wechat.secret is empty".into(),
        43002 | 44002 | 47001 => {
            "the request was changed on its way to WeChat: check the proxies between the gateway and wechat.base_url"
                .into()
        }
        45009 => format!(
            "the quota of this call is used up, of the minute or of the day: try again in 30 s, then less often; a day's quota \
             is reset at midnight in China, in {}; it can be cleared at mp.weixin.qq.com > Development > API quota, or \
             with POST /cgi-bin/clear_quota (10 times a month)",
            until_midnight(Timestamp::now())
        )
        .into(),
        45011 => "too many concurrent calls; try again shortly".into(),
        48001 => match mode {
            CredentialMode::Authorizer => "the authorizer has not granted a permission set with this call (49 or 64): \
                                           it must authorize the platform again with that set"
                .into(),
            _ => "the app has no permission for this call: switch on cloud hosting or cloud development for it".into(),
        },
        50004 => format!("the app is banned from this call: see the notices at {ACCOUNT}").into(),
        61003..=61007 => {
            "the third-party platform's own credentials are refused: check its component_access_token, its IP allow \
             list and the authorizer's permission sets at open.weixin.qq.com"
                .into()
        }
        61023 => "the refresh token is no longer valid: the authorizer revoked or renewed its authorization; it must \
                  authorize the platform again, and wechat.authorizer.refresh_token must be set to the new one"
            .into(),
        85088 => "cloud hosting is not switched on for this app: open https://cloud.weixin.qq.com with the app's \
                  administrator and switch on cloud hosting (微信云托管) or cloud development (云开发), then set \
                  wechat.env"
            .into(),
        85107 => not_listed().into(),
        85112 => "the link between this service and WeChat's open interface service is faulty: redeploy the service, \
                  and if the failure persists give the rid to WeChat's support"
            .into(),
        85113 => "the open interface service of this service is not ready yet; it is ready within a minute of its start"
            .into(),
        -501000 => "wechat.env is not an environment of this app: copy its id from the WeChat cloud hosting console"
            .into(),
        -501003 => used_up("requests").into(),
        -501005 => "the environment is not usable (unpaid, or being deleted): see the console".into(),
        -501007 => "WeChat does not accept the path or the file id: a path has no leading `/`, no `//`, no control \
                    characters and at most 850 bytes, and a file id names the bucket of wechat.env \
                    (wechat.file_id_prefix)"
            .into(),
        -501009 => "WeChat knows no such resource: check wechat.env, and that the file id is of this environment".into(),
        -501015 => used_up("reads").into(),
        -501016 => used_up("writes").into(),
        -501017 => format!("the environment's storage is full: delete files, or buy more storage, in {CONSOLE}").into(),
        -501018 => format!(
            "the environment's storage is not available: it may be unpaid, suspended or still being set up; see its \
             state in {CONSOLE}"
        )
        .into(),
        -501019 => "the app is not authorized for this environment: wechat.appid must own wechat.env or share it \
                    (环境共享), and on cloud hosting or a third-party platform the /tcb calls must be allowed for the \
                    service or authorized by the app"
            .into(),
        -501020 => "WeChat does not know an argument of the call: check the proxies between the gateway and \
                    wechat.base_url, and give the rid to WeChat's support if there are none"
            .into(),
        -501021 => format!(
            "WeChat does not support the call for this environment: see in {CONSOLE} whether storage is switched on for \
             it"
        )
        .into(),
        -501023 => "the environment's storage denies the access: see its permissions in the console".into(),
        -503001 => "WeChat's storage failed; try again later, and if it fails again give the rid to WeChat's support"
            .into(),
        -503002 => format!(
            "the file may not be accessed: see the permissions (安全规则) on the storage page of {CONSOLE}"
        )
        .into(),
        -601002 => "WeChat's back end does not accept a parameter; the message names it".into(),
        -503003 => "the file does not exist, or was stored without its x-cos-meta-fileid: such a file cannot be \
                    downloaded, only deleted and uploaded again"
            .into(),
        _ => return None,
    };
    Some(text)
}

/// In `open` mode, what an HTTP status 502 means (the vendor's FAQ of the open interface service).
pub fn bad_gateway() -> String {
    format!("in `open` mode this status means that the call is not allowed: {}", not_listed())
}

/// A quota of the environment's plan, of `what`.
fn used_up(what: &str) -> String {
    format!(
        "the environment's quota of {what} is used up: see its usage (用量) in {CONSOLE}, and buy a larger plan or wait \
         until the quota is renewed"
    )
}

fn not_listed() -> String {
    format!(
        "the service may not make this call: add /tcb/uploadfile, /tcb/batchdownloadfile and /tcb/batchdeletefile at \
         {PERMISSIONS}"
    )
}

/// Why WeChat refuses a token, and what to change.
pub fn bad_token(mode: CredentialMode) -> &'static str {
    match mode {
        CredentialMode::Secret => {
            "the access token was replaced: another program fetches tokens of this app with cgi-bin/token, and each \
             new token invalidates the previous one; use wechat.credential=stable, or share the token with redis.url"
        }
        CredentialMode::Stable => {
            "the access token was refused twice: wechat.base_url and wechat.appid belong to different apps, or \
             another program forces refreshes of this app's stable token"
        }
        CredentialMode::Cloudbase => {
            "the token in wechat.cloudbase_token_file is refused: the platform renews the file every 10 minutes; check \
             that it is the platform's own file and that 云调用 is switched on for this service"
        }
        CredentialMode::Open => {
            "the open interface service sent a token that WeChat refuses; redeploy the service"
        }
        CredentialMode::Authorizer => {
            "the authorizer's access token was refused twice: another program refreshes it as well; share the token \
             among all of them (redis.url), or give the newest refresh token to only one of them"
        }
    }
}

/// The first IP address in `invalid ip 203.0.113.7 ipv6 ::ffff:203.0.113.7, not in whitelist`.
fn address(message: &str) -> Option<&str> {
    let (_, rest) = message.split_once("invalid ip ")?;
    let end = rest.find([' ', ',']).unwrap_or(rest.len());
    let address = &rest[..end];
    address.parse::<std::net::IpAddr>().is_ok().then_some(address)
}

/// WeChat resets its quotas at midnight in China (UTC+8, without daylight saving time).
fn seconds_until_midnight(now: Timestamp) -> u64 {
    const DAY: i64 = 86_400;
    let local = Offset::constant(8).to_datetime(now);
    let midnight = local.date().to_datetime(jiff::civil::Time::midnight());
    let last = TimeZone::fixed(Offset::constant(8)).to_timestamp(midnight);
    let passed = last.map_or(0, |last| now.as_second() - last.as_second());
    (DAY - passed).clamp(1, DAY).unsigned_abs()
}

fn until_midnight(now: Timestamp) -> String {
    let minutes = seconds_until_midnight(now).div_ceil(60);
    format!("{} h {} min", minutes / 60, minutes % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_to_allow_is_named() {
        let message = "invalid ip 203.0.113.7 ipv6 ::ffff:203.0.113.7, not in whitelist rid: 1-2-3";
        let text = hint(40164, message, CredentialMode::Stable).unwrap();
        assert!(text.contains("add the address 203.0.113.7 to"), "{text}");
        assert_eq!(address("invalid ip <script> x"), None);
    }

    #[test]
    fn a_quota_s_hint_names_the_quota_and_what_to_do() {
        for (code, words) in [
            (-501003, ["quota of requests", "larger plan"]),
            (-501015, ["quota of reads", "larger plan"]),
            (-501016, ["quota of writes", "larger plan"]),
            (-501017, ["storage is full", "delete files"]),
            (-501019, ["not authorized", "环境共享"]),
            (
                45009,
                ["of the minute or of the day", "POST /cgi-bin/clear_quota (10 times a month)"],
            ),
        ] {
            let text = hint(code, "", CredentialMode::Stable).unwrap();
            assert!(words.iter().all(|word| text.contains(word)), "{code}: {text}");
        }
    }

    #[test]
    fn quotas_are_reset_at_midnight_in_china() {
        for (now, seconds) in [
            ("2026-03-04T15:59:59Z", 1),
            ("2026-03-04T16:00:00Z", 86_400),
            ("2026-03-05T04:00:00Z", 43_200),
        ] {
            assert_eq!(seconds_until_midnight(now.parse().unwrap()), seconds, "{now}");
        }
    }

    #[test]
    fn every_code_of_the_documents_has_a_hint_in_every_mode() {
        let codes = [
            -1, -1000, 40001, 40014, 40097, 40101, 41001, 42001, 43002, 44002, 45009, 47001, 85088,
            -501000, -501001, -501002, -501003, -501004, -501007, -501009, -501015, -501016,
            -501017, -501018, -501019, -501020, -501021, -503001, -503002, -503003, -601001,
            -601002, -601003,
        ];
        for mode in CredentialMode::ALL {
            for code in codes {
                assert!(hint(code, "", *mode).is_some(), "{code} in {mode:?}");
            }
        }
    }
}
