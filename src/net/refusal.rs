//! What the owner's own servers say when they refuse something.

use serde_json::Value;

/// Characters that reach the client.
const MAX_DETAIL: usize = 300;

/// What a refusal says: `detail`, `message` or `error` of its JSON, without control characters and not too long.
pub fn detail_of(body: &[u8]) -> Option<String> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let text = ["detail", "message", "error"].iter().find_map(|name| body.get(name)?.as_str())?;
    let text: String = text.chars().filter(|c| !c.is_control()).take(MAX_DETAIL).collect();
    (!text.trim().is_empty()).then_some(text)
}
