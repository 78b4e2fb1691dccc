//! One HTTP/1.1 router: probes and status over TCP (read-only); the same plus verbs over the Unix socket.
//!
//! Every answer is made from [`Backend::status`]: a request never runs a probe and never touches a service, except for the verbs, which
//! exist on the Unix socket alone and for root and firstmate's own uid alone. Any bytes from a client end in an answer or a closed
//! connection; connections, header sizes and lifetimes are bounded by [`Limits`]. Nothing here shows a command line, and an environment only the
//! Unix socket: its names to everybody, its values to those who may use the verbs.
//!
//! The serve functions run on a current-thread runtime inside a `tokio::task::LocalSet`.

mod accept;
pub mod attach;
mod inside;
mod listen;
mod page;
mod probes;
mod router;
mod socket;
mod text;
mod update;
mod verbs;
mod wishes;

pub use listen::{Context, Counters, Limits, TcpError, bind_tcp, serve_tcp, serve_unix};
pub use socket::{BindError, Problem, SocketPath, UnixSocket, bind_first, default_sockets, sockets_of, sockets_of_project};
pub use text::printable;
pub use update::{ChangeKind, Diff, ServiceChange, Update, ValueChange};
pub use verbs::{Answer, Backend, Feed, Fill, MetricsFormat, Patience, Reading, Reply, Request, Scale, Variable, Variables, Verdict, Wish};
