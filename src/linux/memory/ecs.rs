//! What ECS tells of a task's memory limits.
use crate::engine::status::LimitSource;

/// What the ECS task metadata told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EcsLimit {
    /// The limit.
    pub bytes: u64,
    /// The container's or the task's.
    pub source: LimitSource,
    /// The address.
    pub place: String,
}
