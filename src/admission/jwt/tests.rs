use super::*;

mod claims;
mod foreign;
mod keys;
mod sample;
mod signatures;
