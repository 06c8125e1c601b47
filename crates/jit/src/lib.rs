//! placeholder

pub mod arena;
pub mod fault;
pub mod native;
