//! Iterates over the operations of a description.

use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::{self};

pub(super) fn operations(openapi: &mut openapi::OpenApi) -> impl Iterator<Item = &mut Operation> {
    openapi.paths.paths.values_mut().flat_map(|item| {
        let PathItem { get, put, post, delete, head, .. } = item;
        [get, put, post, delete, head].into_iter().flatten()
    })
}
