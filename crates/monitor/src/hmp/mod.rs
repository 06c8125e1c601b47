//! The monitor for people (HMP).

mod editor;
pub mod expression;
mod parse;
mod session;

pub use editor::Editor;
pub use parse::{comma_words, options, usage};
pub use session::{Session, execute};
