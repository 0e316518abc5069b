//! What `/proc/self/maps` says about a range of addresses. Allocates nothing, so that it may be
//! asked while an allocator waits for the answer.

use std::ops::Range;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno as Kernel;
use rustix::ioctl::{Updater, opcode};
use rustix::mm::ProtFlags;

use crate::errno::Outcome;

/// A piece of the address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Area {
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) protection: ProtFlags,
    /// Writes go to the file, or to whoever else has the memory.
    pub(crate) shared: bool,
    /// Where in its file it begins.
    pub(crate) offset: u64,
    pub(crate) file: FileName,
    /// A memfd that was made for userptr, here or in a process that this one was forked from.
    pub(crate) ours: bool,
    /// A stack that grows down: its lowest page must stay what it is.
    pub(crate) stack: bool,
    /// Device memory, huge pages or the kernel's own: nothing to be moved.
    pub(crate) special: bool,
}

/// A file, as the kernel names it in maps; all 0 for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FileName {
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) inode: u64,
}

/// The memfds' name, as the kernel shows it.
const OURS: &str = "/memfd:gpu-broker-userptr ";
/// What the name of the main thread's stack begins with.
const STACK: &str = "[stack";
/// Longest part of a line that is looked at: all but the end of a very long path.
const LINE_BYTES: usize = NAME_BYTES as usize;
/// Room for a name; a longer one is found in its line.
const NAME_BYTES: u32 = 512;

/// Calls `f` with the pieces of a range, in order and without a gap: each with what is mapped
/// there, if anything is.
///
/// # Errors
/// Those of `f`, which end it; the kernel's when procfs is not there.
pub(crate) fn pieces(
    range: Range<usize>,
    mut f: impl FnMut(Range<usize>, Option<&Area>) -> Outcome<()>,
) -> Outcome<()> {
    let maps = open()?;
    let mut rest = Rest { place: range.start, end: range.end };
    while rest.place < rest.end {
        match query(&maps, rest.place) {
            Ok(area) => rest.take(&area, &mut f)?,
            // Nothing from here on.
            Err(Kernel::NOENT) => break,
            // A kernel before 6.11; or a name that is too long for it.
            Err(_) => {
                read(&maps, |area| rest.take(area, &mut f))?;
                break;
            }
        }
    }
    if rest.place < rest.end { f(rest.place..rest.end, None) } else { Ok(()) }
}

/// What of a range has not been looked at.
struct Rest {
    place: usize,
    end: usize,
}

impl Rest {
    /// The next area; those before the rest, and behind it, do not count.
    fn take(
        &mut self,
        area: &Area,
        f: &mut impl FnMut(Range<usize>, Option<&Area>) -> Outcome<()>,
    ) -> Outcome<()> {
        if area.end <= self.place || self.place >= self.end {
            return Ok(());
        }
        if area.start > self.place {
            let hole = self.place..area.start.min(self.end);
            self.place = hole.end;
            f(hole, None)?;
        }
        if self.place < self.end {
            let piece = self.place..area.end.min(self.end);
            self.place = piece.end;
            f(piece, Some(area))?;
        }
        Ok(())
    }
}

fn open() -> Result<OwnedFd, Kernel> {
    rustix::fs::open("/proc/self/maps", OFlags::CLOEXEC, Mode::empty())
}

/// Calls `f` with everything that is mapped, in order.
///
/// # Errors
/// As [`pieces`].
pub(crate) fn each(f: impl FnMut(&Area) -> Outcome<()>) -> Outcome<()> {
    read(&open()?, f)
}

/// Reads all lines.
fn read(maps: &OwnedFd, mut f: impl FnMut(&Area) -> Outcome<()>) -> Outcome<()> {
    let mut line = Line { bytes: [0; LINE_BYTES], length: 0 };
    let mut chunk = [0; 4096];
    loop {
        let read = match rustix::io::read(maps, &mut chunk) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(Kernel::INTR) => continue,
            Err(errno) => return Err(errno.into()),
        };
        for byte in chunk.iter().take(read) {
            if *byte != b'\n' {
                line.push(*byte);
                continue;
            }
            if let Some(area) = line.text().and_then(Area::parse) {
                f(&area)?;
            }
            line.length = 0;
        }
    }
}

