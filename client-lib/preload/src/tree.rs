//! The device as files: `/dev/dri`, sysfs and debugfs, as a private directory of real files.
//!
//! Real, so that listing it, `openat` relative to a directory in it, `fstat` of what is open and
//! passing such fds around work without help, also by system calls that go past libc. One tree
//! serves all processes of a user that see the same device: its name is a hash of its content.
//! What programs write to it (parameters, engine properties) they read again, as in sysfs.

mod content;

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

pub(crate) use content::Entry;

/// Minor number of `card0`.
pub(crate) const PRIMARY: u32 = 0;
/// Minor number of `renderD128`.
pub(crate) const RENDER: u32 = 128;
/// The device's nodes.
const NODES: [(&str, u32); 2] = [("/dev/dri/card0", PRIMARY), ("/dev/dri/renderD128", RENDER)];

/// The tree, on disk.
#[derive(Debug)]
pub(crate) struct Tree {
    root: String,
    /// Device and inode of each node's file, and its minor.
    nodes: [(u64, u64, u32); 2],
}

static TREE: OnceLock<Tree> = OnceLock::new();
/// Drafts of a tree that this process has begun.
static DRAFTS: AtomicU32 = AtomicU32::new(0);

/// The tree, made at the first use. `None` while there is no broker: then there is no device.
pub(crate) fn get() -> Option<&'static Tree> {
    if let Some(tree) = TREE.get() {
        return Some(tree);
    }
    let connection = crate::node::connect().ok()?;
    let tree = Tree::make(&content::of(connection.hello())).ok()?;
    Some(TREE.get_or_init(|| tree))
}

/// The tree, if it was made already.
pub(crate) fn known() -> Option<&'static Tree> {
    TREE.get()
}

/// The minor of the node at this path.
pub(crate) fn minor_of(path: &str) -> Option<u32> {
    NODES.iter().find(|(node, _)| *node == path).map(|(_, minor)| *minor)
}

/// The path of a node.
pub(crate) fn path_of(minor: u32) -> &'static str {
    NODES.iter().find(|(_, known)| *known == minor).map_or("", |(path, _)| path)
}

impl Tree {
    pub(crate) fn root(&self) -> &str {
        &self.root
    }

    /// The node whose file this is.
    pub(crate) fn node(&self, device: u64, inode: u64) -> Option<u32> {
        let find =
            |(d, i, minor): &(u64, u64, u32)| (*d, *i) == (device, inode) && *minor <= RENDER;
        self.nodes.iter().find(|node| find(node)).map(|(_, _, minor)| *minor)
    }

    fn make(entries: &[(String, Entry)]) -> io::Result<Self> {
        let mut hasher = DefaultHasher::new();
        entries.hash(&mut hasher);
        let base = base()?;
        let root = base.join(format!("{:016x}", hasher.finish()));
        if !root.exists() {
            // Filled under another name first, so that nobody ever sees half of it: each thread its
            // own, because several may open the device at once.
            let number = DRAFTS.fetch_add(1, Ordering::Relaxed);
            let draft = base.join(format!("draft-{}-{number}", std::process::id()));
            let filled = fill(&draft, entries).and_then(|()| match fs::rename(&draft, &root) {
                Err(_) if root.exists() => Ok(()),
                other => other,
            });
            let _ = fs::remove_dir_all(&draft);
            filled?;
        }
        let mut nodes = [(0, 0, 0); 2];
        for (slot, (path, minor)) in nodes.iter_mut().zip(NODES) {
            let file = fs::symlink_metadata(format!("{}{path}", root.display()))?;
            *slot = (file.dev(), file.ino(), minor);
        }
        let root = root.into_os_string().into_string();
        Ok(Self { root: root.map_err(|_| io::ErrorKind::InvalidInput)?, nodes })
    }
}

/// A directory that only this user can have made and can change.
fn base() -> io::Result<PathBuf> {
    let user = rustix::process::geteuid().as_raw();
    let name = format!("gpu-broker-preload-{user}");
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").filter(|path| !path.is_empty());
    let places = runtime.map(PathBuf::from).into_iter().chain([std::env::temp_dir()]);
    let mut problem = io::Error::from(io::ErrorKind::NotFound);
    for place in places {
        let directory = place.join(&name);
        match fs::DirBuilder::new().mode(0o700).create(&directory) {
            Ok(()) => return Ok(directory),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let found = fs::symlink_metadata(&directory)?;
                if found.is_dir() && found.uid() == user && found.mode() & 0o022 == 0 {
                    return Ok(directory);
                }
            }
            Err(error) => problem = error,
        }
    }
    Err(problem)
}

fn fill(root: &Path, entries: &[(String, Entry)]) -> io::Result<()> {
    let _ = fs::remove_dir_all(root);
    fs::create_dir(root)?;
    for (path, entry) in entries {
        let place = root.join(path.trim_start_matches('/'));
        if let Some(parent) = place.parent() {
            fs::create_dir_all(parent)?;
        }
        match entry {
            Entry::Directory => fs::create_dir_all(place)?,
            Entry::Link(target) => symlink(target, place)?,
            Entry::File(content) => {
                fs::write(&place, content)?;
                fs::set_permissions(&place, fs::Permissions::from_mode(0o666))?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_that_need_the_tree_at_once_get_the_same() {
        let file = |path: &str| (path.to_owned(), Entry::File(Vec::new()));
        let mut entries: Vec<_> = NODES.iter().map(|(path, _)| file(path)).collect();
        // A tree of this test's own, and long enough to make.
        let files = (0..200).map(|at| file(&format!("/test/{}/{at}", std::process::id())));
        entries.extend(files);
        let roots: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| Tree::make(&entries))).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        let roots: Vec<_> = roots.into_iter().map(|tree| tree.expect("it is made").root).collect();
        assert!(roots.iter().all(|root| *root == roots[0]), "{roots:?}");
        fs::remove_dir_all(&roots[0]).expect("it is this test's");
    }
}
