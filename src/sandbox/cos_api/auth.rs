//! The signature of a request to the API (doc 7778), in the `Authorization` header or in parameters. Strict: both lists
//! are sorted, and all parameters and all `x-cos-*` headers are signed, except the security token, which the vendor's
//! SDK for Node adds behind the signature.

use super::super::cos_response::Refusal;
use super::super::fault::FaultKind;
use super::super::http::Head;
use super::super::keys::{FoundKey, now};
use super::super::sign;
use super::request::Request;

const TOKEN: &str = "x-cos-security-token";

struct Authorization<'a> {
    access_key: &'a str,
    sign_time: &'a str,
    key_time: &'a str,
    headers: Vec<&'a str>,
    parameters: Vec<&'a str>,
    signature: &'a str,
}

pub fn is_signed(head: &Head) -> bool {
    head.header("authorization").is_some() || head.parameter("q-signature").is_some()
}

pub fn verify(request: &Request) -> Result<(), Refusal> {
    let head = request.head;
    if !is_signed(head) {
        return Err(Refusal::new(403, "AccessDenied", "Access Denied."));
    }
    let authorization = read(head).ok_or_else(|| mismatch("a malformed Authorization"))?;
    let keys = request.sandbox.keys.borrow();
    let token = head.header(TOKEN).or_else(|| head.parameter(TOKEN));
    let secret = match keys.find(authorization.access_key, token) {
        FoundKey::Owner { secret } => secret,
        FoundKey::Temporary { secret } if !request.has_fault(FaultKind::ExpireKeys) => secret,
        FoundKey::Temporary { .. } | FoundKey::Expired => {
            return Err(Refusal::new(403, "ExpiredToken", "The provided token has expired."));
        }
        FoundKey::Unknown => {
            let message = "The Access Key Id you provided does not exist in our records.";
            return Err(Refusal::new(403, "InvalidAccessKeyId", message));
        }
    };
    check_time(authorization.sign_time)?;
    check_time(authorization.key_time)?;
    check_lists(head, &authorization)?;
    check_signature(head, &authorization, secret)
}

fn mismatch(reason: &str) -> Refusal {
    Refusal {
        reason: Some(reason.to_owned()),
        ..Refusal::new(403, "SignatureDoesNotMatch", "The Signature you specified is invalid.")
    }
}

fn read(head: &Head) -> Option<Authorization<'_>> {
    const NAMES: [&str; 7] = [
        "q-sign-algorithm",
        "q-ak",
        "q-sign-time",
        "q-key-time",
        "q-header-list",
        "q-url-param-list",
        "q-signature",
    ];
    let mut values = [""; 7];
    if let Some(text) = head.header("authorization") {
        let mut parts = text.split('&');
        for (name, value) in NAMES.into_iter().zip(&mut values) {
            *value = parts.next()?.strip_prefix(name)?.strip_prefix('=')?;
        }
        if parts.next().is_some() {
            return None;
        }
    } else {
        for (name, value) in NAMES.into_iter().zip(&mut values) {
            *value = head.parameter(name)?;
        }
    }
    let [algorithm, access_key, sign_time, key_time, headers, parameters, signature] = values;
    (algorithm == "sha1").then(|| Authorization {
        access_key,
        sign_time,
        key_time,
        headers: names(headers),
        parameters: names(parameters),
        signature,
    })
}

fn names(list: &str) -> Vec<&str> {
    if list.is_empty() { Vec::new() } else { list.split(';').collect() }
}

fn check_time(time: &str) -> Result<(), Refusal> {
    let (from, until) = time.split_once(';').ok_or_else(|| mismatch("a malformed time"))?;
    let seconds = |text: &str| text.parse::<u64>().map_err(|_| mismatch("a malformed time"));
    let (from, until, now) = (seconds(from)?, seconds(until)?, now());
    if now < from {
        let message = "The difference between the request time and the current time is too large.";
        return Err(Refusal::new(403, "RequestTimeTooSkewed", message));
    }
    if now > until {
        return Err(Refusal::new(403, "AccessDenied", "Request has expired"));
    }
    Ok(())
}

fn check_lists(head: &Head, authorization: &Authorization) -> Result<(), Refusal> {
    for list in [&authorization.headers, &authorization.parameters] {
        let lower = list.iter().all(|name| name.bytes().all(|byte| !byte.is_ascii_uppercase()));
        if !lower || !list.is_sorted_by(|first, second| first < second) {
            return Err(mismatch("a list of names that is not sorted or not in lower case"));
        }
    }
    let headers = head.headers().map(|(name, _)| name.to_ascii_lowercase());
    let unsigned_header = headers
        .filter(|name| name.starts_with("x-cos-") && name != TOKEN)
        .find(|name| !authorization.headers.contains(&name.as_str()));
    let parameters = head.query.iter().map(|(name, _)| encoded_name(name));
    let unsigned_parameter = parameters
        .filter(|name| !name.starts_with("q-") && name != TOKEN)
        .find(|name| !authorization.parameters.contains(&name.as_str()));
    match unsigned_header.or(unsigned_parameter) {
        Some(name) => Err(mismatch(&format!("{name} is not signed"))),
        None => Ok(()),
    }
}

fn encoded_name(name: &str) -> String {
    sign::encoded(name).to_lowercase()
}

fn check_signature(
    head: &Head,
    authorization: &Authorization,
    secret: &str,
) -> Result<(), Refusal> {
    let absent = |name: &str| mismatch(&format!("{name} is signed, but not in the request"));
    let mut headers = Vec::new();
    for name in &authorization.headers {
        headers.push((*name, head.header(name).ok_or_else(|| absent(name))?));
    }
    let mut parameters = Vec::new();
    for name in &authorization.parameters {
        let found = head.query.iter().find(|(known, _)| encoded_name(known) == *name);
        parameters.push((*name, found.ok_or_else(|| absent(name))?.1.as_str()));
    }
    let matches = |headers: &[(&str, &str)]| {
        let text = sign::http_string(&head.method, &head.path, &parameters, headers);
        let (key_time, sign_time) = (authorization.key_time, authorization.sign_time);
        let right = sign::sign_http_string(secret, key_time, sign_time, &text);
        sign::constant_time_eq(&right, authorization.signature)
    };
    if matches(&headers) {
        return Ok(());
    }
    // The vendor's SDKs sign the host without its port.
    if let Some((_, host)) = headers.iter_mut().find(|(name, _)| *name == "host")
        && let Some((name, _)) = host.rsplit_once(':')
    {
        *host = name;
    }
    if matches(&headers) { Ok(()) } else { Err(mismatch("another signature is right")) }
}