/// `struct procmap_query`.
#[repr(C)]
#[derive(Default)]
struct Query {
    size: u64,
    flags: u64,
    address: u64,
    start: u64,
    end: u64,
    area_flags: u64,
    page_size: u64,
    offset: u64,
    inode: u64,
    major: u32,
    minor: u32,
    name_size: u32,
    build_id_size: u32,
    name: u64,
    build_id: u64,
}

/// `PROCMAP_QUERY`: one area, for less than reading all lines takes.
const QUERY: u32 = opcode::read_write::<Query>(b'f', 17);
/// `PROCMAP_QUERY_COVERING_OR_NEXT_VMA`.
const THERE_OR_NEXT: u64 = 0x10;
/// The flags of an area, as in [`Query::area_flags`].
const FLAGS: [(u64, ProtFlags); 3] =
    [(1, ProtFlags::READ), (2, ProtFlags::WRITE), (4, ProtFlags::EXEC)];
const SHARED: u64 = 8;
/// Bytes of a page that can be moved.
const PAGE: u64 = 4096;

/// What is mapped at an address, or next behind it.
///
/// # Errors
/// ENOENT for nothing; ENOTTY from a kernel that cannot be asked.
fn query(maps: &OwnedFd, address: usize) -> Result<Area, Kernel> {
    let mut name = [0_u8; NAME_BYTES as usize];
    let mut query = Query {
        size: size_of::<Query>() as u64,
        flags: THERE_OR_NEXT,
        address: address as u64,
        name_size: NAME_BYTES,
        name: name.as_mut_ptr().expose_provenance() as u64,
        ..Query::default()
    };
    // SAFETY: number and structure belong together.
    let call = unsafe { Updater::<QUERY, Query>::new(&mut query) };
    // SAFETY: the call writes the structure and as much of the name as it was told there is room.
    unsafe { rustix::ioctl::ioctl(maps, call) }?;
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    let name = name.utf8_chunks().next().map_or("", |chunk| chunk.valid());
    let address = |number| usize::try_from(number).map_err(|_| Kernel::OVERFLOW);
    let has = |(flag, protection): &(u64, ProtFlags)| {
        if query.area_flags & flag != 0 { *protection } else { ProtFlags::empty() }
    };
    Ok(Area {
        start: address(query.start)?,
        end: address(query.end)?,
        protection: FLAGS.iter().map(has).collect(),
        shared: query.area_flags & SHARED != 0,
        offset: query.offset,
        file: FileName { major: query.major, minor: query.minor, inode: query.inode },
        ours: name.starts_with(OURS),
        stack: name.starts_with(STACK),
        special: is_special(name) || query.page_size != PAGE,
    })
}

/// A line as it comes.
struct Line {
    bytes: [u8; LINE_BYTES],
    length: usize,
}

impl Line {
    fn push(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.length) {
            *place = byte;
            self.length += 1;
        }
    }

    fn text(&self) -> Option<&str> {
        let bytes = self.bytes.get(..self.length)?;
        // Paths need not be UTF-8; what comes before them is ASCII.
        Some(match std::str::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => std::str::from_utf8(bytes.get(..error.valid_up_to())?).ok()?,
        })
    }
}

impl Area {
    fn parse(line: &str) -> Option<Self> {
        // start-end perms offset major:minor inode name
        let mut fields = line.splitn(6, ' ');
        let (start, end) = fields.next()?.split_once('-')?;
        let permissions = fields.next()?.as_bytes();
        let offset = u64::from_str_radix(fields.next()?, 16).ok()?;
        let (major, minor) = fields.next()?.split_once(':')?;
        let inode = fields.next()?.parse().ok()?;
        let name = fields.next().unwrap_or_default().trim_start();
        let number = |text| usize::from_str_radix(text, 16).ok();
        let device = |text| u32::from_str_radix(text, 16).ok();
        let mut protection = ProtFlags::empty();
        for (letter, flag) in
            [(b'r', ProtFlags::READ), (b'w', ProtFlags::WRITE), (b'x', ProtFlags::EXEC)]
        {
            if permissions.contains(&letter) {
                protection |= flag;
            }
        }
        Some(Self {
            start: number(start)?,
            end: number(end)?,
            protection,
            shared: permissions.contains(&b's'),
            offset,
            file: FileName { major: device(major)?, minor: device(minor)?, inode },
            ours: name.starts_with(OURS),
            stack: name.starts_with(STACK),
            special: is_special(name),
        })
    }

    /// Where in its file an address is that lies in the area.
    pub(crate) fn offset_of(&self, address: usize) -> u64 {
        self.offset + (address - self.start) as u64
    }
}

