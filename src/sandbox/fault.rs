//! Faults on demand: the rules that control calls install, and how a response is sent under a fault. Knows the calls
//! only by their stage.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::conn::{AfterRequest, Conn, SendOptions, first_of};
use super::http::{ConnError, Content, Response};

/// How long the sandbox waits for the client to close the connection after an early response.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    Token,
    Link,
    Download,
    Delete,
    /// `/_/cos/getauth` and `/_/cos/metaid/encode`.
    Getauth,
    Metaid,
    /// POST Object.
    Cos,
    /// GET Object.
    Object,
    Put,
    Initiate,
    Part,
    Complete,
    Abort,
    ListParts,
    ListUploads,
    ListObjects,
    Head,
    DeleteObject,
}

impl Stage {
    pub fn is_cos(self) -> bool {
        !matches!(
            self,
            Stage::Token
                | Stage::Link
                | Stage::Download
                | Stage::Delete
                | Stage::Getauth
                | Stage::Metaid
        )
    }

    /// Whether the request's body is a file or a part of one.
    fn takes_content(self) -> bool {
        matches!(self, Stage::Cos | Stage::Put | Stage::Part)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// A reset when a connection is accepted. The WeChat side, which takes the control calls as well, resets after the
    /// first head instead. The idle connections of that side are reset when the rule is installed.
    Refuse,
    /// A reset as soon as the request's head is read.
    ResetBefore,
    /// A reset after `after` bytes: of the file at the stages `cos`, `put` and `part`, of the response's body at the
    /// others.
    ResetWithin,
    /// Sends no response. At stage `cos`, `put` or `part` with `after`, reading stops after that many bytes of the file. The connection
    /// is reset when the client closes it, when the faults are cleared, or after `ms`.
    Stall,
    /// Stages `cos`, `put` and `part`: reads slowly; the others: send the response slowly.
    Slow,
    /// Sends the response after `ms`.
    Delay,
    Status,
    /// Sends bytes that are not HTTP.
    Garbage,
    /// A response of many MiB.
    Huge,
    /// Closes the connection without a response after the whole request.
    Close,
    /// `cos`, `put`, `part`: an error before the body's end.
    Early,
    /// `cos`, `put`, `part`: a success before the body's end. Nothing is stored.
    #[serde(rename = "early_2xx")]
    Early2xx,
    Errcode,
    WrongCrc,
    NoCrc,
    /// `cos`, `put`, `part`: the whole body is read, then refused with 400 `UserNetworkTooSlow`. Nothing is stored.
    TooSlow,
    /// `cos`: only the first `after` bytes of the file are stored, and the response is a success. Applies to a form
    /// whose small file stands first, too, which is refused otherwise.
    Truncate,
    /// The response has another ETag than the one that is stored.
    WrongEtag,
    /// `complete`: an `<Error>` with status 200. The upload stays unfinished.
    #[serde(rename = "error_200")]
    Error200,
    /// A request that is signed with temporary keys is refused as if they had expired.
    ExpireKeys,
    /// Sends a response that leaves the connection open, then closes it.
    CloseIdle,
    ExpiredLink,
    /// The link's `url` is the rule's; `{path}` in it is replaced by the requested path.
    ForeignHost,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Then {
    Close,
    Reset,
    KeepReading,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    pub stage: Stage,
    pub fault: FaultKind,
    /// The number of hits left; absent: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub times: Option<u64>,
    /// The rule applies only to requests for a key that contains this text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Stage `part`: the rule applies only to the part with this number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub part: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub then: Option<Then>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errcode: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errmsg: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// `huge`: the number of bytes added to the response.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Stages of COS: the request is executed all the same, so only the response is lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<bool>,
    /// `truncate`: the response has the CRC-64 of what was stored; otherwise it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crc: Option<bool>,
    /// The number of requests that the rule has applied to.
    #[serde(default)]
    pub hits: u64,
}

impl Rule {
    /// Checks that the rule is complete; the error is the text of the control call's response.
    fn check(&self) -> Result<(), String> {
        let needs = |there: bool, what: &str| {
            if there { Ok(()) } else { Err(format!("{:?} needs {what}", self.fault)) }
        };
        match self.fault {
            FaultKind::Slow => {
                needs(self.bytes_per_second.is_some_and(|rate| rate > 0), "bytes_per_second")?
            }
            FaultKind::Delay => needs(self.ms.is_some(), "ms")?,
            FaultKind::Truncate => needs(self.after.is_some(), "after")?,
            FaultKind::Status | FaultKind::Early => needs(
                self.status.is_some_and(|status| (200..600).contains(&status)),
                "a status from 200 to 599",
            )?,
            FaultKind::Errcode => needs(self.errcode.is_some(), "errcode")?,
            FaultKind::ForeignHost => needs(self.url.is_some(), "url")?,
            _ => {}
        }
        let fits = match self.fault {
            FaultKind::Early | FaultKind::Early2xx => self.stage.takes_content(),
            FaultKind::WrongCrc | FaultKind::NoCrc => {
                self.stage.takes_content() || matches!(self.stage, Stage::Complete | Stage::Head)
            }
            FaultKind::TooSlow => self.stage.takes_content(),
            FaultKind::Truncate => self.stage == Stage::Cos,
            FaultKind::WrongEtag => {
                matches!(self.stage, Stage::Put | Stage::Part | Stage::Complete | Stage::Head)
            }
            FaultKind::Error200 => self.stage == Stage::Complete,
            FaultKind::ExpireKeys => self.stage.is_cos() && self.stage != Stage::Cos,
            FaultKind::Errcode => !self.stage.is_cos(),
            FaultKind::ExpiredLink | FaultKind::ForeignHost => self.stage == Stage::Link,
            _ => true,
        };
        if self.part.is_some() && self.stage != Stage::Part {
            return Err(format!("part has no meaning at the stage {:?}", self.stage));
        }
        if fits {
            Ok(())
        } else {
            Err(format!("{:?} has no meaning at the stage {:?}", self.fault, self.stage))
        }
    }

    pub fn is(&self, kind: FaultKind) -> bool {
        self.fault == kind
    }

    /// The number of bytes of a file or part after which the rule applies, for the kinds that apply in the middle of it.
    pub fn content_offset(&self) -> Option<u64> {
        match self.fault {
            FaultKind::ResetWithin | FaultKind::Early | FaultKind::Early2xx => {
                Some(self.after.unwrap_or(0))
            }
            FaultKind::Stall => self.after,
            _ => None,
        }
    }
}

#[derive(Default)]
pub struct Faults {
    rules: Vec<Rule>,
}

impl Faults {
    pub fn add(&mut self, rules: Vec<Rule>) -> Result<(), String> {
        rules.iter().try_for_each(Rule::check)?;
        self.rules.extend(rules);
        Ok(())
    }

    pub fn clear(&mut self) {
        self.rules.clear();
    }

    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The first rule that applies to a request; counts the hit. `keys` are all keys that the request names, joined.
    pub fn hit(&mut self, stage: Stage, keys: &str) -> Option<Rule> {
        self.hit_part(stage, keys, None)
    }

    /// `part` is the number of the part that the request has.
    pub fn hit_part(&mut self, stage: Stage, keys: &str, part: Option<u32>) -> Option<Rule> {
        self.hit_where(|rule| {
            rule.stage == stage
                && !rule.is(FaultKind::Refuse)
                && (rule.part.is_none() || rule.part == part)
                && rule.path.as_deref().is_none_or(|path| keys.contains(path))
        })
    }

    /// Whether the connection must be reset before the body is read. Rules with a `path` do not apply: the key may be in
    /// the body.
    pub fn hit_at_head(&mut self, stage: Stage) -> bool {
        let hit = self.hit_where(|rule| {
            rule.stage == stage && rule.is(FaultKind::ResetBefore) && rule.path.is_none()
        });
        hit.is_some()
    }

    pub fn refuse_connection(&mut self, cos: bool) -> bool {
        self.hit_where(|rule| rule.is(FaultKind::Refuse) && rule.stage.is_cos() == cos).is_some()
    }

    fn hit_where(&mut self, fits: impl Fn(&Rule) -> bool) -> Option<Rule> {
        let rule = self.rules.iter_mut().find(|rule| rule.times != Some(0) && fits(rule))?;
        rule.times = rule.times.map(|times| times - 1);
        rule.hits += 1;
        Some(rule.clone())
    }
}

/// Sends a response in the way that the rule demands. Faults that change its content must have been applied before.
pub async fn send_with_fault(
    conn: &mut Conn,
    rule: Option<&Rule>,
    response: Response,
    cleared: &Notify,
) -> Result<AfterRequest, ConnError> {
    let Some(rule) = rule else {
        return conn.send(response).await;
    };
    match rule.fault {
        FaultKind::ResetBefore => Ok(AfterRequest::Reset),
        FaultKind::ResetWithin => {
            let how =
                SendOptions { cut_after: Some(rule.after.unwrap_or(0)), ..SendOptions::default() };
            conn.send_with(response, how).await
        }
        FaultKind::Slow => {
            let how =
                SendOptions { bytes_per_second: rule.bytes_per_second, ..SendOptions::default() };
            conn.send_with(response, how).await
        }
        FaultKind::Stall => {
            stall(conn, rule, cleared).await;
            Ok(AfterRequest::Reset)
        }
        FaultKind::Close => Ok(AfterRequest::Close),
        FaultKind::Garbage => {
            conn.send_raw(b"\x16\x03\x01\x02\x00 this is not HTTP \xff\xfe\r\n\r\n").await?;
            Ok(AfterRequest::Close)
        }
        FaultKind::Delay => {
            tokio::time::sleep(Duration::from_millis(rule.ms.unwrap_or(0))).await;
            conn.send(response).await
        }
        FaultKind::CloseIdle => {
            conn.send(response).await?;
            Ok(AfterRequest::Close)
        }
        _ => conn.send(response).await,
    }
}

/// Sends a response before the request's body has ended, and then does what the rule says.
pub async fn send_early(
    conn: &mut Conn,
    rule: &Rule,
    response: Response,
) -> Result<AfterRequest, ConnError> {
    let next = conn.send(response).await?;
    match rule.then.unwrap_or(Then::KeepReading) {
        Then::KeepReading => {
            conn.discard_body().await;
            Ok(next)
        }
        Then::Reset => Ok(AfterRequest::Reset),
        Then::Close => {
            conn.finish_writing().await;
            let _ = tokio::time::timeout(LINGER_TIMEOUT, conn.wait_for_close()).await;
            Ok(AfterRequest::Close)
        }
    }
}

/// Neither reads nor writes until the fault is over ([`FaultKind::Stall`]); the caller must reset the connection then.
pub async fn stall(conn: &Conn, rule: &Rule, cleared: &Notify) {
    let over = first_of(conn.wait_for_close(), cleared.notified());
    match rule.ms {
        Some(ms) => drop(tokio::time::timeout(Duration::from_millis(ms), over).await),
        None => drop(over.await),
    }
}

/// Makes a response many MiB long. The added spaces are at the first position that JSON or XML allows, so that the
/// content comes after them.
pub fn enlarge(response: &mut Response, rule: &Rule) {
    let size = rule.bytes.unwrap_or(64 * 1024 * 1024) as usize;
    if let Content::Bytes(bytes) = &response.content {
        let prolog = bytes.windows(2).position(|pair| pair == b"?>").map_or(0, |at| at + 2);
        let mut body = bytes[..prolog].to_vec();
        body.resize(prolog + size, b' ');
        body.extend_from_slice(&bytes[prolog..]);
        response.content = Content::Bytes(Bytes::from(body));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(rules: serde_json::Value) -> Result<Faults, String> {
        let mut faults = Faults::default();
        faults.add(serde_json::from_value(rules).map_err(|error| error.to_string())?)?;
        Ok(faults)
    }

    #[test]
    fn a_rule_applies_to_its_number_of_requests_and_to_its_path() {
        let mut faults = faults(serde_json::json!([
            {"stage": "cos", "fault": "status", "status": 503, "times": 1, "path": "/x"},
            {"stage": "cos", "fault": "early_2xx"},
        ]))
        .unwrap();
        let mut hit = |stage, key| faults.hit(stage, key).map(|rule| rule.fault);
        assert_eq!(hit(Stage::Link, "a/x"), None);
        assert_eq!(hit(Stage::Cos, "a/x"), Some(FaultKind::Status));
        assert_eq!(hit(Stage::Cos, "a/x"), Some(FaultKind::Early2xx));
        assert_eq!(hit(Stage::Cos, "b"), Some(FaultKind::Early2xx));
    }

    #[test]
    fn a_misspelt_or_incomplete_rule_is_refused() {
        for wrong in [
            serde_json::json!([{"stage": "cos", "fault": "slow"}]),
            serde_json::json!([{"stage": "cos", "fault": "nonsense"}]),
            serde_json::json!([{"stage": "cos", "fault": "delay", "ms": 1, "time": 1}]),
            serde_json::json!([{"stage": "link", "fault": "wrong_crc"}]),
            serde_json::json!([{"stage": "cos", "fault": "truncate"}]),
            serde_json::json!([{"stage": "object", "fault": "too_slow"}]),
            serde_json::json!([{"stage": "part", "fault": "error_200"}]),
            serde_json::json!([{"stage": "put", "fault": "status", "status": 503, "part": 1}]),
        ] {
            assert!(faults(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
