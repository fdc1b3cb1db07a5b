//! A request to the API with its key and the fault that applies to it.

use std::rc::Rc;

use super::super::cos_response::Refusal;
use super::super::fault::{FaultKind, Rule, Stage};
use super::super::http::Head;
use super::super::state::SandboxState;

/// A request and the fault that applies to it.
pub struct Request<'a> {
    pub sandbox: &'a Rc<SandboxState>,
    pub head: &'a Head,
    /// Empty for an operation on the bucket.
    pub key: &'a str,
    pub rule: Option<&'a Rule>,
}

impl Request<'_> {
    /// An object's key, which must be there.
    pub fn object_key(&self) -> Result<&str, Refusal> {
        if self.key.is_empty() {
            return Err(Refusal::new(403, "AccessDenied", "Access Denied."));
        }
        if self.key.len() > 850 {
            return Err(Refusal::new(400, "KeyTooLong", "Your key is too long."));
        }
        Ok(self.key)
    }

    pub fn has_fault(&self, kind: FaultKind) -> bool {
        self.rule.is_some_and(|rule| rule.is(kind))
    }

    /// Whether the operation is executed: not where a fault takes the place of its response, unless the rule says so.
    pub fn executes(&self) -> bool {
        self.rule.is_none_or(|rule| match rule.fault {
            FaultKind::Status
            | FaultKind::Early
            | FaultKind::Huge
            | FaultKind::Stall
            | FaultKind::Close
            | FaultKind::Garbage => rule.store.unwrap_or(false),
            FaultKind::ResetWithin if rule.stage != Stage::Put && rule.stage != Stage::Part => true,
            FaultKind::ResetWithin => rule.store.unwrap_or(false),
            _ => true,
        })
    }

    /// The ETag as the response has it, quoted.
    pub fn reported_etag(&self, etag: &str) -> String {
        if self.has_fault(FaultKind::WrongEtag) {
            return format!("\"{:032x}\"", fastrand::u128(..));
        }
        etag.to_owned()
    }

    /// The header with the CRC as the response has it.
    pub fn crc_header(&self, crc64: u64) -> Option<(&'static str, String)> {
        let reported = match self.rule.map(|rule| rule.fault) {
            Some(FaultKind::NoCrc) => return None,
            Some(FaultKind::WrongCrc) => crc64 ^ 1,
            _ => crc64,
        };
        Some(("x-cos-hash-crc64ecma", reported.to_string()))
    }

    /// Refuses a host whose first label is the name of another bucket.
    pub fn check_host(&self) -> Result<(), Refusal> {
        let host = self.head.header("host").unwrap_or_default();
        let Some((label, _)) = host.split_once('.') else { return Ok(()) };
        // The name of a bucket ends with the owner's APPID, a number of ten digits.
        let is_bucket = label.rsplit_once('-').is_some_and(|(_, appid)| {
            appid.len() == 10 && appid.bytes().all(|byte| byte.is_ascii_digit())
        });
        if is_bucket && label != self.sandbox.bucket {
            return Err(Refusal::new(404, "NoSuchBucket", "The specified bucket does not exist."));
        }
        Ok(())
    }
}
