//! The language of the description and its pages.

use actix_web::HttpRequest;
use actix_web::http::header::{AcceptLanguage, Header, Preference, Quality};

use crate::http::extract::query::pairs;

/// A language that the texts are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    English,
    Chinese,
}

impl Language {
    /// The language named by `?lang=`, or else the one that `Accept-Language` prefers. Others are passed over; English
    /// if neither names one of ours.
    pub fn of(request: &HttpRequest) -> Self {
        Self::asked(request).or_else(|| Self::accepted(request)).unwrap_or(Self::English)
    }

    /// The language named by `?lang=`.
    pub fn asked(request: &HttpRequest) -> Option<Self> {
        let mut named = pairs(request.query_string()).filter(|(name, _)| *name == "lang");
        named.find_map(|(_, tag)| Self::from_tag(tag))
    }

    fn accepted(request: &HttpRequest) -> Option<Self> {
        let mut accepted = AcceptLanguage::parse(request).ok()?;
        accepted.retain(|item| item.quality > Quality::ZERO);
        accepted.ranked().iter().find_map(|preference| match preference {
            Preference::Any => None,
            Preference::Specific(tag) => Self::from_tag(tag.as_str()),
        })
    }

    /// By the tag's first part: `zh-Hans-CN` is Chinese.
    fn from_tag(tag: &str) -> Option<Self> {
        let primary = tag.split('-').next().unwrap_or_default();
        let all = [Self::English, Self::Chinese];
        all.into_iter().find(|language| primary.eq_ignore_ascii_case(language.tag()))
    }

    /// The value of `lang`, in URLs and in HTML.
    pub fn tag(self) -> &'static str {
        match self {
            Self::English => "en",
            Self::Chinese => "zh",
        }
    }
}
