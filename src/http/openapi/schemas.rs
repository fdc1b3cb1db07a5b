//! Schemas of types that do not derive one.

use std::borrow::Cow;

use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use super::failures::explained;
use crate::http::problem::Code;
use crate::key::{Key, MAX_KEY};
use crate::settings::ReplyProfile;

impl PartialSchema for Code {
    fn schema() -> RefOr<Schema> {
        let codes = Self::ALL.iter();
        let texts = codes.map(|code| format!("{} ({})", explained(*code), code.status().as_u16()));
        let texts: Vec<_> = texts.collect();
        let intro = "The cause of the failure. Codes are stable, so programs may depend on them.";
        text(format!("{intro}\n\n{}", texts.join("\n")))
            .enum_values(Some(Self::ALL.iter().map(|code| code.name())))
            .into()
    }
}

impl ToSchema for Code {}

impl PartialSchema for Key {
    fn schema() -> RefOr<Schema> {
        text(format!("An object's path; at most {MAX_KEY} bytes of UTF-8"))
            .pattern(Some(Self::pattern()))
            .min_length(Some(1))
            .max_length(Some(MAX_KEY))
            // Without an example, Swagger UI would generate one from the pattern.
            .examples(["docs/hello.txt"])
            .into()
    }
}

impl ToSchema for Key {
    fn name() -> Cow<'static, str> {
        "Path".into()
    }
}

impl PartialSchema for ReplyProfile {
    fn schema() -> RefOr<Schema> {
        text(
            "The format of the response to an upload, for the editor or widget that reads it"
                .to_owned(),
        )
        .enum_values(Some(Self::ALL.iter().map(|profile| profile.name())))
        .into()
    }
}

impl ToSchema for ReplyProfile {}

fn text(description: String) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String).description(Some(description))
}
