//! Control groups: which line of `/proc/PID/cgroup` counts, and what the path's names mean.

/// The path in the unified hierarchy; where that is not used, in systemd's own.
pub(super) fn path(text: &str) -> Option<&str> {
    let of = |hierarchy: &str| {
        text.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            (controllers == hierarchy && path.starts_with('/')).then_some(path)
        })
    };
    let unified = of("");
    match unified {
        // A hybrid machine has processes in the root of the hierarchy it does not use.
        None | Some("/") => of("name=systemd").or(unified),
        Some(path) => Some(path),
    }
}

/// The innermost service or scope of a path.
pub(super) fn unit(path: &str) -> Option<&str> {
    path.rsplit('/').find(|name| name.ends_with(".service") || name.ends_with(".scope"))
}

/// The container of a path, by the names that container engines give their groups: the id for
/// Docker, Podman, CRI-O and containerd, the name for LXC and systemd-nspawn. The outermost counts:
/// what is inside of it, the container named itself.
pub(super) fn container(path: &str) -> Option<&str> {
    path.split('/').find_map(|name| {
        let scope = name.strip_suffix(".scope").unwrap_or(name);
        let engines = ["docker-", "libpod-", "crio-", "cri-containerd-"];
        let id = engines.iter().find_map(|engine| scope.strip_prefix(engine)).unwrap_or(scope);
        if is_id(id) {
            return Some(id);
        }
        let lxc = name.strip_prefix("lxc.payload.").or_else(|| name.strip_prefix("machine-"));
        lxc.map(|name| name.strip_suffix(".scope").unwrap_or(name)).filter(|name| !name.is_empty())
    })
}

/// What Docker and those after it call a container.
fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn the_unified_hierarchy_counts_or_else_systemds() {
        let two = "1:name=systemd:/system.slice/a.service\n0::/user.slice/x:y.scope\n";
        assert_eq!(path(two), Some("/user.slice/x:y.scope"));
        let hybrid = "9:name=systemd:/system.slice/a.service\n8:pids:/\n0::/\n";
        assert_eq!(path(hybrid), Some("/system.slice/a.service"));
        assert_eq!(path("0::/\n"), Some("/"));
        for nothing in ["", "nonsense\n", "4:memory:/x\n", "0::\n"] {
            assert_eq!(path(nothing), None, "{nothing:?}");
        }
    }

    #[test]
    fn units_and_containers_are_told_from_their_groups() {
        for (text, unit_of, container_of) in [
            ("/system.slice/jellyfin.service", Some("jellyfin.service"), None),
            (
                "/user.slice/user-1.slice/user@1.service/app.slice/app-a.scope",
                Some("app-a.scope"),
                None,
            ),
            (&format!("/system.slice/docker-{ID}.scope"), Some("docker-"), Some(ID)),
            (&format!("/machine.slice/libpod-{ID}.scope/container"), Some("libpod-"), Some(ID)),
            (&format!("/docker/{ID}"), None, Some(ID)),
            (
                &format!("/kubepods.slice/cri-containerd-{ID}.scope"),
                Some("cri-containerd-"),
                Some(ID),
            ),
            (
                "/machine.slice/machine-debian.scope/payload",
                Some("machine-debian.scope"),
                Some("debian"),
            ),
            ("/lxc.payload.web/init.scope", Some("init.scope"), Some("web")),
            ("/", None, None),
        ] {
            let found = unit(text);
            assert!(
                match (found, unit_of) {
                    (Some(found), Some(begin)) => found.starts_with(begin),
                    (found, expected) => found == expected,
                },
                "{text}: {found:?}"
            );
            assert_eq!(container(text), container_of, "{text}");
        }
        let nested = format!("/docker/{ID}/docker-{}.scope", ID.replace('0', "f"));
        assert_eq!(container(&nested), Some(ID), "a container cannot pass for another");
    }
}
