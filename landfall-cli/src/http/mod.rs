//! What the servers of HTTP here have in common: the heads of requests, and what answers begin with.

mod request;
mod status;
mod target;

pub use request::{MOST_FIELDS, Method, Request};
pub use status::Status;
pub use target::origin_form;
