//! Where C ends and Rust begins: null checks, errnos, panics, and the text of the last error.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};

use gpu_broker_client::Error;
use gpu_broker_client::protocol::refusal::errno::{EINVAL, EIO};

/// Why a call did not work.
pub(crate) enum Failure {
    /// The client library's own error.
    Broker(Error),
    /// A pointer that must not be null is.
    Null(&'static str),
    /// An argument makes no sense; the sentence says which.
    Argument(&'static str),
    /// An errno without a sentence of its own, such as that of failed GPU work.
    Errno(c_int, &'static str),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Broker(error)
    }
}

impl Failure {
    fn errno(&self) -> c_int {
        match self {
            // Positive by definition; a daemon that sends anything else must not look like success.
            Self::Broker(error) if error.errno() > 0 => error.errno(),
            Self::Broker(_) => EIO,
            Self::Null(_) | Self::Argument(_) => EINVAL,
            Self::Errno(errno, _) => *errno,
        }
    }

    fn sentence(&self) -> String {
        match self {
            Self::Broker(error) => error.to_string(),
            Self::Null(argument) => format!("the argument `{argument}` must not be NULL"),
            Self::Argument(sentence) | Self::Errno(_, sentence) => (*sentence).to_owned(),
        }
    }
}

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::default();
}

/// What the last call of this thread that failed has to say, as a sentence in English. Never null;
/// empty if none failed yet. Valid until this thread's next call into the library.
#[unsafe(no_mangle)]
pub extern "C" fn gpu_broker_last_error() -> *const c_char {
    // A thread that is ending has no thread-local values any more.
    LAST_ERROR.try_with(|text| text.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}

fn set_last_error(sentence: String) {
    // The daemon's text may hold a zero byte, which C would take for its end.
    let bytes: Vec<u8> = sentence.into_bytes().into_iter().filter(|byte| *byte != 0).collect();
    let text = CString::new(bytes).unwrap_or_default();
    // Nobody can read the text of a thread that is ending.
    let _ = LAST_ERROR.try_with(|last| last.replace(text));
}

/// Runs a function for C.
pub(crate) fn call(function: impl FnOnce() -> Result<c_int, Failure>) -> c_int {
    // What a panic may have left half done is behind locks or dropped with the closure.
    match catch_unwind(AssertUnwindSafe(function)) {
        Ok(Ok(value)) => value,
        Ok(Err(failure)) => {
            let errno = failure.errno();
            set_last_error(failure.sentence());
            -errno
        }
        Err(_) => {
            set_last_error("libgpu_broker failed; this is a bug, please report it".to_owned());
            -EIO
        }
    }
}

/// Runs a function for C that has no way to fail.
pub(crate) fn call_quietly<T>(otherwise: T, function: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(function)).unwrap_or(otherwise)
}

/// The object behind a pointer.
///
/// # Safety
/// `pointer` is null or points to a `T` that nobody changes or releases for as long as `'a`.
pub(crate) unsafe fn borrow<'a, T>(
    pointer: *const T,
    argument: &'static str,
) -> Result<&'a T, Failure> {
    // SAFETY: the caller's contract above: null, or live and unchanged for `'a`.
    unsafe { pointer.as_ref() }.ok_or(Failure::Null(argument))
}

/// `count` values behind a pointer; null is fine for none.
///
/// # Safety
/// Unless `count` is 0, `pointer` is null or points to `count` values that nobody changes for as
/// long as `'a`.
pub(crate) unsafe fn borrow_array<'a, T>(
    pointer: *const T,
    count: usize,
    argument: &'static str,
) -> Result<&'a [T], Failure> {
    if count == 0 {
        return Ok(&[]);
    }
    if pointer.is_null() {
        return Err(Failure::Null(argument));
    }
    // More would overflow the address space, which `from_raw_parts` rules out.
    if count > isize::MAX.unsigned_abs() / size_of::<T>().max(1) {
        return Err(Failure::Argument("an array is longer than memory"));
    }
    // SAFETY: not null, `count` values by the caller's contract, and short enough as just checked.
    Ok(unsafe { std::slice::from_raw_parts(pointer, count) })
}

/// The text behind a pointer.
///
/// # Safety
/// `pointer` is null or points to a string with a zero at its end that nobody changes for as long
/// as `'a`.
pub(crate) unsafe fn text<'a>(
    pointer: *const c_char,
    argument: &'static str,
) -> Result<&'a CStr, Failure> {
    if pointer.is_null() {
        return Err(Failure::Null(argument));
    }
    // SAFETY: not null, and by the caller's contract a string that ends and stays as it is.
    Ok(unsafe { CStr::from_ptr(pointer) })
}

/// Stores a result where the caller wants it. Check the pointer with [`not_null`] before doing
/// what cannot be undone.
///
/// # Safety
/// `out` is valid for writing a `T`.
pub(crate) unsafe fn store<T>(out: *mut T, value: T) {
    // SAFETY: the caller's contract above. What was there is not dropped: C never initialised it.
    unsafe { out.write(value) }
}

/// Refuses a null pointer.
pub(crate) fn not_null<T>(out: *const T, argument: &'static str) -> Result<(), Failure> {
    if out.is_null() { Err(Failure::Null(argument)) } else { Ok(()) }
}

/// Takes an object back that [`Box::into_raw`] gave to C, and drops it.
///
/// # Safety
/// `object` is null or came from `Box::into_raw`, and nobody uses it any more.
pub(crate) unsafe fn release<T>(object: *mut T) {
    if object.is_null() {
        return;
    }
    // SAFETY: by the caller's contract a box of ours that nobody else has.
    let object = unsafe { Box::from_raw(object) };
    call_quietly((), || drop(object));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last_error() -> String {
        // SAFETY: the pointer is never null and stays valid until this thread's next call.
        let text = unsafe { CStr::from_ptr(gpu_broker_last_error()) };
        text.to_str().expect("UTF-8").to_owned()
    }

    #[test]
    fn a_panic_is_an_errno() {
        assert_eq!(call(|| panic!("on purpose")), -EIO);
        assert!(last_error().contains("bug"), "{}", last_error());
        assert_eq!(call_quietly(7, || panic!("on purpose")), 7);
    }

    #[test]
    fn a_failure_is_an_errno_and_a_sentence() {
        assert_eq!(call(|| Err(Failure::Null("connection"))), -EINVAL);
        assert!(last_error().contains("`connection`"), "{}", last_error());
        set_last_error("a\0b".to_owned());
        assert_eq!(last_error(), "ab");
        assert_eq!(call(|| Ok(3)), 3);
    }

    #[test]
    fn an_errno_of_the_daemon_can_never_look_like_success() {
        let refusal = gpu_broker_client::protocol::refusal::RefusalBody {
            errno: -5,
            code: 0,
            name: String::new(),
            sentence: String::new(),
        };
        assert_eq!(call(|| Err(Error::Refused(refusal).into())), -EIO);
    }

    #[test]
    fn arrays_may_be_null_only_when_empty() {
        // SAFETY: no values are claimed to be there.
        let none = unsafe { borrow_array::<u32>(std::ptr::null(), 0, "list") };
        assert!(none.is_ok_and(<[u32]>::is_empty));
        // SAFETY: null is allowed.
        let null = unsafe { borrow_array::<u32>(std::ptr::null(), 1, "list") };
        assert!(matches!(null, Err(Failure::Null("list"))));
    }
}
