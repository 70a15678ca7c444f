//! The combiners against their definitions, for every format.

#[cfg(feature = "baseline")]
mod baseline;
mod common;
mod elementwise;
mod linear;
mod refusals;
mod threads;
mod toward_retain;
