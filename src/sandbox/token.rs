//! Access tokens: plain, stable and authorizers' ones, independent of each other. They expire, a new one invalidates
//! the previous one of its kind, and they can be revoked. Knows nothing of HTTP.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// In characters: WeChat's documentation says that a token may have 512 or more.
const LENGTH: usize = 512;
const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
/// `force_refresh` is limited to 20 a day; within 30 s of the last one it refreshes nothing (getStableAccessToken).
const FORCE_APART: Duration = Duration::from_secs(30);
const FORCE_A_DAY: usize = 20;
const DAY: Duration = Duration::from_secs(86_400);

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Verdict {
    Good,
    /// 41001
    Missing,
    /// 40014: it does not have the form of a token.
    Malformed,
    /// 40001: replaced, revoked or unknown.
    Stale,
    /// 42001
    Expired,
}

struct Issued {
    expires: Instant,
    /// When it was revoked, or was or will be invalidated by a newer one.
    invalid_from: Option<Instant>,
}

pub struct Tokens {
    life: Duration,
    overlap: Duration,
    issued: HashMap<String, Issued>,
    plain: Option<String>,
    stable: Option<String>,
    authorizer: Option<String>,
    /// The stable token that is refused although it is still returned ([`Self::spoil`]).
    spoilt: Option<String>,
    forced: VecDeque<Instant>,
    /// The valid `cloudbase_access_token`, which the platform issues, not WeChat's API.
    pub cloudbase: Option<String>,
    /// Calls need no token, as behind the platform's sidecar.
    pub open: bool,
    /// The third-party platform's own token, which WeChat issues to the platform, not to the gateway.
    pub component: Option<String>,
    /// The token that the authorizer's token is fetched with; `None`: the authorization was revoked.
    pub refresh: Option<String>,
}

/// The force-refresh quota of the day is used up (45009).
#[derive(Debug, PartialEq)]
pub struct QuotaUsedUp;

impl Tokens {
    pub fn new(life: Duration, overlap: Duration) -> Tokens {
        Tokens {
            life,
            overlap,
            issued: HashMap::new(),
            plain: None,
            stable: None,
            authorizer: None,
            spoilt: None,
            forced: VecDeque::new(),
            cloudbase: None,
            open: false,
            component: None,
            refresh: None,
        }
    }

    /// `cgi-bin/token`: always a new token; the previous one is valid for the overlap only.
    pub fn plain(&mut self) -> (String, u64) {
        let before = self.plain.take();
        let token = self.issue_replacing(before);
        self.plain = Some(token.clone());
        (token, self.life.as_secs())
    }

    /// `api_authorizer_token`: as [`Self::plain`], but independent of the app's own tokens.
    pub fn authorizer(&mut self) -> (String, u64) {
        let before = self.authorizer.take();
        let token = self.issue_replacing(before);
        self.authorizer = Some(token.clone());
        (token, self.life.as_secs())
    }

    fn issue_replacing(&mut self, before: Option<String>) -> String {
        let now = Instant::now();
        if let Some(before) = before.and_then(|token| self.issued.get_mut(&token)) {
            before.invalid_from.get_or_insert(now + self.overlap);
        }
        self.issue(now)
    }

    /// `cgi-bin/stable_token`: the same token until shortly before it expires, with the seconds it has left.
    pub fn stable(&mut self, force: bool) -> Result<(String, u64), QuotaUsedUp> {
        let now = Instant::now();
        // Five minutes at WeChat; half of the life where that is shorter.
        let margin = self.overlap.min(self.life / 2);
        let current = self.stable.clone().and_then(|token| {
            let issued = self.issued.get(&token)?;
            (issued.invalid_from.is_none() && issued.expires > now + margin)
                .then_some((token, issued.expires))
        });
        if force && self.may_force(now)? {
            self.forced.push_back(now);
            let before = self.stable.take();
            if let Some(before) = before.and_then(|token| self.issued.get_mut(&token)) {
                before.invalid_from = Some(now);
            }
        } else if let Some((token, expires)) = current {
            return Ok((token, expires.duration_since(now).as_secs()));
        }
        let token = self.issue(now);
        self.stable = Some(token.clone());
        Ok((token, self.life.as_secs()))
    }

    fn may_force(&mut self, now: Instant) -> Result<bool, QuotaUsedUp> {
        self.forced.retain(|at| now.duration_since(*at) < DAY);
        if self.forced.len() >= FORCE_A_DAY {
            return Err(QuotaUsedUp);
        }
        Ok(self.forced.back().is_none_or(|last| now.duration_since(*last) >= FORCE_APART))
    }

