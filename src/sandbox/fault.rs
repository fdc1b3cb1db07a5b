//! Faults on demand: the rules that control calls install, and how a faulty reply leaves. It knows the calls only by
//! their stage.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::conn::{Conn, Delivery, Flow, first_of};
use super::http::{Broken, Content, Response};

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    Token,
    Link,
    Download,
    Delete,
    Cos,
    Object,
}

impl Stage {
    pub fn is_cos(self) -> bool {
        matches!(self, Stage::Cos | Stage::Object)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A reset right at accept. On the WeChat side it waits for the first head, or the control calls that lift it
    /// could not get in. Kept-alive connections of that side are reset when the rule is installed.
    Refuse,
    /// A reset as soon as the request's head is read.
    ResetBefore,
    /// `cos`: a reset after that many bytes of the file; elsewhere, of the reply's body.
    ResetWithin,
    /// Never answers. `cos` with `after`: stops reading behind that many bytes of the file. Ends when the peer leaves,
    /// when the faults are cleared, or after `ms`.
    Stall,
    /// `cos`: reads slowly; elsewhere: answers slowly.
    Slow,
    /// Answers late.
    Delay,
    Status,
    /// Not HTTP.
    Garbage,
    /// A reply of many MiB.
    Huge,
    /// Closes without a reply after the whole request.
    Close,
    /// `cos`: an error before the body's end.
    Early,
    /// `cos`: a success before the body's end. Nothing is stored.
    #[serde(rename = "early_2xx")]
    Early2xx,
    Errcode,
    WrongCrc,
    NoCrc,
    /// Answers, then closes the connection that it promised to keep.
    CloseIdle,
    ExpiredLink,
    /// The link's `url` is this one; `{path}` in it is the path that was asked for.
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
    pub fault: Kind,
    /// How often it still strikes; absent: always.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub times: Option<u64>,
    /// Only keys that contain this text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
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
    /// `huge`: the size of the reply.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// `cos`: the object is stored before the fault strikes, so only the reply is lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<bool>,
    /// How often it has struck.
    #[serde(default)]
    pub hits: u64,
}

impl Rule {
    /// What is missing or does not fit together, for the control call's answer.
    fn check(&self) -> Result<(), String> {
        let needs = |there: bool, what: &str| {
            if there { Ok(()) } else { Err(format!("{:?} needs {what}", self.fault)) }
        };
        match self.fault {
            Kind::Slow => {
                needs(self.bytes_per_second.is_some_and(|rate| rate > 0), "bytes_per_second")?
            }
            Kind::Delay => needs(self.ms.is_some(), "ms")?,
            Kind::Status | Kind::Early => needs(
                self.status.is_some_and(|status| (200..600).contains(&status)),
                "a status from 200 to 599",
            )?,
            Kind::Errcode => needs(self.errcode.is_some(), "errcode")?,
            Kind::ForeignHost => needs(self.url.is_some(), "url")?,
            _ => {}
        }
        let fits = match self.fault {
            Kind::Early | Kind::Early2xx | Kind::WrongCrc | Kind::NoCrc => self.stage == Stage::Cos,
            Kind::Errcode => !self.stage.is_cos(),
            Kind::ExpiredLink | Kind::ForeignHost => self.stage == Stage::Link,
            _ => true,
        };
        if fits {
            Ok(())
        } else {
            Err(format!("{:?} has no meaning at the stage {:?}", self.fault, self.stage))
        }
    }

