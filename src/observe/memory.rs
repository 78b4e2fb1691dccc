//! What the memory guard has to tell, as sentences.

use std::fmt::{self, Write};

use super::Level;
use super::notice::Names;
use crate::engine::MemoryNotice;

pub(super) fn write(text: &mut String, notice: &MemoryNotice, _names: &dyn Names) -> Result<Level, fmt::Error> {
    write!(text, "{notice:?}")?;
    Ok(Level::Info)
}
