//! vibewarden
pub mod config;
