//! The COS side: which operation a request is.

use std::rc::Rc;

use super::conn::{Conn, Flow};
use super::cos_reply::Refusal;
use super::http::{Broken, Head};
use super::world::World;
use super::{get_object, post_object};

pub async fn handle(world: &Rc<World>, conn: &mut Conn, head: &Head) -> Result<Flow, Broken> {
    match head.method.as_str() {
        "POST" => post_object::handle(world, conn, head).await,
        "GET" | "HEAD" => get_object::handle(world, conn, head).await,
        _ => {
            let refusal = Refusal::new(
                405,
                "MethodNotAllowed",
                "The specified method is not allowed against this resource.",
            );
            refusal.note(world, None);
            conn.send(refusal.reply(&head.path)).await
        }
    }
}
