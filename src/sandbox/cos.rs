//! COS: which operation a request is.

use std::rc::Rc;

use super::conn::{AfterRequest, Conn};
use super::cos_api::Operation;
use super::cos_response::Refusal;
use super::http::{ConnError, Head};
use super::state::SandboxState;
use super::{cos_api, get_object, post_object};

pub async fn handle(
    sandbox: &Rc<SandboxState>,
    conn: &mut Conn,
    head: &Head,
) -> Result<AfterRequest, ConnError> {
    if let Some(operation) = Operation::of(head) {
        return cos_api::handle(sandbox, conn, head, operation).await;
    }
    match head.method.as_str() {
        "POST" => post_object::handle(sandbox, conn, head).await,
        "GET" | "HEAD" => get_object::handle(sandbox, conn, head).await,
        _ => {
            let refusal = Refusal::new(
                405,
                "MethodNotAllowed",
                "The specified method is not allowed against this resource.",
            );
            refusal.record(sandbox, None);
            conn.send(refusal.response(&head.path)).await
        }
    }
}
