//! The rules against their definitions, for every format.

mod bounds;
mod common;
mod elementwise;
mod linear;
mod refusals;
mod threads;
mod toward_retain;
