//! Hangs as text.

use super::view::{Command, Dump, Hang, Named, Region, RegionKind};
use crate::output::{BAD, HEADING, QUIET, Table, bytes, duration, styled};

/// Hangs that `gpu-broker status` shows.
const LAST_HANGS: usize = 5;
/// Bytes of an object that are printed; `--json` has all.
const OBJECT_BYTES_SHOWN: usize = 256;

/// All hangs, without a final newline.
pub(crate) fn list(hangs: &[Hang]) -> String {
    if hangs.is_empty() { "No hangs.".to_owned() } else { rows(hangs).render(0) }
}

/// The answer of `status` to who hung the GPU; nothing if nobody did.
pub(crate) fn last_hangs(hangs: &[Hang]) -> Option<String> {
    let shown = hangs.get(..LAST_HANGS.min(hangs.len())).filter(|shown| !shown.is_empty())?;
    let head = styled(HEADING, "last hangs");
    Some(format!("{head} (gpu-broker hang show HANG)\n{}", rows(shown).render(2)))
}

fn rows(hangs: &[Hang]) -> Table {
    let headings =
        [">hang", ">ago", ">session", "client", ">context", "engine", "cause", "command", "dump"];
    let mut table = Table::new(&headings);
    for hang in hangs {
        table.row([
            hang.hang.to_string(),
            duration(hang.age_ns),
            hang.session.to_string(),
            format!("\"{}\", pid {}, uid {}", hang.client, hang.pid, hang.uid),
            hang.context.to_string(),
            hang.engine.clone(),
            hang.cause.name().to_owned(),
            died(hang),
            if hang.dumped { bytes(hang.dump_bytes) } else { "-".to_owned() },
        ]);
    }
    table
}

/// What the batch died in; on a kernel's GPU the batch is all that is known.
fn died(hang: &Hang) -> String {
    if hang.command.is_empty() {
        return format!("not known, batch at {:#x}", hang.batch);
    }
    format!("{} at {:#x}", hang.command, hang.address)
}

/// One hang and its dump.
pub(crate) fn show(dump: &Dump) -> String {
    let hang = &dump.hang;
    let mut parts = vec![format!(
        "{}, {} ago: session {} \"{}\", pid {}, uid {}, context {} on {}\n\
         batch at {:#x} died in {} ({})\n{}",
        styled(HEADING, format!("hang {}", hang.hang)),
        duration(hang.age_ns),
        hang.session,
        hang.client,
        hang.pid,
        hang.uid,
        hang.context,
        hang.engine,
        hang.batch,
        styled(BAD, died(hang)),
        hang.cause.name(),
        hang.what,
    )];
    if !hang.dumped {
        let why = if hang.command.is_empty() {
            "No dump: the kernel keeps it for root, in /sys/class/drm/card*/error."
        } else {
            "No dump: NO_ERROR_CAPTURE was set, or it made room for newer ones."
        };
        parts.push(why.to_owned());
        return parts.join("\n\n");
    }
    parts.push(format!("{}\n{}", styled(HEADING, "commands"), commands(&dump.listing, hang)));
    parts.push(format!("{}\n{}", styled(HEADING, "executed last"), executed(&dump.executed)));
    parts.push(format!("{}\n{}", styled(HEADING, "registers"), registers(&dump.registers)));
    parts.extend(dump.memory.iter().map(memory));
    parts.join("\n\n")
}

