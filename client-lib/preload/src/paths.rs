//! Which paths belong to the device.

use std::ffi::{CString, c_char, c_int};

use crate::errno::Outcome;
use crate::tree::{self, Tree};
use crate::user;

/// Where a path leads.
#[derive(Debug)]
pub(crate) enum Place {
    /// Not to us.
    Elsewhere,
    /// To one of the device's nodes, whose minor this is; the path is that of the file in the tree.
    Node(u32, CString),
    /// To a file of the tree.
    Tree(CString),
    /// To an fd of this process, by `/proc`.
    Fd(c_int),
}

/// What the device shadows: each prefix with everything below it.
const BELOW: &[&str] = &[
    "/dev/dri",
    "/sys/class/drm",
    "/sys/bus/pci/devices/0000:00:02.0",
    "/sys/bus/pci/drivers/i915",
    "/sys/devices/pci0000:00/0000:00:02.0",
    "/sys/kernel/debug/dri",
    "/sys/module/i915",
];
/// Directories in which the device shows beside what the machine has; see [`Tree`].
const EXACT: &[&str] = &[
    "/sys/class",
    "/sys/bus/pci",
    "/sys/bus/pci/devices",
    "/sys/devices/pci0000:00",
    "/sys/kernel/debug",
];
/// The device numbers in `/sys/dev/char` begin so.
const NUMBERS: &str = "/sys/dev/char/226:";

/// Looks a path up as the program means it.
///
/// # Errors
/// EFAULT and ENAMETOOLONG, as the kernel says.
pub(crate) fn locate(dirfd: c_int, path: *const c_char) -> Outcome<Place> {
    if path.is_null() {
        return Ok(Place::Elsewhere);
    }
    let given = user::string(path)?;
    Ok(place(dirfd, &given).unwrap_or(Place::Elsewhere))
}

fn place(dirfd: c_int, given: &[u8]) -> Option<Place> {
    let whole = absolute(dirfd, given)?;
    if let Some(fd) = fd_of(&whole) {
        return Some(Place::Fd(fd));
    }
    if !is_ours(&whole) {
        return None;
    }
    let tree = tree::get()?;
    let real = CString::new(format!("{}{whole}", tree.root())).ok()?;
    Some(match tree::minor_of(&whole) {
        Some(minor) => Place::Node(minor, real),
        None => Place::Tree(real),
    })
}

/// The path from the root, without `.`, `..` and doubled slashes, if it can be one of ours.
fn absolute(dirfd: c_int, given: &[u8]) -> Option<String> {
    let given = std::str::from_utf8(given).ok()?;
    if given.starts_with('/') {
        let may_be_ours = ["dev", "sys", "proc"]
            .iter()
            .any(|top| given.trim_start_matches(['/', '.']).starts_with(top));
        return may_be_ours.then(|| normal(given));
    }
    if dirfd < 0 || given.is_empty() {
        return None;
    }
    let base = link_of(dirfd)?;
    let base = tree::known().map_or(&*base, |tree| visible(tree, &base));
    let outside = !(base == "/" || base.starts_with("/dev") || base.starts_with("/sys"));
    (!outside).then(|| normal(&format!("{base}/{given}")))
}

/// What an fd is open on, according to `/proc`.
pub(crate) fn link_of(fd: c_int) -> Option<String> {
    let link = rustix::fs::readlink(format!("/proc/self/fd/{fd}"), Vec::new()).ok()?;
    link.into_string().ok()
}

/// A path in the tree as the program is to see it.
pub(crate) fn visible<'p>(tree: &Tree, path: &'p str) -> &'p str {
    match path.strip_prefix(tree.root()) {
        Some("") => "/",
        Some(inside) if inside.starts_with('/') => inside,
        _ => path,
    }
}

fn normal(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

fn fd_of(path: &str) -> Option<c_int> {
    let number = match path.strip_prefix("/dev/fd/") {
        Some(number) => number,
        None => {
            let (process, number) = path.strip_prefix("/proc/")?.split_once("/fd/")?;
            let own = process == "self"
                || process == "thread-self"
                || process.parse() == Ok(std::process::id());
            own.then_some(number)?
        }
    };
    number.parse().ok()
}

fn is_ours(path: &str) -> bool {
    let below = |prefix: &str| {
        path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    path.starts_with(NUMBERS) || BELOW.iter().any(|prefix| below(prefix)) || EXACT.contains(&path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_as_the_kernel_takes_them() {
        for (given, whole) in [
            ("/dev//dri/./card0", "/dev/dri/card0"),
            ("/sys/kernel/debug/..", "/sys/kernel"),
            ("//sys/class/drm/", "/sys/class/drm"),
            ("/dev/../dev/dri", "/dev/dri"),
        ] {
            assert_eq!(absolute(-1, given.as_bytes()).as_deref(), Some(whole));
        }
        assert_eq!(absolute(-1, b"/home/dev/dri"), None);
        assert_eq!(absolute(libc::AT_FDCWD, b"dev/dri"), None);
        for ours in ["/dev/dri", "/dev/dri/card0", "/sys/dev/char/226:0/device", "/sys/class"] {
            assert!(is_ours(ours), "{ours}");
        }
        for other in ["/dev/drip", "/sys/dev/char/1:3", "/sys/class/net", "/sys", "/dev"] {
            assert!(!is_ours(other), "{other}");
        }
        assert_eq!(fd_of("/proc/self/fd/12"), Some(12));
        assert_eq!(fd_of(&format!("/proc/{}/fd/3", std::process::id())), Some(3));
        assert_eq!(fd_of("/proc/1/fd/3").filter(|_| std::process::id() != 1), None);
        assert_eq!(fd_of("/proc/self/fd"), None);
    }
}
