//! Hangs of this session.

use std::ffi::{c_char, c_int};
use std::time::Duration;

use gpu_broker_client::protocol::hang::HangCause;

use crate::boundary::{borrow, call, not_null, store};
use crate::connection::Connection;

/// A command could not be executed.
pub const GPU_BROKER_HANG_FAULT: u32 = 0;
/// The batch did not yield its engine when it was asked to.
pub const GPU_BROKER_HANG_HUNG: u32 = 1;
/// The batch ran and waited for too long.
pub const GPU_BROKER_HANG_TIMED_OUT: u32 = 2;
/// The device failed.
pub const GPU_BROKER_HANG_DEVICE: u32 = 3;

/// A batch of this session that died.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Hang {
    /// The daemon's number of it, as in its log and for `gpu-broker hang show`.
    pub hang: u64,
    /// GPU address of the batch.
    pub batch: u64,
    /// GPU address of the command it died in.
    pub address: u64,
    /// Id of the context.
    pub context: u32,
    /// Class of the engine, one of GPU_BROKER_CLASS_*.
    pub engine_class: u16,
    /// Its instance.
    pub engine_instance: u16,
    /// One of GPU_BROKER_HANG_*.
    pub cause: u32,
    /// Hangs of this session that nobody was told of, right before this one.
    pub lost: u32,
    /// The command's name; cut if need be, and ends with a zero.
    pub command: [c_char; 48],
    /// What was wrong, in words; cut if need be, and ends with a zero.
    pub what: [c_char; 208],
}

/// The next batch of this session that died. Waits for one for as long as `timeout_ms`, for ever if
/// that is negative. 1 if there was one, 0 if not.
///
/// # Safety
/// `connection` is NULL or a live connection; `hang` can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpu_broker_next_hang(
    connection: *const Connection,
    timeout_ms: i64,
    hang: *mut Hang,
) -> c_int {
    call(|| {
        not_null(hang, "hang")?;
        // SAFETY: this function's contract is `borrow`'s.
        let connection = unsafe { borrow(connection, "connection") }?;
        let timeout = u64::try_from(timeout_ms).ok().map(Duration::from_millis);
        let Some(event) = connection.0.next_hang(timeout)? else { return Ok(0) };
        let found = Hang {
            hang: event.hang,
            batch: event.batch,
            address: event.address,
            context: event.context.0,
            engine_class: event.engine.class,
            engine_instance: event.engine.instance,
            cause: match event.cause {
                HangCause::Fault => GPU_BROKER_HANG_FAULT,
                HangCause::Hung => GPU_BROKER_HANG_HUNG,
                HangCause::TimedOut => GPU_BROKER_HANG_TIMED_OUT,
                HangCause::Device => GPU_BROKER_HANG_DEVICE,
            },
            lost: event.lost,
            command: cut(&event.command),
            what: cut(&event.what),
        };
        // SAFETY: checked for null above, and writable by this function's contract.
        unsafe { store(hang, found) };
        Ok(1)
    })
}

/// As much of a text as fits before a zero, in whole characters; what is no text to C ends it.
fn cut<const N: usize>(text: &str) -> [c_char; N] {
    let mut end = text.find('\0').unwrap_or(text.len()).min(N.saturating_sub(1));
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut out = [0; N];
    for (place, byte) in out.iter_mut().zip(text.bytes().take(end)) {
        *place = c_char::from_ne_bytes([byte]);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_between_characters_and_end_with_a_zero() {
        let text = |chars: &[c_char]| {
            let end = chars.iter().position(|c| *c == 0).expect("a zero");
            let bytes: Vec<u8> = chars[..end].iter().map(|c| c.to_ne_bytes()[0]).collect();
            String::from_utf8(bytes).expect("whole characters")
        };
        assert_eq!(text(&cut::<8>("MI_NOOP")), "MI_NOOP");
        assert_eq!(text(&cut::<7>("MI_NOOP")), "MI_NOO");
        assert_eq!(text(&cut::<4>("ab\u{20ac}")), "ab");
        assert_eq!(text(&cut::<8>("a\0b")), "a");
        assert_eq!(text(&cut::<1>("abc")), "");
    }
}