    pub fn check(&self, token: Option<&str>) -> Verdict {
        let Some(token) = token.filter(|token| !token.is_empty()) else {
            return if self.open { Verdict::Good } else { Verdict::Missing };
        };
        if token.len() != LENGTH || token.bytes().any(|b| !ALPHABET.contains(&b)) {
            return Verdict::Malformed;
        }
        if self.spoilt.as_deref() == Some(token) {
            return Verdict::Stale;
        }
        let now = Instant::now();
        match self.issued.get(token) {
            Some(issued) if now >= issued.expires => Verdict::Expired,
            Some(issued) if issued.invalid_from.is_none_or(|from| now < from) => Verdict::Good,
            _ => Verdict::Stale,
        }
    }

    /// Every token that was issued, and the platforms' tokens.
    pub fn all(&self) -> impl Iterator<Item = &String> {
        let others = [&self.cloudbase, &self.component, &self.refresh];
        self.issued.keys().chain(others.into_iter().flatten())
    }

    pub fn check_cloudbase(&self, token: &str) -> Verdict {
        if self.cloudbase.as_deref() == Some(token) { Verdict::Good } else { Verdict::Stale }
    }

    /// The stable token is refused from now on (40001), but returned until a refresh is forced.
    pub fn spoil(&mut self) {
        self.spoilt.clone_from(&self.stable);
    }

    /// Every token becomes invalid now: 40001.
    pub fn revoke(&mut self) {
        let now = Instant::now();
        self.clear_current();
        for issued in self.issued.values_mut() {
            issued.invalid_from = Some(now);
        }
    }

    /// Every token expires now: 42001.
    pub fn expire(&mut self) {
        let now = Instant::now();
        self.clear_current();
        for issued in self.issued.values_mut() {
            issued.expires = issued.expires.min(now);
        }
    }

    fn clear_current(&mut self) {
        self.plain = None;
        self.stable = None;
        self.authorizer = None;
        self.cloudbase = None;
    }

    fn issue(&mut self, now: Instant) -> String {
        self.issued.retain(|_, issued| now < issued.expires + Duration::from_secs(3600));
        let token: String =
            (0..LENGTH).map(|_| char::from(ALPHABET[fastrand::usize(..ALPHABET.len())])).collect();
        let issued = Issued { expires: now + self.life, invalid_from: None };
        self.issued.insert(token.clone(), issued);
        token
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(life: u64, overlap: u64) -> Tokens {
        Tokens::new(Duration::from_secs(life), Duration::from_secs(overlap))
    }

    #[test]
    fn a_new_plain_token_invalidates_the_previous_one_but_no_stable_one() {
        let mut tokens = tokens(7200, 0);
        let (stable, _) = tokens.stable(false).unwrap();
        let (first, _) = tokens.plain();
        let (second, life) = tokens.plain();
        assert_eq!(life, 7200);
        assert_eq!(tokens.check(Some(&first)), Verdict::Stale);
        assert_eq!(tokens.check(Some(&second)), Verdict::Good);
        assert_eq!(tokens.check(Some(&stable)), Verdict::Good);
    }

    #[test]
    fn within_the_overlap_both_tokens_are_valid() {
        let mut tokens = tokens(7200, 300);
        let (first, _) = tokens.plain();
        let (second, _) = tokens.plain();
        assert_eq!(tokens.check(Some(&first)), Verdict::Good);
        assert_eq!(tokens.check(Some(&second)), Verdict::Good);
    }

    #[test]
    fn the_stable_token_stays_until_a_refresh_is_forced() {
        let mut tokens = tokens(7200, 300);
        let (first, _) = tokens.stable(false).unwrap();
        assert_eq!(tokens.stable(false).unwrap().0, first);
        let (second, _) = tokens.stable(true).unwrap();
        assert_ne!(second, first);
        assert_eq!(tokens.check(Some(&first)), Verdict::Stale);
        // Within 30 s a second one changes nothing.
        assert_eq!(tokens.stable(true).unwrap().0, second);
    }

    #[test]
    fn each_kind_of_bad_token_has_its_own_verdict() {
        let mut tokens = tokens(7200, 300);
        let (token, _) = tokens.plain();
        assert_eq!(tokens.check(None), Verdict::Missing);
        assert_eq!(tokens.check(Some("x")), Verdict::Malformed);
        assert_eq!(tokens.check(Some(&"x".repeat(LENGTH))), Verdict::Stale);
        tokens.expire();
        assert_eq!(tokens.check(Some(&token)), Verdict::Expired);
        let (token, _) = tokens.stable(false).unwrap();
        tokens.revoke();
        assert_eq!(tokens.check(Some(&token)), Verdict::Stale);
        assert_ne!(tokens.stable(false).unwrap().0, token);
    }
}
