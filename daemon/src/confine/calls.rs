//! Which system calls the daemon makes once it serves.
//!
//! The lists are by what the calls are for. Names of older calls exist on x86-64 only: elsewhere libc
//! and rustix use their successors, which are listed beside them.

use libc::*;

/// A system call's number.
type Number = c_long;

/// Calls that every role makes. Those that could open a door are narrowed by their arguments in
/// [`super::filter`], which also has ioctl and prctl, and by Landlock.
///
/// The frequent ones must stay here, free of conditions on arguments: the kernel keeps a bitmap of
/// calls that a filter always lets pass, and does not run it for those.
pub(super) const ALLOWED: &[&[Number]] =
    &[MESSAGES, WAITING, TIME, MEMORY, THREADS, SIGNALS, FILES, ABOUT_ITSELF, OLDER];

const MESSAGES: &[Number] = &[
    SYS_recvmsg,
    SYS_sendmsg,
    SYS_recvfrom,
    SYS_sendto,
    SYS_recvmmsg,
    SYS_sendmmsg,
    SYS_accept4,
    SYS_accept,
    SYS_socketpair,
    SYS_socket,
    SYS_shutdown,
    SYS_getsockopt,
    SYS_setsockopt,
    SYS_getsockname,
    SYS_getpeername,
    SYS_read,
    SYS_readv,
    SYS_write,
    SYS_writev,
];

const WAITING: &[Number] = &[
    SYS_epoll_pwait,
    SYS_epoll_pwait2,
    SYS_epoll_ctl,
    SYS_epoll_create1,
    SYS_ppoll,
    SYS_pselect6,
    SYS_eventfd2,
    SYS_timerfd_create,
    SYS_timerfd_settime,
    SYS_timerfd_gettime,
    SYS_futex,
    SYS_membarrier,
    SYS_sched_yield,
    SYS_restart_syscall,
    SYS_pidfd_open,
];

const TIME: &[Number] =
    &[SYS_clock_gettime, SYS_clock_getres, SYS_clock_nanosleep, SYS_nanosleep, SYS_gettimeofday];

const MEMORY: &[Number] = &[
    SYS_mmap,
    SYS_munmap,
    SYS_mremap,
    SYS_mprotect,
    SYS_madvise,
    SYS_msync,
    SYS_brk,
    SYS_memfd_create,
];

const THREADS: &[Number] = &[
    SYS_clone,
    SYS_set_robust_list,
    SYS_get_robust_list,
    SYS_rseq,
    SYS_set_tid_address,
    SYS_exit,
    SYS_exit_group,
    SYS_sched_getaffinity,
    SYS_gettid,
];

const SIGNALS: &[Number] =
    &[SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_sigaltstack, SYS_tgkill];

/// Opening is Landlock's to judge, and without it the daemon's user's.
const FILES: &[Number] = &[
    SYS_openat,
    SYS_openat2,
    SYS_close,
    SYS_close_range,
    SYS_dup,
    SYS_dup3,
    SYS_fcntl,
    SYS_fstat,
    SYS_newfstatat,
    SYS_statx,
    SYS_statfs,
    SYS_fstatfs,
    SYS_lseek,
    SYS_pread64,
    SYS_pwrite64,
    SYS_preadv,
    SYS_pwritev,
    SYS_preadv2,
    SYS_pwritev2,
    SYS_ftruncate,
    SYS_fallocate,
    SYS_fsync,
    SYS_fdatasync,
    SYS_flock,
    SYS_getdents64,
    SYS_readlinkat,
    SYS_faccessat,
    SYS_faccessat2,
    SYS_unlinkat,
    SYS_getcwd,
    SYS_pipe2,
    SYS_fadvise64,
];

const ABOUT_ITSELF: &[Number] = &[
    SYS_getpid,
    SYS_getppid,
    SYS_getuid,
    SYS_geteuid,
    SYS_getgid,
    SYS_getegid,
    SYS_getgroups,
    SYS_getrandom,
    SYS_uname,
    SYS_sysinfo,
    SYS_getrusage,
    SYS_times,
    SYS_capget,
];

#[cfg(target_arch = "x86_64")]
const OLDER: &[Number] = &[
    SYS_open,
    SYS_stat,
    SYS_lstat,
    SYS_access,
    SYS_readlink,
    SYS_unlink,
    SYS_poll,
    SYS_select,
    SYS_epoll_wait,
    SYS_epoll_create,
    SYS_eventfd,
    SYS_pipe,
    SYS_dup2,
    SYS_getdents,
    SYS_time,
    SYS_getrlimit,
    SYS_arch_prctl,
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[Number] = &[];

/// Connecting is for telling systemd something; without `$NOTIFY_SOCKET` nobody connects.
pub(super) const NOTIFYING: &[Number] = &[SYS_connect];

/// Calls that no path through the daemon makes, and that whoever took it over would: they end the
/// process. No request leads to one, whatever its bytes, so no client can bring that about.
pub(super) const DEADLY: &[&[Number]] = &[PROCESSES, PLACES, KERNEL, IDENTITY, DEADLY_OLDER];

/// To become another program, and to reach into others.
const PROCESSES: &[Number] = &[
    SYS_execve,
    SYS_execveat,
    SYS_ptrace,
    SYS_process_vm_readv,
    SYS_process_vm_writev,
    SYS_process_madvise,
    SYS_pidfd_getfd,
    SYS_kcmp,
    SYS_userfaultfd,
    SYS_perf_event_open,
];

/// To change what paths mean, and to go by other ways than paths.
const PLACES: &[Number] = &[
    SYS_mount,
    SYS_umount2,
    SYS_pivot_root,
    SYS_chroot,
    SYS_fsopen,
    SYS_fsconfig,
    SYS_fsmount,
    SYS_fspick,
    SYS_open_tree,
    SYS_move_mount,
    SYS_mount_setattr,
    SYS_setns,
    SYS_unshare,
    SYS_open_by_handle_at,
    SYS_swapon,
    SYS_swapoff,
    SYS_quotactl,
    SYS_acct,
];

/// To run code in the kernel, or ask it by ways that no filter sees.
const KERNEL: &[Number] = &[
    SYS_bpf,
    SYS_io_uring_setup,
    SYS_io_uring_enter,
    SYS_io_uring_register,
    SYS_init_module,
    SYS_finit_module,
    SYS_delete_module,
    SYS_kexec_load,
    SYS_reboot,
    SYS_syslog,
    SYS_add_key,
    SYS_request_key,
    SYS_keyctl,
    SYS_settimeofday,
    SYS_clock_settime,
    SYS_adjtimex,
    SYS_clock_adjtime,
    SYS_sethostname,
    SYS_setdomainname,
    SYS_personality,
];

/// To be somebody else.
const IDENTITY: &[Number] = &[
    SYS_setuid,
    SYS_setgid,
    SYS_setreuid,
    SYS_setregid,
    SYS_setresuid,
    SYS_setresgid,
    SYS_setfsuid,
    SYS_setfsgid,
    SYS_setgroups,
    SYS_capset,
];

#[cfg(target_arch = "x86_64")]
const DEADLY_OLDER: &[Number] =
    &[SYS_fork, SYS_vfork, SYS_iopl, SYS_ioperm, SYS_modify_ldt, SYS_kexec_file_load, SYS_uselib];
#[cfg(not(target_arch = "x86_64"))]
const DEADLY_OLDER: &[Number] = &[SYS_kexec_file_load];
