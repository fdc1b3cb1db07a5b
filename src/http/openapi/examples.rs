//! The examples: requests that succeed unchanged against the sandbox, and its responses.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use utoipa::Modify;
use utoipa::openapi::path::ParameterBuilder;
use utoipa::openapi::{Content, OpenApi, RefOr};

use super::operations::operations;

/// An operation's entry in `examples.json`.
#[derive(Deserialize)]
struct Example {
    /// By name.
    #[serde(default)]
    parameters: BTreeMap<String, Value>,
    body: Option<Value>,
    /// By status; `null` where the response has no JSON.
    responses: BTreeMap<String, Option<Value>>,
}

/// Adds each operation's example to the description.
pub struct Examples;

impl Modify for Examples {
    fn modify(&self, openapi: &mut OpenApi) {
        let examples = serde_json::from_str(include_str!("examples.json"));
        let mut examples: BTreeMap<String, Example> =
            examples.expect("examples.json is valid, as a test checks");
        for operation in operations(openapi) {
            let id = operation.operation_id.as_deref().unwrap_or_default();
            let Some(example) = examples.remove(id) else { continue };
            for parameter in operation.parameters.iter_mut().flatten() {
                if let RefOr::T(parameter) = parameter {
                    let value = example.parameters.get(&parameter.name).cloned();
                    *parameter = ParameterBuilder::from(parameter.clone()).example(value).build();
                }
            }
            if let Some(RefOr::T(request)) = &mut operation.request_body {
                request
                    .content
                    .values_mut()
                    .for_each(|content| set_example(content, example.body.as_ref()));
            }
            for (status, body) in &example.responses {
                if let Some(RefOr::T(response)) = operation.responses.responses.get_mut(status) {
                    response
                        .content
                        .values_mut()
                        .take(1)
                        .for_each(|content| set_example(content, body.as_ref()));
                }
            }
        }
    }
}

fn set_example(content: &mut RefOr<Content>, example: Option<&Value>) {
    if let RefOr::T(content) = content {
        content.example = example.cloned();
    }
}
