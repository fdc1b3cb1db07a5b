//! OpenAPI schemas of the texts by which requests name a stored file or a folder.

use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use crate::key::{self, Key};

/// A stored file, by its id or its path.
pub struct IdOrPath;

impl PartialSchema for IdOrPath {
    fn schema() -> RefOr<Schema> {
        let path = Key::pattern();
        let path = path.trim_start_matches('^').trim_end_matches('$');
        text("A file's id (`cloud://ENV.BUCKET/PATH`) or its path".to_owned())
            .pattern(Some(format!(r"^(cloud://[^/\u0000-\u001f\u007f-\u009f]+/)?{path}$")))
            .into()
    }
}

impl ToSchema for IdOrPath {}

/// The folder that a client chooses for an upload.
pub struct Folder;

impl PartialSchema for Folder {
    fn schema() -> RefOr<Schema> {
        text("A folder for the path that is generated".to_owned())
            .pattern(Some(key::folder_pattern()))
            .examples(["docs"])
            .into()
    }
}

impl ToSchema for Folder {}

fn text(description: String) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String).description(Some(description))
}
