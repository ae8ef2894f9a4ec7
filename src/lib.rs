//! vibewarden
pub mod config;
pub mod admission;
pub mod wire;
pub mod demo;
