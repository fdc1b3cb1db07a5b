//! The problem codes that each operation may respond with. Their meaning and the advice are in `problem::code`.

use utoipa::Modify;
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::response::ResponseBuilder;
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{OpenApi, Ref};

use super::operations::operations;
use crate::http::problem::Code;

/// Any request.
const ANY: &[Code] = &[Code::OriginNotAllowed, Code::Internal];
/// A request that needs permission and counts against a rate.
const CLIENT: &[Code] =
    &[Code::Unauthenticated, Code::NotAllowed, Code::InvalidRequest, Code::RateLimited];
/// A path in the request.
const PATH: &[Code] = &[Code::InvalidPath, Code::PathNotAllowed];
/// A request body.
const BODY: &[Code] = &[
    Code::InvalidRequest,
    Code::TruncatedBody,
    Code::ClientStalled,
    Code::ClientTooSlow,
    Code::UploadTooSlow,
    Code::FieldsTooLarge,
    Code::EncodingNotSupported,
];
/// A call to WeChat.
const WECHAT: &[Code] = &[
    Code::WechatRefused,
    Code::WechatUnreachable,
    Code::CredentialUnavailable,
    Code::WechatTimeout,
];
/// An upload to COS.
const UPLOAD: &[Code] = &[
    Code::LengthMismatch,
    Code::LengthRequired,
    Code::FileTooLarge,
    Code::DailyQuotaExceeded,
    Code::TotalQuotaExceeded,
    Code::TypeNotAllowed,
    Code::Overloaded,
    Code::Draining,
    Code::LinkNotAllowed,
    Code::CosRefused,
    Code::CosUnreachable,
    Code::IntegrityMismatch,
    Code::RefusedByHook,
    Code::CosBusy,
    Code::CosTimeout,
];
/// A HEAD request to COS.
const INFO: &[Code] = &[
    Code::LinkNotAllowed,
    Code::CosRefused,
    Code::CosUnreachable,
    Code::CosBusy,
    Code::CosTimeout,
];
/// A multipart form.
const FORM: &[Code] = &[
    Code::MalformedForm,
    Code::NoFile,
    Code::FieldAfterFile,
    Code::FileNotLast,
    Code::TooManyFiles,
    Code::NotMultipart,
];

/// The codes of the operation `id`, in the order of [`Code::ALL`].
pub fn failures(id: &str) -> Vec<Code> {
    let groups: &[&[Code]] = match id {
        "upload" => &[CLIENT, PATH, BODY, FORM, UPLOAD, WECHAT],
        "upload_raw" => &[CLIENT, PATH, BODY, &[Code::TooManyFiles], UPLOAD, WECHAT],
        "file" => &[CLIENT, PATH, &[Code::FileNotFound], WECHAT, INFO],
        "file_head" => &[CLIENT, PATH, &[Code::FileNotFound], WECHAT],
        "revert" => &[CLIENT, PATH, BODY, WECHAT],
        "ueditor" => &[&[Code::InvalidRequest, Code::MethodNotAllowed]],
        "delete_file" => &[CLIENT, PATH, WECHAT],
        "download_links" | "delete_files" | "stable_links" => {
            &[CLIENT, BODY, &[Code::TooManyFiles, Code::Overloaded], WECHAT]
        }
        "upload_link" => &[CLIENT, PATH, BODY, &[Code::TooManyFiles, Code::LinkNotAllowed], WECHAT],
        "mint_ticket" => &[CLIENT, PATH, BODY, &[Code::NotFound, Code::TooManyFiles]],
        // `/` without `cloudid`, unless the console is there.
        "sample" => &[&[Code::NotFound]],
        "ready" | "ready_head" => &[&[Code::Draining], WECHAT],
        _ => &[],
    };
    let listed: Vec<_> = groups.iter().copied().chain([ANY]).flatten().copied().collect();
    Code::ALL.iter().copied().filter(|code| listed.contains(code)).collect()
}

/// Adds the error responses of each operation, by status.
pub struct Failures;

impl Modify for Failures {
    fn modify(&self, openapi: &mut OpenApi) {
        for operation in operations(openapi) {
            let id = operation.operation_id.clone().unwrap_or_default();
            let codes = failures(&id);
            let takes_profile = ["upload", "upload_raw", "revert"].contains(&id.as_str());
            for code in &codes {
                let status = code.status().as_u16();
                let same_status = codes.iter().filter(|other| other.status().as_u16() == status);
                let texts: Vec<_> = same_status.map(|code| explained(*code)).collect();
                let mut response = ResponseBuilder::new().description(texts.join("\n"));
                if !id.ends_with("_head") {
                    let document = Ref::from_schema_name("Problem");
                    let document = ContentBuilder::new().schema(Some(document)).build();
                    response = response.content("application/problem+json", document);
                    if takes_profile {
                        // The format of an editor, or a response for several files of which some failed.
                        for kind in ["application/json", "text/plain"] {
                            response = response.content(kind, ContentBuilder::new().build());
                        }
                    }
                }
                if matches!(status, 429 | 503) {
                    let seconds = ObjectBuilder::new().schema_type(Type::Integer);
                    let header =
                        HeaderBuilder::new().schema(Some(seconds)).description(Some("Seconds"));
                    response = response.header("retry-after", header.build());
                }
                operation.responses.responses.insert(status.to_string(), response.build().into());
            }
        }
    }
}

/// A code's line in a Markdown list.
pub fn explained(code: Code) -> String {
    format!("- `{}`: {}. {}", code.name(), code.title(), code.remedy())
}