fn is_special(name: &str) -> bool {
    let prefixes = ["[v", "/anon_hugepage", "/dev/"];
    prefixes.iter().any(|prefix| name.starts_with(prefix)) && !name.starts_with("/dev/shm/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_apart() {
        let line = "7f00-9f00 rw-s 00001000 00:01 99                /memfd:a b (deleted)";
        let file = FileName { major: 0, minor: 1, inode: 99 };
        let area = Area {
            start: 0x7f00,
            end: 0x9f00,
            protection: ProtFlags::READ | ProtFlags::WRITE,
            shared: true,
            offset: 0x1000,
            file,
            ours: false,
            stack: false,
            special: false,
        };
        assert_eq!(Area::parse(line), Some(area));
        assert_eq!(area.offset_of(0x8f00), 0x2000);
        let heap = Area::parse("1000-2000 r-xp 00000000 00:00 0     [heap]").expect("a line");
        assert_eq!((heap.protection, heap.shared), (ProtFlags::READ | ProtFlags::EXEC, false));
        for name in ["[vdso]", "/dev/kvm", "/anon_hugepage (deleted)"] {
            let line = format!("1000-2000 rw-p 00000000 00:00 0 {name}");
            assert!(Area::parse(&line).expect("a line").special, "{name}");
        }
        assert!(!heap.special && !heap.stack);
        assert!(Area::parse("1000-2000 rw-p 00000000 00:00 0 [stack]").expect("a line").stack);
        assert_eq!(Area::parse("nonsense"), None);
        assert_eq!(Area::parse(""), None);
    }

    /// Both ways to look say the same of everything that does not change while they do.
    #[test]
    fn the_kernel_answers_what_its_lines_say() {
        let maps = open().expect("procfs is there");
        let first = match query(&maps, 0) {
            Ok(first) => first,
            // A kernel before 6.11 has one way only.
            Err(errno) => return assert_eq!(errno, Kernel::NOTTY),
        };
        let (mut areas, mut same) = (vec![first], 0);
        while let Ok(next) = query(&maps, areas.last().map_or(0, |area| area.end)) {
            areas.push(next);
        }
        each(|area| {
            same += usize::from(areas.contains(area));
            Ok(())
        })
        .expect("procfs is there");
        // Other tests map and unmap meanwhile.
        assert!(same > areas.len() / 2, "{same} of {}", areas.len());
        assert!(areas.iter().any(|area| area.stack));
    }

    #[test]
    fn a_range_comes_in_pieces_with_its_holes() {
        let (bytes, both) = (5 * 4096, ProtFlags::READ | ProtFlags::WRITE);
        let flags = rustix::mm::MapFlags::PRIVATE;
        // SAFETY: a new mapping at a place of the kernel's choice.
        let start = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), bytes, both, flags) };
        let start = start.expect("memory").expose_provenance();
        let page = |n: usize| std::ptr::with_exposed_provenance_mut(start + n * 4096);
        // SAFETY: a page of the mapping above, to which nothing refers.
        unsafe { rustix::mm::munmap(page(1), 4096) }.expect("it is mapped");
        // SAFETY: as above.
        unsafe { rustix::mm::mprotect(page(3), 4096, rustix::mm::MprotectFlags::READ) }
            .expect("it is mapped");
        let mut seen = Vec::new();
        let mut see = |piece: Range<usize>, area: Option<&Area>| {
            let pages = (piece.start - start) / 4096..(piece.end - start) / 4096;
            seen.push((pages, area.map(|area| area.protection)));
            Ok(())
        };
        pieces(start..start + bytes, &mut see).expect("procfs is there");
        // As on a kernel that cannot be asked.
        let mut rest = Rest { place: start, end: start + bytes };
        each(|area| rest.take(area, &mut see)).expect("procfs is there");
        let (asked, read) = seen.split_at(seen.len() / 2);
        assert_eq!(asked, read);
        let expected =
            [(0..1, Some(both)), (1..2, None), (2..3, Some(both)), (3..4, Some(ProtFlags::READ))];
        assert_eq!(asked.get(..4), Some(&expected[..]), "{seen:?}");
        assert_eq!(asked.last().map(|(pages, _)| pages.end), Some(5));
        // SAFETY: as above.
        unsafe { rustix::mm::munmap(page(0), bytes) }.expect("it is mapped");
    }
}
