//! The filter that the kernel runs before each system call of the process (seccomp(2)).
//!
//! It is a table of what is allowed, made by seccompiler, and behind it what becomes of the rest. All
//! threads get it at once and threads made later inherit it. A role belongs to the process and not to
//! a thread: threads share memory, so what one may do, another can have it do.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, sock_filter,
};

use super::calls::{ALLOWED, DEADLY, NOTIFYING};
use super::{Role, Unlisted};

/// Rules by number; a call without rules is meant whatever its arguments are.
type Rules = BTreeMap<c_long, Vec<SeccompRule>>;

/// Why there is no filter.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The kernel refused it.
    #[error(transparent)]
    Kernel(#[from] seccompiler::Error),
    /// A rule is wrong, or the processor is of a kind that seccompiler does not know.
    #[error(transparent)]
    Rule(#[from] seccompiler::BackendError),
    /// seccompiler's programs are not built as they were.
    #[error("the filter does not end as expected")]
    Layout,
}

/// What narrows the lists.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) role: Role,
    pub(super) unlisted: Unlisted,
    /// systemd is told things, over a socket that must be connected each time.
    pub(super) notifies: bool,
}

/// Puts the filter in force for all threads of the process, for good.
///
/// # Errors
/// The kernel has no filters, or a thread has one of its own already.
pub(super) fn install(plan: Plan) -> Result<(), Error> {
    Ok(seccompiler::apply_filter_all_threads(&program(plan)?)?)
}

/// What numbers that the table does not have come to. One program and not one for each answer: the
/// kernel would run them all for each call whose arguments count.
fn program(plan: Plan) -> Result<BpfProgram, Error> {
    let arch = std::env::consts::ARCH.try_into()?;
    let table =
        SeccompFilter::new(allowed(plan)?, plan.unlisted.action(), SeccompAction::Allow, arch)?;
    let mut program: BpfProgram = table.try_into()?;
    // The table ends with its answer to a number that it did not find, which is still at hand.
    let unlisted = program.pop().filter(|last| *last == returns(plan.unlisted.action()));
    let unlisted = unlisted.ok_or(Error::Layout)?;
    let deadly = DEADLY.iter().copied().flatten().map(|call| (*call, SeccompAction::KillProcess));
    // Its flags are in memory, where no filter sees them; libc falls back to clone.
    let clone3 = (libc::SYS_clone3, SeccompAction::Errno(libc::ENOSYS.unsigned_abs()));
    for (call, action) in std::iter::once(clone3).chain(deadly) {
        let number = u32::try_from(call).unwrap_or(u32::MAX);
        program.push(sock_filter { code: JUMP_IF_EQUAL, jt: 0, jf: 1, k: number });
        program.push(returns(action));
    }
    program.push(unlisted);
    Ok(program)
}

/// `BPF_JMP | BPF_JEQ | BPF_K`
const JUMP_IF_EQUAL: u16 = 0x15;
/// `BPF_RET | BPF_K`
const RETURN: u16 = 0x06;

fn returns(action: SeccompAction) -> sock_filter {
    sock_filter { code: RETURN, jt: 0, jf: 0, k: action.into() }
}

impl Unlisted {
    fn action(self) -> SeccompAction {
        match self {
            Self::Refuse => SeccompAction::Errno(libc::EPERM.unsigned_abs()),
            Self::Kill => SeccompAction::KillProcess,
        }
    }
}

fn whatever_arguments(lists: &[&[c_long]]) -> Rules {
    lists.iter().copied().flatten().map(|number| (*number, Vec::new())).collect()
}

/// One rule: all of the conditions hold. Each is an argument's position, an operator and a value.
fn when(conditions: &[(u8, SeccompCmpOp, u64)]) -> Result<SeccompRule, Error> {
    let conditions = conditions.iter().map(|(argument, operator, value)| {
        // Numbers and flags: the kernel looks at the lower half only.
        SeccompCondition::new(*argument, SeccompCmpArgLen::Dword, operator.clone(), *value)
    });
    let rule = SeccompRule::new(conditions.collect::<Result<_, _>>()?)?;
    Ok(rule)
}

/// The flag or flags are all set, or all not set.
fn bits(argument: u8, mask: i32, value: i32) -> (u8, SeccompCmpOp, u64) {
    let number = |bits: i32| u64::from(bits.cast_unsigned());
    (argument, SeccompCmpOp::MaskedEq(number(mask)), number(value))
}