fn commands(listing: &[Command], hang: &Hang) -> String {
    if listing.is_empty() {
        return format!("  nothing is mapped at {:#x}", hang.address);
    }
    let line = |command: &Command| {
        let mark = if command.failed { "=>" } else { "  " };
        let text = format!(
            "{mark} {:#014x}  {:08x}  {}{}",
            command.address,
            command.dwords.first().copied().unwrap_or(0),
            command.name,
            fields(&command.fields)
        );
        if command.failed { styled(BAD, text) } else { text }
    };
    listing.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn fields(fields: &[Named]) -> String {
    fields.iter().map(|field| format!("  {}={:#x}", field.name, field.value)).collect()
}

fn executed(commands: &[Command]) -> String {
    if commands.is_empty() {
        return "  nothing".to_owned();
    }
    let line = |command: &Command| format!("   {:#014x}  {}", command.address, command.name);
    commands.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn registers(registers: &[Named]) -> String {
    let cell = |register: &Named| format!("{:<22} {:#018x}", register.name, register.value);
    let pairs = registers.chunks(2).map(|pair| {
        let cells: Vec<_> = pair.iter().map(cell).collect();
        format!("  {}", cells.join("   "))
    });
    pairs.collect::<Vec<_>>().join("\n")
}

fn memory(region: &Region) -> String {
    let kind = match region.kind {
        RegionKind::Batch => "batch",
        RegionKind::Commands => "commands elsewhere",
        RegionKind::Object => "object",
    };
    let start = region.address.wrapping_add(region.offset);
    let head = format!(
        "{} at {:#x}, {}: {} kept from {:#x} on",
        styled(HEADING, kind),
        region.address,
        bytes(region.size),
        bytes(region.bytes.len() as u64),
        start,
    );
    if region.kind != RegionKind::Object || region.bytes.is_empty() {
        return head;
    }
    let shown = region.bytes.get(..OBJECT_BYTES_SHOWN).unwrap_or(&region.bytes);
    let mut lines = vec![head];
    for (index, row) in (0_u64..).zip(shown.chunks(16)) {
        let dword = |four: &[u8]| {
            let mut bytes = [0; 4];
            bytes.iter_mut().zip(four).for_each(|(to, from)| *to = *from);
            format!("{:08x}", u32::from_le_bytes(bytes))
        };
        let dwords: Vec<_> = row.chunks(4).map(dword).collect();
        let address = start.wrapping_add(16 * index);
        lines.push(format!("   {address:#014x}  {}", dwords.join(" ")));
    }
    if shown.len() < region.bytes.len() {
        lines.push(styled(QUIET, "   … (--json has the rest)"));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::super::view::Cause;
    use super::*;

    fn hang() -> Hang {
        Hang {
            hang: 7,
            age_ns: 3_000_000_000,
            session: 2,
            client: "cube".to_owned(),
            pid: 100,
            uid: 1000,
            context: 1,
            engine: "bcs0".to_owned(),
            cause: Cause::Hung,
            batch: 0x10_0000,
            address: 0x10_0004,
            command: "MI_BATCH_BUFFER_START".to_owned(),
            what: "ran for 3140 ms without an arbitration point".to_owned(),
            dumped: true,
            dump_bytes: 4112,
        }
    }

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn the_list_says_who_and_where() {
        let text = plain(&list(&[hang()]));
        assert_eq!(
            text,
            "\
hang    ago  session  client                     context  engine  cause  command                            dump
   7  3.0 s        2  \"cube\", pid 100, uid 1000        1  bcs0    hung   MI_BATCH_BUFFER_START at 0x100004  4 KiB"
        );
        assert_eq!(list(&[]), "No hangs.");
        assert_eq!(last_hangs(&[]), None);
        let many = vec![hang(); 9];
        let last = last_hangs(&many).expect("there are some");
        assert_eq!(last.lines().count(), 2 + LAST_HANGS);
    }

    #[test]
    fn a_dump_marks_the_command_that_failed() {
        let command = |address, name: &str, failed| Command {
            address,
            dwords: vec![0x1000_0002, 0x2000, 0, 42],
            name: name.to_owned(),
            fields: vec![Named { name: "data".to_owned(), value: 42 }],
            failed,
        };
        let dump = Dump {
            hang: hang(),
            registers: vec![Named { name: "ACTHD".to_owned(), value: 0x10_0004 }],
            executed: vec![command(0x10_0000, "MI_NOOP", false)],
            listing: vec![
                command(0x10_0000, "MI_NOOP", false),
                command(0x10_0004, "MI_BATCH_BUFFER_START", true),
            ],
            memory: vec![Region {
                kind: RegionKind::Object,
                address: 0x20_0000,
                size: 4096,
                offset: 0,
                bytes: vec![0x11; 300],
            }],
        };
        let text = plain(&show(&dump));
        let marked: Vec<_> = text.lines().filter(|line| line.starts_with("=>")).collect();
        assert_eq!(
            marked,
            ["=> 0x000000100004  10000002  MI_BATCH_BUFFER_START  data=0x2a"],
            "{text}"
        );
        for part in ["hang 7, 3.0 s ago", "context 1 on bcs0", "ACTHD", "11111111", "--json"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let bare = Dump { hang: Hang { dumped: false, ..hang() }, ..dump };
        assert!(plain(&show(&bare)).contains("NO_ERROR_CAPTURE"));
    }
}