    pub fn is(&self, kind: Kind) -> bool {
        self.fault == kind
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

    /// The first rule that strikes this request. `keys` is whatever the request names, joined.
    pub fn strike(&mut self, stage: Stage, keys: &str) -> Option<Rule> {
        self.strike_where(|rule| {
            rule.stage == stage
                && !rule.is(Kind::Refuse)
                && rule.path.as_deref().is_none_or(|path| keys.contains(path))
        })
    }

    /// A reset at the head cannot wait for a body that names the key.
    pub fn strike_at_head(&mut self, stage: Stage) -> bool {
        let struck = self.strike_where(|rule| {
            rule.stage == stage && rule.is(Kind::ResetBefore) && rule.path.is_none()
        });
        struck.is_some()
    }

    pub fn refuses(&mut self, cos: bool) -> bool {
        self.strike_where(|rule| rule.is(Kind::Refuse) && rule.stage.is_cos() == cos).is_some()
    }

    fn strike_where(&mut self, fits: impl Fn(&Rule) -> bool) -> Option<Rule> {
        let rule = self.rules.iter_mut().find(|rule| rule.times != Some(0) && fits(rule))?;
        rule.times = rule.times.map(|times| times - 1);
        rule.hits += 1;
        Some(rule.clone())
    }
}

/// Sends a reply the way the rule wants it sent. Kinds that change what the reply says were applied before.
pub async fn answer(
    conn: &mut Conn,
    rule: Option<&Rule>,
    reply: Response,
    lifted: &Notify,
) -> Result<Flow, Broken> {
    let Some(rule) = rule else {
        return conn.send(reply).await;
    };
    match rule.fault {
        Kind::ResetBefore => Ok(Flow::Reset),
        Kind::ResetWithin => {
            let how = Delivery { cut_after: Some(rule.after.unwrap_or(0)), ..Delivery::default() };
            conn.deliver(reply, how).await
        }
        Kind::Slow => {
            let how = Delivery { bytes_per_second: rule.bytes_per_second, ..Delivery::default() };
            conn.deliver(reply, how).await
        }
        Kind::Stall => {
            stall(conn, rule, lifted).await;
            Ok(Flow::Reset)
        }
        Kind::Close => Ok(Flow::Close),
        Kind::Garbage => {
            conn.send_raw(b"\x16\x03\x01\x02\x00 this is not HTTP \xff\xfe\r\n\r\n").await?;
            Ok(Flow::Close)
        }
        Kind::Delay => {
            tokio::time::sleep(Duration::from_millis(rule.ms.unwrap_or(0))).await;
            conn.send(reply).await
        }
        Kind::CloseIdle => {
            conn.send(reply).await?;
            Ok(Flow::Close)
        }
        _ => conn.send(reply).await,
    }
}

/// Neither reads nor writes until there is a reason to give up; the caller resets the connection then.
pub async fn stall(conn: &Conn, rule: &Rule, lifted: &Notify) {
    let ends = first_of(conn.wait_for_peer_to_leave(), lifted.notified());
    match rule.ms {
        Some(ms) => drop(tokio::time::timeout(Duration::from_millis(ms), ends).await),
        None => drop(ends.await),
    }
}

/// Makes a reply many MiB long: spaces go where JSON and XML allow them first, so that its meaning comes last.
pub fn swell(reply: &mut Response, rule: &Rule) {
    let size = rule.bytes.unwrap_or(64 * 1024 * 1024) as usize;
    if let Content::Bytes(bytes) = &reply.content {
        let prolog = bytes.windows(2).position(|pair| pair == b"?>").map_or(0, |at| at + 2);
        let mut body = bytes[..prolog].to_vec();
        body.resize(prolog + size, b' ');
        body.extend_from_slice(&bytes[prolog..]);
        reply.content = Content::Bytes(Bytes::from(body));
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
    fn a_rule_strikes_as_often_as_it_says_and_where_it_says() {
        let mut faults = faults(serde_json::json!([
            {"stage": "cos", "fault": "status", "status": 503, "times": 1, "path": "/x"},
            {"stage": "cos", "fault": "early_2xx"},
        ]))
        .unwrap();
        let mut strike = |stage, key| faults.strike(stage, key).map(|rule| rule.fault);
        assert_eq!(strike(Stage::Link, "a/x"), None);
        assert_eq!(strike(Stage::Cos, "a/x"), Some(Kind::Status));
        assert_eq!(strike(Stage::Cos, "a/x"), Some(Kind::Early2xx));
        assert_eq!(strike(Stage::Cos, "b"), Some(Kind::Early2xx));
    }

    #[test]
    fn a_misspelt_or_incomplete_rule_is_refused() {
        for wrong in [
            serde_json::json!([{"stage": "cos", "fault": "slow"}]),
            serde_json::json!([{"stage": "cos", "fault": "nonsense"}]),
            serde_json::json!([{"stage": "cos", "fault": "delay", "ms": 1, "time": 1}]),
            serde_json::json!([{"stage": "link", "fault": "wrong_crc"}]),
        ] {
            assert!(faults(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
