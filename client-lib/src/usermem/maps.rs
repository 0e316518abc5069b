//! What `/proc/self/maps` says about a range of addresses.

use std::fs;

use rustix::mm::MprotectFlags;

use crate::error::Error;

/// The protection of a range, if its pages may be moved behind a memfd.
///
/// # Errors
/// [`Error::NotAdoptable`]; EIO and its like when procfs is not there.
pub(super) fn adoptable(start: usize, size: usize) -> Result<MprotectFlags, Error> {
    let text = fs::read_to_string("/proc/self/maps")
        .map_err(|source| Error::Io { doing: "reading /proc/self/maps", source })?;
    judge(&text, start, size).map_err(|why| Error::NotAdoptable { address: start as u64, why })
}

fn judge(maps: &str, start: usize, size: usize) -> Result<MprotectFlags, &'static str> {
    let (mut place, end) = (start, start.saturating_add(size));
    let mut found = None;
    for line in maps.lines() {
        let Some(area) = Area::parse(line) else { continue };
        if area.end <= place {
            continue;
        }
        if area.start > place {
            break;
        }
        let protection = area.judge()?;
        if *found.get_or_insert(protection) != protection {
            return Err("its pieces have different protections: adopt them one by one");
        }
        place = area.end;
        if place >= end {
            return Ok(protection);
        }
    }
    Err("it is not mapped throughout")
}

/// One line: a piece of the address space.
struct Area<'a> {
    start: usize,
    end: usize,
    permissions: &'a str,
    name: &'a str,
}

impl<'a> Area<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        // start-end perms offset device inode name
        let mut fields = line.splitn(6, ' ');
        let (start, end) = fields.next()?.split_once('-')?;
        let permissions = fields.next()?;
        let name = fields.nth(3).unwrap_or_default().trim();
        let number = |text| usize::from_str_radix(text, 16).ok();
        Some(Self { start: number(start)?, end: number(end)?, permissions, name })
    }

    fn judge(&self) -> Result<MprotectFlags, &'static str> {
        let special = ["[stack", "[vdso", "[vvar", "[vsyscall", "/dev/", "/anon_hugepage"];
        if special.iter().any(|prefix| self.name.starts_with(prefix)) {
            return Err("it is a stack, device memory, or made of explicit huge pages");
        }
        match self.permissions {
            "rw-p" => Ok(MprotectFlags::READ | MprotectFlags::WRITE),
            "r--p" => Ok(MprotectFlags::READ),
            permissions if permissions.ends_with('s') => {
                Err("it is shared already: register the memfd that it is a mapping of")
            }
            permissions if permissions.contains('x') => Err("it is executable"),
            _ => Err("it is not readable"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
1000-3000 rw-p 00000000 00:00 0 
3000-4000 rw-p 00000000 00:00 0                          [heap]
4000-5000 r--p 00000000 fe:00 1234                       /usr/lib/a b.so
6000-7000 rw-s 00000000 00:01 99                         /memfd:x (deleted)
7000-8000 r-xp 00000000 fe:00 1234                       /usr/lib/a b.so
8000-9000 ---p 00000000 00:00 0 
9000-a000 rw-p 00000000 00:00 0                          [stack]
a000-b000 rw-p 00000000 00:0f 3                          /anon_hugepage (deleted)
";

    #[test]
    fn ranges_are_judged_by_every_piece() {
        let both = MprotectFlags::READ | MprotectFlags::WRITE;
        let judge = |start, size| judge(MAPS, start, size);
        assert_eq!(judge(0x1000, 0x1000), Ok(both));
        assert_eq!(judge(0x2000, 0x2000), Ok(both), "two neighbours");
        assert_eq!(judge(0x4000, 0x1000), Ok(MprotectFlags::READ));
        for (start, size, why) in [
            (0x3000, 0x2000, "different protections"),
            (0x0, 0x1000, "not mapped"),
            (0x4000, 0x2000, "not mapped"),
            (0x5000, 0x1000, "not mapped"),
            (0xf000, 0x1000, "not mapped"),
            (usize::MAX - 4095, 0x1000, "not mapped"),
            (0x6000, 0x1000, "shared already"),
            (0x7000, 0x1000, "executable"),
            (0x8000, 0x1000, "not readable"),
            (0x9000, 0x1000, "stack"),
            (0xa000, 0x1000, "huge pages"),
        ] {
            let found = judge(start, size).expect_err("not adoptable");
            assert!(found.contains(why), "{start:#x}: {found}");
        }
    }
}
