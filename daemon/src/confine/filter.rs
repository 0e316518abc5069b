//! The filters that the kernel runs before each system call of the process (seccomp(2)).
//!
//! There are four, and the kernel takes the strictest answer: what ends the process, what is
//! answered "this kernel has no such call", which uses of an allowed call are refused, and last the
//! list of what is allowed. All threads get them at once and threads made later inherit them. A role
//! belongs to the process and not to a thread: threads share memory, so what one may do, another can
//! have it do.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

use super::calls::{ALLOWED, DEADLY, NOTIFYING};
use super::{Role, Unlisted};

/// Rules by number; a call without rules is meant whatever its arguments are.
type Rules = BTreeMap<c_long, Vec<SeccompRule>>;
type Error = seccompiler::Error;

/// What narrows the lists.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) role: Role,
    pub(super) unlisted: Unlisted,
    /// systemd is told things, over a socket that must be connected each time.
    pub(super) notifies: bool,
}

/// Puts the filters in force for all threads of the process, for good.
///
/// # Errors
/// The kernel has no filters, or a thread has one of its own already.
pub(super) fn install(plan: Plan) -> Result<(), Error> {
    // The most general last: a filter could refuse the installation of the next.
    for filter in [
        filter(refused_uses(plan)?, SeccompAction::Allow, plan.unlisted.action())?,
        filter(not_there(), SeccompAction::Allow, errno(libc::ENOSYS))?,
        filter(deadly()?, SeccompAction::Allow, SeccompAction::KillProcess)?,
        filter(allowed(plan)?, plan.unlisted.action(), SeccompAction::Allow)?,
    ] {
        seccompiler::apply_filter_all_threads(&filter)?;
    }
    Ok(())
}

impl Unlisted {
    fn action(self) -> SeccompAction {
        match self {
            Self::Refuse => errno(libc::EPERM),
            Self::Kill => SeccompAction::KillProcess,
        }
    }
}

fn errno(number: i32) -> SeccompAction {
    SeccompAction::Errno(number.unsigned_abs())
}

fn filter(
    rules: Rules,
    otherwise: SeccompAction,
    matching: SeccompAction,
) -> Result<BpfProgram, Error> {
    let arch = std::env::consts::ARCH.try_into()?;
    Ok(SeccompFilter::new(rules, otherwise, matching, arch)?.try_into()?)
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

fn is_not(argument: u8, value: u32) -> (u8, SeccompCmpOp, u64) {
    (argument, SeccompCmpOp::Ne, value.into())
}

fn deadly() -> Result<Rules, Error> {
    let mut rules = whatever_arguments(DEADLY);
    // A process of its own, or namespaces, instead of a thread.
    rules.insert(libc::SYS_clone, vec![when(&[bits(0, libc::CLONE_THREAD, 0)])?]);
    Ok(rules)
}

/// Its flags are in memory, where no filter sees them; libc falls back to clone.
fn not_there() -> Rules {
    BTreeMap::from([(libc::SYS_clone3, Vec::new())])
}

/// What allowed calls may not be used for. fcntl stays free of conditions: each fd of a client is asked
/// for its seals by it, and the signals it could send to others (F_SETOWN) Landlock keeps in.
fn refused_uses(plan: Plan) -> Result<Rules, Error> {
    let unix = libc::AF_UNIX.unsigned_abs();
    let code = vec![when(&[bits(2, libc::PROT_EXEC, libc::PROT_EXEC)])?];
    let mut rules = BTreeMap::from([
        (libc::SYS_socket, vec![when(&[is_not(0, unix)])?]),
        (libc::SYS_socketpair, vec![when(&[is_not(0, unix)])?]),
        (libc::SYS_mmap, code.clone()),
        (libc::SYS_mprotect, code),
        (libc::SYS_tgkill, vec![when(&[is_not(0, std::process::id())])?]),
        (libc::SYS_openat, opening(plan.role, 2)?),
    ]);
    #[cfg(target_arch = "x86_64")]
    rules.insert(libc::SYS_open, opening(plan.role, 1)?);
    rules.retain(|_, rules| !rules.is_empty());
    Ok(rules)
}

/// Nothing is made; written to is the GPU's node alone. `flags` is the position of the argument.
fn opening(role: Role, flags: u8) -> Result<Vec<SeccompRule>, Error> {
    let mut refused = vec![
        when(&[bits(flags, libc::O_CREAT, libc::O_CREAT)])?,
        when(&[bits(flags, libc::O_ACCMODE, libc::O_WRONLY)])?,
    ];
    if role == Role::Soft {
        refused.push(when(&[bits(flags, libc::O_ACCMODE, libc::O_RDWR)])?);
    }
    Ok(refused)
}

/// Everything else is unlisted.
fn allowed(plan: Plan) -> Result<Rules, Error> {
    let mut rules = whatever_arguments(ALLOWED);
    if plan.notifies {
        rules.extend(whatever_arguments(&[NOTIFYING]));
    }
    // Another filter answers for it, but not if this one is stricter.
    rules.extend(not_there());
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
            let narrowed =
                [refused_uses(plan).expect("rules"), not_there(), deadly().expect("rules")];
            for number in frequent {
                assert_eq!(allowed.get(&number).map(Vec::len), Some(0), "{number}");
                assert!(narrowed.iter().all(|rules| !rules.contains_key(&number)), "{number}");
            }
        }
    }
}
