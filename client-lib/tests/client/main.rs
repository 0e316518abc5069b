//! The clients against a daemon that does exactly what a test says, also what no daemon would.

mod blocking;
mod fake;
mod on_tokio;