fn is(argument: u8, value: u32) -> (u8, SeccompCmpOp, u64) {
    (argument, SeccompCmpOp::Eq, value.into())
}

/// Everything else is unlisted. fcntl is left free of conditions: each fd of a client is asked for its
/// seals by it, and the signals it could send to others (F_SETOWN) Landlock keeps in.
fn allowed(plan: Plan) -> Result<Rules, Error> {
    let mut rules = whatever_arguments(ALLOWED);
    if plan.notifies {
        rules.extend(whatever_arguments(&[NOTIFYING]));
    }
    let unix = vec![when(&[is(0, libc::AF_UNIX.unsigned_abs())])?];
    let data = vec![when(&[bits(2, libc::PROT_EXEC, 0)])?];
    rules.extend([
        (libc::SYS_socket, unix.clone()),
        (libc::SYS_socketpair, unix),
        (libc::SYS_mmap, data.clone()),
        (libc::SYS_mprotect, data),
        // Threads, not processes and not namespaces.
        (libc::SYS_clone, vec![when(&[bits(0, libc::CLONE_THREAD, libc::CLONE_THREAD)])?]),
        (libc::SYS_tgkill, vec![when(&[is(0, std::process::id())])?]),
        (libc::SYS_openat, opening(plan.role, 2)?),
    ]);
    #[cfg(target_arch = "x86_64")]
    rules.insert(libc::SYS_open, opening(plan.role, 1)?);
    let of_device = match plan.role {
        Role::Soft => &[],
        Role::I915 => gpu_broker_device::i915::IOCTLS,
    };
    let ioctls = PLAIN_IOCTLS.iter().chain(of_device).copied();
    let ioctls = ioctls.map(|number| when(&[is(1, number)])).collect::<Result<_, _>>()?;
    rules.insert(libc::SYS_ioctl, ioctls);
    let names =
        PRCTLS.map(|option| when(&[is(0, option)])).into_iter().collect::<Result<_, _>>()?;
    rules.insert(libc::SYS_prctl, names);
    // Limits are looked at, not set.
    let looks = SeccompCondition::new(2, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0)?;
    rules.insert(libc::SYS_prlimit64, vec![SeccompRule::new(vec![looks])?]);
    Ok(rules)
}

/// Nothing is made; written to is the GPU's node alone. `flags` is the position of the argument.
fn opening(role: Role, flags: u8) -> Result<Vec<SeccompRule>, Error> {
    let as_is = libc::O_CREAT | libc::O_ACCMODE;
    let read = when(&[bits(flags, as_is, libc::O_RDONLY)])?;
    Ok(match role {
        Role::Soft => vec![read],
        Role::I915 => vec![read, when(&[bits(flags, as_is, libc::O_RDWR)])?],
    })
}

/// `FIONREAD`, `FIONBIO`, `FIOCLEX` and `SIOCOUTQ`: what any socket may be asked.
const PLAIN_IOCTLS: &[u32] = &[0x541b, 0x5421, 0x5451, 0x5411];

/// Names of threads and of mappings: `PR_SET_NAME`, `PR_GET_NAME`, `PR_SET_VMA`.
const PRCTLS: [u32; 3] = [15, 16, 0x5356_4d41];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_call_is_both_allowed_and_deadly() {
        let allowed = whatever_arguments(ALLOWED);
        let deadly = whatever_arguments(DEADLY);
        let both: Vec<_> = allowed.keys().filter(|number| deadly.contains_key(number)).collect();
        assert_eq!(both, Vec::<&c_long>::new());
    }

    /// The kernel lets such a call pass without running any filter.
    #[test]
    fn frequent_calls_do_not_depend_on_their_arguments() {
        let frequent = [
            libc::SYS_recvmsg,
            libc::SYS_sendmsg,
            libc::SYS_futex,
            libc::SYS_epoll_ctl,
            libc::SYS_epoll_pwait,
            libc::SYS_read,
            libc::SYS_write,
            libc::SYS_close,
            libc::SYS_fcntl,
        ];
        for role in [Role::Soft, Role::I915] {
            let plan = Plan { role, unlisted: Unlisted::Refuse, notifies: true };
            let allowed = allowed(plan).expect("rules");
            for number in frequent {
                assert_eq!(allowed.get(&number).map(Vec::len), Some(0), "{number}");
            }
        }
    }
}
